"""One engine's metrics: observes steps, renders vLLM's page. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from simulator.config import EngineConfig
from simulator.engine import Engine
from simulator.exposition import Family, Histogram, Page, Scalar
from simulator.sequence import Sequence as Progress
from simulator.sequence import StepResult
from simulator.tokens import BLOCK_TOKENS
from simulator.vllm_metrics import (
    COUNTERS,
    GAUGES,
    HISTOGRAMS,
    LENGTH_HISTOGRAMS,
    LORA_INFO,
    NEWEST,
    NIXL_COUNTERS,
    NIXL_HISTOGRAMS,
    NO_ENGINE_LABEL,
    OLD_NAMES,
    REASONS_SINCE,
    RECOMPUTED,
    SPLITS,
    VERSIONS,
    cache_config,
    has,
    length_bounds,
)

_HTTP = ("http_requests_total", "counter", "Total number of requests by method, status and handler.")


@dataclass(frozen=True, slots=True, kw_only=True)
class PageOptions:
    """What the page of an engine is to show."""

    version: str = NEWEST
    """Of vLLM, one of :data:`simulator.vllm_metrics.VERSIONS`."""
    show_hidden: bool = False
    """Also the names that 0.11 hides."""
    ttft_bounds: tuple[float, ...] | None = None
    """Replace vLLM's bounds of the TTFT histogram (its ``--custom-histogram-buckets``)."""
    max_adapters: int | None = None
    """LoRA adapters in one batch; ``None``: LoRA is off."""
    transfers: bool = False
    """There is a KV connector."""
    nixl: bool = False
    """It is NIXL's, with metrics of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Sampling parameters of a request, told once for its ``n`` answers."""

    n: int
    max_tokens: int
    longest: int
    """Tokens of its longest answer."""


class EngineMetrics:
    """The page of one engine. The scheduler's counters are read when the page is, the rest is observed by step."""

    def __init__(
        self,
        model: str,
        config: EngineConfig,
        *,
        created_s: float,
        kv_bytes_per_token: int,
        options: PageOptions = PageOptions(),  # frozen
    ) -> None:
        """An empty page.

        Args:
            model: the served name.
            config: limits of the engine.
            created_s: Unix time of the engine's start.
            kv_bytes_per_token: for the cache's size in bytes.
            options: what to show.

        Raises: ValueError when bounds do not ascend, or the version is unknown.
        """
        if options.version not in VERSIONS:
            raise ValueError(f"no metrics page of vLLM {options.version}")
        self._options = options
        self._labels = {"engine": "0", "model_name": model}
        self._page = Page(created_s=created_s)
        self._scalars: dict[tuple[str, str], Scalar] = {}
        self._histograms: dict[str, Histogram] = {}
        self._copies: list[tuple[Scalar, str]] = []
        self._asked: dict[str, Asked | None] = {}
        self._add_families(config, kv_bytes_per_token)
        self._http_family = self._page.family(*_HTTP)
        self._http: dict[tuple[str, str, str], Scalar] = {}
        self._lora: Family | None = None
        self._loras: dict[tuple[str, str], Scalar] = {}
        if options.max_adapters is not None:
            self._lora = self._page.family(f"vllm:{LORA_INFO[0]}", "gauge", LORA_INFO[1])

    def _add_families(self, config: EngineConfig, kv_bytes_per_token: int) -> None:
        for names, kind in ((COUNTERS, "counter"), (GAUGES, "gauge")):
            for name, text in names.items():
                self._add_scalars(name, kind, text)
        self._scalars["engine_sleep_state", "awake"].value = 1.0
        self._add_histograms(config.max_model_len)
        if self._options.version == "0.16":
            self._add_scalars(RECOMPUTED[0], "counter", RECOMPUTED[1])
        if self._options.nixl:
            for name, text in NIXL_COUNTERS.items():
                self._add_scalars(name, "counter", text)
        self._add_old_names()
        self._page.family("vllm:cache_config_info", "gauge", "Information of the LLMEngine CacheConfig").scalar(
            cache_config(blocks=config.blocks, block_tokens=BLOCK_TOKENS, max_model_len=config.max_model_len,
                         bytes_per_token=kv_bytes_per_token), 1.0)  # fmt: skip

    def _family(self, name: str, kind: str, text: str) -> Family:
        """On the page if this version has it; one that nobody sees otherwise."""
        if has(name, self._options.version):
            return self._page.family(f"vllm:{name}", kind, text)
        return Page(created_s=0.0).family(f"vllm:{name}", kind, text)

    def _add_scalars(self, name: str, kind: str, text: str) -> None:
        family = self._family(name, kind, text)
        labels = dict(self._labels)
        if name in NO_ENGINE_LABEL:
            del labels["engine"]
        split, values = SPLITS.get(name, ("", ("",)))
        for value in values:
            seen = VERSIONS.index(REASONS_SINCE.get(value, VERSIONS[0])) <= VERSIONS.index(self._options.version)
            made = family if name != "request_success_total" or seen else self._hidden(name, kind, text)
            self._scalars[name, value] = made.scalar({**labels, split: value} if split else labels)

    def _hidden(self, name: str, kind: str, text: str) -> Family:
        return Page(created_s=0.0).family(f"vllm:{name}", kind, text)

    def _add_histograms(self, max_model_len: int) -> None:
        lengths = length_bounds(max_model_len)
        wanted = {name: (text, lengths) for name, text in LENGTH_HISTOGRAMS.items()} | HISTOGRAMS
        if self._options.nixl:
            wanted |= NIXL_HISTOGRAMS
        ttft = self._options.ttft_bounds
        for name, (text, bounds) in wanted.items():
            used = ttft if ttft is not None and name == "time_to_first_token_seconds" else bounds
            self._histograms[name] = self._family(name, "histogram", text).histogram(self._labels, used)

    def _add_old_names(self) -> None:
        for old, (version, name, text, hidden) in OLD_NAMES.items():
            if version != self._options.version or (hidden and not self._options.show_hidden):
                continue
            if name in self._histograms:
                family = self._page.family(f"vllm:{old}", "histogram", text)
                family.mirror(self._histograms[name], self._labels)
            else:
                kind = "counter" if old.endswith("_total") else "gauge"
                self._copies.append((self._page.family(f"vllm:{old}", kind, text).scalar(self._labels), name))

    def expect(self, request_id: str, asked: Asked | None) -> None:
        """What to count when that sequence finishes; ``None``: another answer of the request tells."""
        self._asked[request_id] = asked

    def forget(self, request_id: str) -> None:
        """It will not finish."""
        self._asked.pop(request_id, None)

    def on_step(self, result: StepResult) -> None:
        """Count a finished step, or a leap over several (as if each had taken the mean)."""
        observe = self._histograms
        observe["iteration_tokens_total"].observe(result.prefill_tokens + result.decoding, result.steps)
        if result.decoding:
            itl_s = result.duration_s / result.steps
            observe["inter_token_latency_seconds"].observe(itl_s, result.steps * result.decoding)
        for gap_s in result.gaps_s:
            observe["inter_token_latency_seconds"].observe(gap_s)
        for sequence in result.first:
            if sequence.first_token_s == result.end_s:
                observe["time_to_first_token_seconds"].observe(result.end_s - sequence.arrival_s)
        for sequence in result.finished:
            self._on_finish(sequence)

    def _on_finish(self, sequence: Progress) -> None:
        scheduled_s, first_s = sequence.scheduled_s, sequence.first_token_s
        last_s, delivered_s = sequence.last_token_s, sequence.delivered_s
        if scheduled_s is None or first_s is None or last_s is None or delivered_s is None:
            raise ValueError(f"request {sequence.request.request_id!r} has not finished")
        request, output = sequence.request, sequence.request.output_tokens
        asked = self._asked.pop(request.request_id, Asked(n=1, max_tokens=output, longest=output))
        if asked is not None:
            self._histograms["request_params_n"].observe(asked.n)
            self._histograms["request_max_num_generation_tokens"].observe(asked.longest)
        values = {
            "request_prompt_tokens": request.prompt_tokens,
            "request_generation_tokens": output,
            "request_params_max_tokens": output if asked is None else asked.max_tokens,
            "request_prefill_kv_computed_tokens": request.prompt_tokens - sequence.cached_tokens,
            "request_num_preemptions": sequence.preemptions,
            "e2e_request_latency_seconds": delivered_s - sequence.arrival_s,
            "request_queue_time_seconds": scheduled_s - sequence.queued_s,
            "request_inference_time_seconds": last_s - scheduled_s,
            "request_prefill_time_seconds": first_s - scheduled_s,
            "request_decode_time_seconds": last_s - first_s,
        }
        for name, value in values.items():
            self._histograms[name].observe(value)
        if output > 1:
            self._histograms["request_time_per_output_token_seconds"].observe((last_s - first_s) / (output - 1))

    def finished(self, reason: str) -> None:
        """Count the end of a request: ``length``, ``stop``, ``abort`` or ``error``."""
        self._scalars["request_success_total", reason].value += 1.0

    def on_http(self, handler: str, method: str, status: int) -> None:
        """Count one answered HTTP request; ``handler`` is the route, ``none`` where there is none."""
        key = (handler, method, f"{status // 100}xx")
        if key not in self._http:
            labels = dict(zip(("handler", "method", "status"), key, strict=True))
            self._http[key] = self._http_family.scalar(labels)
        self._http[key].value += 1.0

    def fell_asleep(self, level: int | None) -> None:
        """Show the sleep level; ``None``: awake."""
        states = {"awake": level is None, "weights_offloaded": level == 1, "discard_all": level == 2}
        for state, value in states.items():
            self._scalars["engine_sleep_state", state].value = float(value)

    def show_adapters(self, running: Iterable[str], waiting: Iterable[str], *, unix_s: float) -> None:
        """LoRA adapters at work and waited for; former states stay on the page with their time, as in vLLM."""
        if self._lora is None:
            return
        key = (",".join(sorted(running)), ",".join(sorted(waiting)))
        if key not in self._loras:
            labels = {"max_lora": str(self._options.max_adapters), "running_lora_adapters": key[0],
                      "waiting_lora_adapters": key[1]}  # fmt: skip
            self._loras[key] = self._lora.scalar(labels)
        self._loras[key].value = unix_s

    def transferred(self, *, seconds: float, size: int) -> None:
        """KV of ``size`` bytes came from another engine."""
        if self._options.nixl:
            self._histograms["nixl_xfer_time_seconds"].observe(seconds)
            self._histograms["nixl_bytes_transferred"].observe(size)

    def transfer_failed(self) -> None:
        """KV was asked for and did not come."""
        if self._options.nixl:
            self._scalars["nixl_num_failed_transfers_total", ""].value += 1.0

    def lease_expired(self) -> None:
        """KV was kept for another engine in vain."""
        if self._options.nixl:
            self._scalars["nixl_num_kv_expired_reqs_total", ""].value += 1.0

    def render(self, engine: Engine, now_s: float) -> bytes:
        """The page at ``now_s`` of the engine's time."""
        counters, waiting, external = engine.counters, engine.waiting(now_s), engine.counters.external_hits
        local = max(0, counters.cached_tokens - external)
        tier = "p2p" if self._options.transfers else "host"
        values = {
            ("num_requests_running", ""): engine.running,
            ("num_requests_waiting", ""): waiting,
            ("num_requests_waiting_by_reason", "capacity"): waiting - engine.loading,
            ("num_requests_waiting_by_reason", "deferred"): engine.loading,
            ("kv_cache_usage_perc", ""): engine.kv.usage,
            ("prefix_cache_queries_total", ""): counters.prefix_queries,
            ("prefix_cache_hits_total", ""): counters.prefix_hits,
            ("external_prefix_cache_queries_total", ""): external,
            ("external_prefix_cache_hits_total", ""): external,
            ("num_preemptions_total", ""): counters.preemptions,
            ("prompt_tokens_total", ""): counters.prompt_tokens,
            ("prompt_tokens_by_source_total", "local_compute"): counters.prompt_tokens - counters.cached_tokens,
            ("prompt_tokens_by_source_total", "local_cache_hit"): local,
            ("prompt_tokens_by_source_total", "external_kv_transfer"): external,
            ("prompt_tokens_cached_total", ""): counters.cached_tokens,
            ("prompt_tokens_cached_by_source_total", "device"): counters.prefix_hits,
            ("prompt_tokens_cached_by_source_total", tier): external,
            ("generation_tokens_total", ""): counters.generation_tokens,
        }
        for key, value in values.items():
            self._scalars[key].value = float(value)
        for copy, name in self._copies:
            copy.value = self._scalars[name, ""].value
        return self._page.render()
