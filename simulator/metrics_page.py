"""One engine's metrics: observes steps, renders vLLM's page. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from simulator.config import EngineConfig
from simulator.engine import Engine
from simulator.exposition import Histogram, Page, Scalar
from simulator.sequence import Sequence as Progress
from simulator.sequence import StepResult
from simulator.tokens import BLOCK_TOKENS
from simulator.vllm_metrics import (
    COUNTERS,
    GAUGES,
    HISTOGRAMS,
    LENGTH_HISTOGRAMS,
    NO_ENGINE_LABEL,
    SPLITS,
    cache_config,
    length_bounds,
)

_HTTP = ("http_requests_total", "counter", "Total number of requests by method, status and handler.")


class EngineMetrics:
    """The page of one engine. The scheduler's counters are read when the page is, the rest is observed by step."""

    def __init__(
        self,
        model: str,
        config: EngineConfig,
        *,
        created_s: float,
        kv_bytes_per_token: int,
        ttft_bounds: Sequence[float] | None = None,
    ) -> None:
        """An empty page.

        Args:
            model: the served name.
            config: limits of the engine.
            created_s: Unix time of the engine's start.
            kv_bytes_per_token: for the cache's size in bytes.
            ttft_bounds: replace vLLM's bounds of the TTFT histogram (its ``--custom-histogram-buckets``).

        Raises: ValueError when the bounds do not ascend.
        """
        self._labels = {"engine": "0", "model_name": model}
        self._page = Page(created_s=created_s)
        self._scalars: dict[tuple[str, str], Scalar] = {}
        for names, kind in ((COUNTERS, "counter"), (GAUGES, "gauge")):
            for name, text in names.items():
                self._add_scalars(name, kind, text)
        self._scalars["engine_sleep_state", "awake"].value = 1.0
        custom = {} if ttft_bounds is None else {"time_to_first_token_seconds": tuple(ttft_bounds)}
        self._histograms = self._add_histograms(config.max_model_len, custom)
        self._page.family("vllm:cache_config_info", "gauge", "Information of the LLMEngine CacheConfig").scalar(
            cache_config(blocks=config.blocks, block_tokens=BLOCK_TOKENS, max_model_len=config.max_model_len,
                         bytes_per_token=kv_bytes_per_token), 1.0)  # fmt: skip
        self._http_family = self._page.family(*_HTTP)
        self._http: dict[tuple[str, str, str], Scalar] = {}

    def _add_scalars(self, name: str, kind: str, text: str) -> None:
        family = self._page.family(f"vllm:{name}", kind, text)
        labels = dict(self._labels)
        if name in NO_ENGINE_LABEL:
            del labels["engine"]
        split, values = SPLITS.get(name, ("", ("",)))
        for value in values:
            self._scalars[name, value] = family.scalar({**labels, split: value} if split else labels)

    def _add_histograms(self, max_model_len: int, custom: Mapping[str, tuple[float, ...]]) -> dict[str, Histogram]:
        lengths = length_bounds(max_model_len)
        wanted = {name: (text, lengths) for name, text in LENGTH_HISTOGRAMS.items()} | HISTOGRAMS
        return {
            name: self._page.family(f"vllm:{name}", "histogram", text).histogram(self._labels, custom.get(name, bounds))
            for name, (text, bounds) in wanted.items()
        }

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
        values = {
            "request_prompt_tokens": request.prompt_tokens,
            "request_generation_tokens": output,
            "request_max_num_generation_tokens": output,
            "request_params_max_tokens": output,
            "request_params_n": 1,
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

    def render(self, engine: Engine, now_s: float) -> bytes:
        """The page at ``now_s`` of the engine's time."""
        counters, waiting = engine.counters, engine.waiting(now_s)
        values = {
            ("num_requests_running", ""): engine.running,
            ("num_requests_waiting", ""): waiting,
            ("num_requests_waiting_by_reason", "capacity"): waiting,
            ("kv_cache_usage_perc", ""): engine.kv.usage,
            ("prefix_cache_queries_total", ""): counters.prefix_queries,
            ("prefix_cache_hits_total", ""): counters.prefix_hits,
            ("num_preemptions_total", ""): counters.preemptions,
            ("prompt_tokens_total", ""): counters.prompt_tokens,
            ("prompt_tokens_by_source_total", "local_compute"): counters.prompt_tokens - counters.cached_tokens,
            ("prompt_tokens_by_source_total", "local_cache_hit"): counters.cached_tokens,
            ("prompt_tokens_cached_total", ""): counters.cached_tokens,
            ("prompt_tokens_cached_by_source_total", "device"): counters.prefix_hits,
            ("generation_tokens_total", ""): counters.generation_tokens,
        }
        for key, value in values.items():
            self._scalars[key].value = float(value)
        return self._page.render()
