"""The field's words as frozen records. Pure: no I/O, no clock, no environment.

Units are in the names: ``_s`` seconds, ``_ms`` milliseconds, ``_rps`` requests per second, ``_tps`` tokens per
second; ratios are 0..1. ``None`` always means "not known", never "zero".
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field


class Role(enum.StrEnum):
    """What an engine does for a request."""

    PREFILL = "prefill"
    DECODE = "decode"
    BOTH = "both"


class ReplicaState(enum.StrEnum):
    """Life of a replica as the platform reports it."""

    STARTING = "starting"
    READY = "ready"
    STOPPING = "stopping"
    FAILED = "failed"


class Direction(enum.StrEnum):
    """Which way a decision moves a variant."""

    UP = "up"
    DOWN = "down"
    HOLD = "hold"


class Reason(enum.StrEnum):
    """Why wva decided as it did: a closed set, used as a metric label."""

    SATURATED = "saturated"
    """Saturation is above the scale-up threshold."""
    IDLE = "idle"
    """Saturation is below the scale-down threshold, and stays so with one replica fewer."""
    STEADY = "steady"
    """Saturation is between the thresholds."""
    STABILISING = "stabilising"
    """A change is wanted, but the stabilisation window has not passed."""
    PENDING = "pending"
    """Replicas asked for earlier are still starting."""
    AT_MAX = "at_max"
    AT_MIN = "at_min"
    BELOW_MIN = "below_min"
    """Fewer replicas than the minimum run: raise to the minimum, signals or not."""
    ABOVE_MAX = "above_max"
    STALE = "stale_metrics"
    """The newest sample is older than the limit: hold."""
    NO_SIGNAL = "no_signal"
    """No endpoint of the variant reports: hold."""
    OTHER_VARIANT = "other_variant"
    """A cheaper or a dearer variant of the same model takes the change."""
    NO_HEADROOM = "no_headroom"
    """Idle, but the replicas that remain would be saturated by the load they inherit."""
    DEMAND = "demand"
    """The present demand and its backlog need other replicas than there are."""
    FORECAST = "forecast"
    """The demand expected by the time that a replica could be ready needs other replicas than there are."""
    WAKE = "wake"
    """Requests wait for a model without replicas: its cheapest variant starts one."""
    UNUSED = "unused"
    """No request for the whole retention period: scaled to zero."""
    NO_GPU = "no_gpu"
    """More replicas are wanted than the GPU inventory, a quota or the model's share of them allows."""
    FLAPPING = "flapping"
    """The variant changed direction too often: decreases wait longer."""
    PAUSED = "paused"
    """An operator holds the variant where it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantSpec:
    """One way of serving a model: a scale target with its accelerator, role and cost."""

    name: str
    model: str
    accelerator: str
    """GPU product as in :mod:`fleet.hardware`, for example ``h100_sxm``."""
    namespace: str = "default"
    accelerator_count: int = 1
    """GPUs of one replica (tensor x pipeline parallelism)."""
    role: Role = Role.BOTH
    cost_per_hour: float = 10.0
    """US dollars for one replica and hour; 10.0 is upstream's default variant cost."""
    min_replicas: int = 1
    max_replicas: int = 10
    saturation_threshold: float = 0.8
    scale_down_threshold: float = 0.3
    slo_ttft_s: float | None = None
    """Target for the time to first token of this variant; ``None``: its model's in the SLO file."""
    slo_tpot_s: float | None = None
    """Target for the time per output token after the first; ``None``: its model's in the SLO file."""
    slo_objective: float | None = None
    """Share of requests that are to meet both, in 0..1; ``None``: its model's in the SLO file."""
    priority: float = 1.0
    """Of its model when GPUs are short: a model with twice the priority gets twice the share; > 0."""
    startup_s: float | None = None
    """Time from request to ready as the platform tells it; ``None``: the policy's. Starts seen correct either."""
    retention_s: float | None = None
    """With ``min_replicas`` 0: seconds without a request until the model goes to zero; ``None``: the policy's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """One running (or starting, or stopping) copy of a variant."""

    name: str
    url: str
    """Base URL of its engine, without a trailing slash: ``http://127.0.0.1:9100``."""
    variant: str
    state: ReplicaState = ReplicaState.READY
    since_s: float = 0.0
    """Unix time at which it entered this state."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Labels of its pod, or those that a file gives it."""
    created_s: float = 0.0
    """Unix time at which it was asked for (a pod's creation); 0: not known. Ready ``since_s`` less it: lead time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """A variant's spec beside what the platform was asked for and what it runs."""

    spec: VariantSpec
    requested: int
    """Replicas the platform was last asked for."""
    replicas: tuple[Replica, ...] = ()

    def count(self, state: ReplicaState) -> int:
        """Replicas in ``state``."""
        return sum(replica.state is state for replica in self.replicas)


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """Observations by bucket since a start; counts are totals, each bucket on its own (not cumulated)."""

    bounds: tuple[float, ...]
    """Upper bounds of the finite buckets, ascending; seconds."""
    counts: tuple[float, ...]
    """One more than ``bounds``: the last is what is above all of them."""
    sum_s: float | None = None
    """Sum of all observations."""

    @property
    def count(self) -> float:
        """Observations."""
        return sum(self.counts)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelTraffic:
    """One model's requests as its router (or, without one, all of its engines together) counts them.

    Totals are monotone: a reader takes differences between two snapshots. Where a source only tells increases over a
    window (PromQL ``increase``), the collector adds them up. A fall means a restart; the difference is then not known.
    """

    at_s: float
    """Unix time of the reading."""
    arrived_total: float | None = None
    """Requests received, refused ones left out. From engines: finished plus in flight (running and waiting)."""
    finished_total: float | None = None
    """Requests answered, well or not."""
    prompt_tokens_total: float | None = None
    """Prompt tokens of the requests in ``arrived_total``; from engines: of the prompts computed."""
    generation_tokens_total: float | None = None
    """Answer tokens of the requests in ``finished_total``; from engines: generated so far."""
    in_flight: float | None = None
    """Requests received and not answered: queued at the router, waiting and running in engines."""
    queued: float | None = None
    """Of those, held at the router (its flow-control queue); equal to the snapshot's ``router_queue``."""
    ttft: Histogram | None = None
    """Time to first token of requests, as near to the client as it is measured."""
    tpot: Histogram | None = None
    """Mean time per output token after the first, by request; from engines without it: inter-token latencies."""
    e2e: Histogram | None = None
    """Time from arrival to the last token."""
    source: str = "router"
    """``router`` or ``engines``."""
    asked_s: float | None = None
    """When it was asked for, by the clock of ``at_s``, where that is not the reader's own (a Prometheus's)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuInventory:
    """GPUs that may be used; what is not named is not limited."""

    gpus: Mapping[str, int] = field(default_factory=dict)
    """GPUs of each accelerator that exist (used ones included), by the name that specs use."""
    quotas: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """By namespace: GPUs of each accelerator that it may use; ``*`` as accelerator: of all kinds together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSample:
    """What one engine's metrics page said at one time; counters are as read (monotonic totals)."""

    at_s: float
    waiting: float | None = None
    running: float | None = None
    kv_utilisation: float | None = None
    """0..1 of the KV-cache blocks."""
    kv_capacity_tokens: float | None = None
    """num_gpu_blocks * block_size from ``vllm:cache_config_info``."""
    prompt_tokens_total: float | None = None
    generation_tokens_total: float | None = None
    prefix_hits_total: float | None = None
    """Tokens found in the prefix cache."""
    prefix_queries_total: float | None = None
    preemptions_total: float | None = None
    requests_total: float | None = None
    """Finished requests, any finish reason."""
    adapters: frozenset[str] = frozenset()
    """LoRA adapters that it runs or has waiting requests for."""
    adapter_slots: int | None = None
    """LoRA adapters that it can hold at once (``max_lora``)."""
    ttft_sum_s: float | None = None
    """``vllm:time_to_first_token_seconds_sum``; its ``_count`` is below."""
    ttft_count: float | None = None
    itl_sum_s: float | None = None
    """Sum of inter-token latencies (time per output token where an engine has only that)."""
    itl_count: float | None = None
    e2e_sum_s: float | None = None
    """Sum of end-to-end latencies of finished requests."""
    e2e_count: float | None = None
    max_running: float | None = None
    """Most sequences that run at once (``max_num_seqs``), where the engine says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaObservation:
    """A replica with its newest engine sample and with rates over the collection window."""

    replica: Replica
    sample: EngineSample | None = None
    generation_tps: float | None = None
    prompt_tps: float | None = None
    request_rps: float | None = None
    prefix_hit_ratio: float | None = None
    """Share of the prompt tokens of the window that the prefix cache held."""
    age_s: float | None = None
    """Age of ``sample`` at the snapshot's time; ``None`` when never scraped."""
    still_s: float | None = None
    """How long before ``sample`` it last computed a token, as far as it was watched; ``None`` where counters do not
    tell. Only with requests under way in ``sample`` does it mean anything."""
    gpu_active: float | None = None
    """0..1, of its busiest GPU, where DCGM tells."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantObservation:
    """One variant inside a :class:`FleetSnapshot`."""

    spec: VariantSpec
    requested: int
    replicas: tuple[ReplicaObservation, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedLaw:
    """What a variant's own requests taught of one engine step (the predictor's fit), and how far to believe it.

    Seconds of a step with ``B`` sequences, ``K`` tokens of context and ``P`` prompt tokens in it:
    ``step + request * B + context_token * K + prompt_token * P``.
    """

    step_s: float
    request_s: float
    """For each running sequence, the prompts that it brings along in the long run included."""
    context_token_s: float
    prompt_token_s: float
    prompt_square_s: float
    """For each computed prompt token times the prompt's length."""
    uncached_tokens: float
    """Mean computed prompt tokens of the requests behind it: how much of ``request_s`` is prompts."""
    output_tokens: float
    """Their mean answer."""
    rows: int
    """Requests of this variant behind it."""
    error: float
    """Mean relative error on requests newer than those it was fitted on; the worse of TTFT and TPOT."""
    in_flight_most: float
    """Most requests in flight at an endpoint that any of them met."""
    fitted_at_s: float
    """Unix time of the fit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetSnapshot:
    """Everything wva knows at one time: the sole input of a decision beside specs, state and the clock."""

    at_s: float
    variants: tuple[VariantObservation, ...]
    router_queue: Mapping[str, float] = field(default_factory=dict)
    """Requests waiting at the router, by model."""
    router_age_s: float | None = None
    """Age of ``router_queue``, of its oldest part; ``None`` where no router is read."""
    router_ages_s: Mapping[str, float] = field(default_factory=dict)
    """Its age by model where the source tells each model's own; empty: ``router_age_s`` is that of all."""
    source: str = ""
    """Where it was read ("scrape", a Prometheus URL, a file)."""
    traffic: Mapping[str, ModelTraffic] = field(default_factory=dict)
    """Arrivals and latencies by model; a model that is not named is judged by its engines' samples alone."""
    traffic_ahead_s: Mapping[str, float] = field(default_factory=dict)
    """By model: the clock of ``traffic``'s times less that of ``at_s``; the same where a model is not named."""
    inventory: GpuInventory | None = None
    """``None``: GPUs are not limited, or not known."""
    fitted: Mapping[str, FittedLaw] = field(default_factory=dict)
    """By variant: the predictor's newest fit, where one is read."""

    def traffic_age_of(self, model: str, now_s: float) -> float | None:
        """Age of a model's counts at ``now_s``, seconds by the clock that told them; ``None`` where there are none."""
        told = self.traffic.get(model)
        return None if told is None else max(now_s + self.traffic_ahead_s.get(model, 0.0) - told.at_s, 0.0)

    def router_age_of(self, model: str) -> float | None:
        """Age of a model's queue at the router, seconds; ``None`` where no router is known to hold its requests."""
        return self.router_ages_s.get(model) if self.router_ages_s else self.router_age_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What wva wants for one variant, and why."""

    at_s: float
    variant: str
    namespace: str
    model: str
    accelerator: str
    current: int
    """Replicas ready at the snapshot."""
    desired: int
    direction: Direction
    reason: Reason
    detail: str
    """One sentence with the numbers."""
    saturation: float | None = None
    signals: Mapping[str, float | None] = field(default_factory=dict)
    """Inputs by name (kv_utilisation, queue_ratio, ages ...), for explain and the console."""
