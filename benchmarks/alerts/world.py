"""A fleet of two models as the metrics pages that its parts would show, step by step in virtual time. Pure.

A fluid model: requests arrive at a diurnal rate, each pod serves at its speed, what is left waits. It is no simulator
of an engine (``simulator`` is), only a source of consistent pages: queues, latencies, errors, tokens and GPU activity
follow from one another, so a fault shows everywhere that it would.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, field

from alerts.ingest import Target
from fleet.sources.exposition import Point

STEP_S = 30.0
DAY_S = 86_400.0
PODS = 3
CAPACITY_RPS = 4.0
OUTPUT_TOKENS = 1_500.0
TIMEOUT_S = 60.0
NAMESPACE = "prod"
VARIANCE = (0.6, 0.75, 0.9, 1.0, 1.1, 1.25, 1.5)
"""Single requests around the mean, in equal shares."""
_TTFT = (0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.5, 2.0, 5.0, 10.0, 40.0, 160.0)
_TPOT = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.5, 1.0)
_SCHEDULING = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1)


@dataclass(slots=True)
class Histogram:
    """Cumulative buckets of one series."""

    bounds: tuple[float, ...]
    counts: list[float] = field(default_factory=list)
    total: float = 0.0
    sum: float = 0.0

    def observe(self, mean: float, requests: float) -> None:
        """``requests`` values around ``mean``."""
        self.counts = self.counts or [0.0] * len(self.bounds)
        for factor in VARIANCE:
            share = requests / len(VARIANCE)
            self.total, self.sum = self.total + share, self.sum + share * mean * factor
            for index, bound in enumerate(self.bounds):
                self.counts[index] += share * (mean * factor <= bound)

    def points(self, name: str, labels: dict[str, str]) -> Iterator[Point]:
        """The series of a page."""
        for bound, count in zip(self.bounds, self.counts, strict=False):
            yield Point(f"{name}_bucket", count, {**labels, "le": str(bound)})
        yield Point(f"{name}_bucket", self.total, {**labels, "le": "+Inf"})
        yield Point(f"{name}_count", self.total, labels)
        yield Point(f"{name}_sum", self.sum, labels)


@dataclass(slots=True)
class Pod:
    """One engine: what a fault may change first, then its state."""

    model: str
    index: int
    speed: float = 1.0
    failing: float = 0.0
    """Share of its answers that are server errors."""
    kv: float | None = None
    held_back: float = 0.0
    """Requests that wait although the engine is not busy: no cache block is free."""
    answers: bool = True
    """Its metrics page."""
    exists: bool = True
    crashing: bool = False
    queue: float = 0.0
    load: float = 0.0
    finished: float = 0.0
    errors: float = 0.0
    tokens: float = 0.0
    prompt: float = 0.0
    hits: float = 0.0
    preempted: float = 0.0
    xid: float = 0.0
    tpot: Histogram = field(default_factory=lambda: Histogram(_TPOT))

    @property
    def name(self) -> str:
        """Its pod."""
        return f"{self.model}-{self.index}"

    def page(self) -> list[Point]:
        """Its vLLM metrics."""
        at = {"model_name": self.model, "engine": "0"}
        waiting, running = self.queue + self.held_back, min(self.load, 1.0) * 30
        kv = self.kv if self.kv is not None else 0.2 + 0.5 * min(self.load, 1.0)
        values = {
            "num_requests_waiting": waiting, "num_requests_running": running, "kv_cache_usage_perc": kv,
            "num_preemptions_total": self.preempted, "generation_tokens_total": self.tokens,
            "prefix_cache_queries_total": self.prompt, "prefix_cache_hits_total": self.hits,
        }  # fmt: skip
        found = [Point(f"vllm:{name}", value, at) for name, value in values.items()]
        found.append(Point("vllm:num_requests_waiting_by_reason", waiting, {**at, "reason": "capacity"}))
        found.append(Point("vllm:request_success_total", self.finished, {**at, "finished_reason": "stop"}))
        for status, count in (("2xx", self.finished), ("5xx", self.errors)):
            found.append(Point("http_requests_total", count, {"handler": "/v1/completions", "status": status}))
        return [*found, *self.tpot.points("vllm:request_time_per_output_token_seconds", at)]


@dataclass(slots=True)
class Served:
    """What the router counts of one model."""

    requests: float = 0.0
    errors: float = 0.0
    shed: float = 0.0
    input_sum: float = 0.0
    ttft: Histogram = field(default_factory=lambda: Histogram(_TTFT))
    tpot: Histogram = field(default_factory=lambda: Histogram(_TPOT))


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What differs from seed to seed: the load's level, swing and time of day, and where and how hard a fault hits."""

    mean_load: float = 0.45
    swing: float = 0.2
    """Of the diurnal load around its mean, in the same unit (share of the capacity)."""
    noise: float = 0.1
    phase_s: float = 0.0
    """Time of day at which the run begins, seconds."""
    hardness: float = 0.5
    """0: the mildest form of each fault, 1: the hardest."""
    pod: int = 0
    """Which pod of the model is hit."""

    @classmethod
    def drawn(cls, seed: int) -> Shape:
        """The shape of a seed; that of seed 1 is the middle. Two of three pods carry the crest of every drawn load."""
        if seed == 1:
            return cls()
        draw = random.Random(seed * 7919)
        return cls(mean_load=draw.uniform(0.3, 0.42), swing=draw.uniform(0.05, 0.18), noise=draw.uniform(0.05, 0.2),
                   phase_s=draw.uniform(0, DAY_S), hardness=draw.random(), pod=draw.randrange(PODS))  # fmt: skip

    def between(self, mild: float, hard: float) -> float:
        """A magnitude on the way from its mildest to its hardest."""
        return mild + (hard - mild) * self.hardness


@dataclass(slots=True)
class World:
    """Everything, with the knobs that faults turn."""

    seed: int
    day_s: float = DAY_S
    surge: dict[str, float] = field(default_factory=dict)
    hit_ratio: dict[str, float] = field(default_factory=dict)
    prompt_tokens: float = 1_000.0
    scheduling_s: float = 0.003
    router_up: bool = True
    link_share: float = 0.2
    at_max: str = ""
    fit_fails: bool = False
    now_s: float = 0.0
    fits_failed: float = 0.0
    sent: float = 0.0
    models: tuple[str, ...] = ("llama", "qwen")
    pods: list[Pod] = field(default_factory=list)
    served: dict[str, Served] = field(default_factory=dict)
    scheduling: Histogram = field(default_factory=lambda: Histogram(_SCHEDULING))
    pods_each: int = PODS
    step_s: float = STEP_S
    """How long one step lasts, seconds."""
    shape: Shape = field(default_factory=Shape)
    random: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.pods = [Pod(model, index) for model in self.models for index in range(self.pods_each)]
        self.served = {model: Served() for model in self.models}

    def pod(self, model: str, index: int = 0) -> Pod:
        """One pod of a model."""
        return next(pod for pod in self.pods if (pod.model, pod.index) == (model, index))

    def hit(self) -> Pod:
        """The pod that a fault hits."""
        return self.pod(self.models[0], self.shape.pod)

    @property
    def load_now(self) -> float:
        """Share of the capacity that the day asks for now, without a surge."""
        day = math.sin(2 * math.pi * (self.now_s + self.shape.phase_s) / self.day_s)
        return self.shape.mean_load + self.shape.swing * day

    def step(self, now_s: float) -> None:
        """Live through the ``step_s`` that end now."""
        self.now_s = now_s
        for model in self.models:
            self._serve(model)
        self.sent += self.link_share * 50e9 * self.step_s
        self.fits_failed += self.step_s / 120 if self.fit_fails else 0.0

    def _arrivals(self, model: str) -> float:
        """Requests per second."""
        load, noise = self.load_now * self.surge.get(model, 1.0), self.shape.noise
        return self.pods_each * CAPACITY_RPS * load * self.random.uniform(1 - noise, 1 + noise)

    def _serve(self, model: str) -> None:
        arrivals, counts = self._arrivals(model) * self.step_s, self.served[model]
        if not self.router_up:
            arrivals = 0.0
        counts.requests += arrivals
        counts.input_sum += arrivals * self.prompt_tokens
        self.scheduling.observe(self.scheduling_s, arrivals)
        pods = [pod for pod in self.pods if pod.model == model and pod.exists and not pod.crashing]
        if not pods:
            counts.shed, counts.errors = counts.shed + arrivals, counts.errors + arrivals
        for pod in pods:
            self._advance(pod, arrivals / len(pods), counts)

    def _advance(self, pod: Pod, arrivals: float, counts: Served) -> None:
        able = CAPACITY_RPS * pod.speed * self.step_s
        done = min(pod.queue + arrivals, able)
        left = pod.queue + arrivals - done
        patient = max(CAPACITY_RPS * pod.speed, arrivals / self.step_s) * TIMEOUT_S
        timed_out, pod.queue = max(0.0, left - patient), min(left, patient)
        failed = done * pod.failing
        pod.load = arrivals / able if able else 1.0
        pod.errors, counts.errors = pod.errors + failed, counts.errors + failed + timed_out
        self._count(pod, done - failed, counts)

    def _count(self, pod: Pod, done: float, counts: Served) -> None:
        hit, load = self.hit_ratio.get(pod.model, 0.6), min(pod.load, 0.95)
        pod.finished, pod.tokens = pod.finished + done, pod.tokens + done * OUTPUT_TOKENS
        pod.prompt, pod.hits = pod.prompt + done * self.prompt_tokens, pod.hits + done * self.prompt_tokens * hit
        pod.preempted += self.step_s / 10 if pod.held_back else 0.0
        if not pod.speed:
            return
        prefill_s = 0.04 * (1 - hit) / 0.4 * self.prompt_tokens / 1_000 / pod.speed
        waits_s = (pod.queue + pod.held_back) / (CAPACITY_RPS * pod.speed) + 0.01 * load / (1 - load)
        token_s = 0.03 / pod.speed * (1 + 0.5 * load)
        counts.ttft.observe(prefill_s + waits_s + self.scheduling_s, done)
        counts.tpot.observe(token_s, done)
        pod.tpot.observe(token_s, done)

    def pages(self) -> Iterator[tuple[Target, list[Point] | None]]:
        """All targets with what they answer now; ``None``: no answer."""
        for pod in self.pods:
            if pod.exists:
                labels = {"pod": pod.name, "namespace": NAMESPACE}
                target = Target(job="vllm", url=f"http://{pod.name}:8000", labels=labels)
                yield target, pod.page() if pod.answers and not pod.crashing else None
        home = {"namespace": NAMESPACE}
        yield (
            Target(job="fleet-router", url="http://router:8081", labels=home),
            (list(self._router()) if self.router_up else None),
        )
        yield Target(job="fleet-wva", url="http://wva:8070", labels=home), list(self._wva())
        yield Target(job="fleet-predictor", url="http://predictor:8090", labels=home), list(self._predictor())
        yield Target(job="exporters", url="http://node:9"), list(self._cluster())

    def _router(self) -> Iterator[Point]:
        for model, counts in self.served.items():
            at = {"model_name": model, "target_model_name": model}
            yield Point("llm_d_epp_request_total", counts.requests, at)
            yield Point("llm_d_epp_request_input_tokens_sum", counts.input_sum, at)
            yield Point("llm_d_epp_request_input_tokens_count", counts.requests, at)
            if counts.errors:
                yield Point("llm_d_epp_request_error_total", counts.errors, {**at, "error_code": "503"})
            if counts.shed:
                yield Point("fleet_router_shed_total", counts.shed, {"model_name": model, "reason": "no_ready"})
            yield from counts.ttft.points("llm_d_epp_request_ttft_seconds", {**at, "streaming": "true"})
            yield from counts.tpot.points("llm_d_epp_request_streaming_tpot_seconds", at)
        yield from self.scheduling.points("llm_d_epp_scheduler_e2e_duration_seconds", {})

    def _wva(self) -> Iterator[Point]:
        yield Point("fleet_wva_last_pass_timestamp_seconds", self.now_s, {})
        for model in self.models:
            pods = [pod for pod in self.pods if pod.model == model]
            ready = float(sum(pod.exists and not pod.crashing for pod in pods))
            at = {"variant_name": f"{model}-h100", "accelerator_type": "h100", "namespace": NAMESPACE}
            load = max((min(pod.load, 1.0) for pod in pods if pod.exists), default=0.0)
            yield Point("wva_desired_replicas", float(self.pods_each), at)
            yield Point("wva_current_replicas", ready, at)
            yield Point("wva_saturation_utilization", load, {**at, "model_name": model})
            yield Point("fleet_wva_at_max", float(model == self.at_max), at)
            blind = any(not pod.answers for pod in pods)
            for status, holds in (("fresh", not blind), ("stale", blind)):
                yield Point("wva_metrics_freshness_status", float(holds), {**at, "status": status})

    def _predictor(self) -> Iterator[Point]:
        yield Point("fleet_predictor_cold", 0.0, {})
        yield Point("fleet_predictor_fit_failures_total", self.fits_failed, {})
        yield Point("fleet_predictor_error_ratio", 0.2, {"target": "ttft"})
        yield Point("fleet_predictor_samples", 5_000.0, {"target": "ttft"})

    def _cluster(self) -> Iterator[Point]:
        for pod in self.pods:
            if not pod.exists:
                continue
            at = {"namespace": NAMESPACE, "pod": pod.name}
            gpu = {**at, "gpu": "0", "Hostname": f"node-{pod.name}"}
            busy = 0.15 + 0.8 * min(pod.load, 1.0) if pod.speed and not pod.crashing else 0.01
            yield Point("DCGM_FI_PROF_GR_ENGINE_ACTIVE", busy, gpu)
            yield Point("DCGM_FI_DEV_XID_ERRORS", pod.xid, gpu)
            yield Point("DCGM_FI_DEV_ROW_REMAP_FAILURE", 0.0, gpu)
            yield Point("DCGM_FI_DEV_GPU_TEMP", 60.0 + 15 * busy, gpu)
            yield Point("kube_pod_status_unschedulable", 0.0, at)
            yield Point("kube_pod_status_ready", float(pod.crashing), {**at, "condition": "false"})
            yield Point("kube_pod_status_phase", 1.0, {**at, "phase": "Running"})
            if pod.crashing:
                waits = {**at, "reason": "CrashLoopBackOff"}
                yield Point("kube_pod_container_status_waiting_reason", 1.0, waits)
        link = {"device": "mlx5_0", "port": "1"}
        yield Point("node_infiniband_port_data_transmitted_bytes_total", self.sent, link)
        yield Point("node_infiniband_rate_bytes_per_second", 50e9, link)
        yield Point("node_infiniband_link_downed_total", 0.0, link)
