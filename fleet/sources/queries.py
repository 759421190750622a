"""The instant queries that read a whole fleet from Prometheus: a fixed number of them, however many engines there are.

Each is reduced to one value per ``instance``. Two jobs that scrape one engine give every series twice: ranks are summed
inside a job and the larger job is taken, so nothing is counted double. Aliases are tried in the catalogue's order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from fleet import promql
from fleet import signals as s
from fleet.signals import Signal
from fleet.sources.traffic import ENGINES, MODEL_LABELS, ROUTER

RAW: Final[dict[str, Signal]] = {
    "waiting": s.WAITING,
    "running": s.RUNNING,
    "prompt_tokens_total": s.PROMPT_TOKENS,
    "generation_tokens_total": s.GENERATION_TOKENS,
    "prefix_hits_total": s.PREFIX_HITS,
    "prefix_queries_total": s.PREFIX_QUERIES,
    "preemptions_total": s.PREEMPTIONS,
    "requests_total": s.FINISHED,
}
"""Fields of :class:`fleet.types.EngineSample` that are sums over an engine's ranks."""

RATES: Final[dict[str, Signal]] = {
    "prompt_tps": s.PROMPT_TOKENS,
    "generation_tps": s.GENERATION_TOKENS,
    "request_rps": s.FINISHED,
    "prefix_hits": s.PREFIX_HITS,
    "prefix_queries": s.PREFIX_QUERIES,
}

_BY: Final = "instance"
_ONCE: Final = (_BY, "job")


def _summed(expression: str, *labels: str) -> str:
    return promql.max_by(promql.sum_by(expression, *labels, *_ONCE), *labels, _BY)


def _each(signal: Signal, form: Callable[[Signal], str]) -> str:
    return promql.first_of(*(form(spelling) for spelling in promql.spellings(signal)))


def raw() -> str:
    """Queue, batch and counters as last scraped, under their own names."""
    return _summed(promql.any_selector(tuple(RAW.values())), "__name__")


def kv_utilisation() -> str:
    """The fullest rank of each engine."""
    return promql.max_by(promql.any_selector((s.KV_UTILISATION,)), "__name__", _BY)


def cache_config() -> str:
    """One series a rank, with the size of its KV cache as labels."""
    return promql.max_by(promql.selector(s.CACHE_CONFIG), _BY, "engine", "num_gpu_blocks", "block_size")


def sampled_at() -> str:
    """Unix time of each engine's newest sample."""
    return _each(s.RUNNING, lambda name: promql.max_by(f"timestamp({promql.selector(name)})", _BY))


def rate(signal: Signal, window_s: float) -> str:
    """Per-second growth of a counter over the window."""
    window = f"{max(round(window_s * 1000), 1)}ms"
    return _each(signal, lambda name: _summed(promql.rate(name, window)))


def gpu_active() -> str:
    """How busy the busiest GPU of each pod is, 0..1, where DCGM is scraped; the pod's label is DCGM's or renamed."""
    whole = f"{promql.selector(s.GPU_UTIL)} / 100"
    return promql.max_by(promql.first_of(promql.selector(s.GPU_ACTIVE), whole), "pod", "exported_pod")


def router_traffic() -> str:
    """What the router counts of each model's requests; several routers are added up."""
    return _by_model(ROUTER.series, "streaming")


def engine_traffic() -> str:
    """The same, as the engines of each model see it together."""
    return _by_model(ENGINES.series)


def traffic_sampled_at(signal: Signal) -> str:
    """Unix time of the newest sample of ``signal``, by model."""
    return _each(signal, lambda name: promql.max_by(f"timestamp({promql.selector(name)})", *MODEL_LABELS))


def _by_model(series: frozenset[str], *labels: str) -> str:
    wanted = '{__name__=~"' + "|".join(sorted(series)) + '"}'
    by = ("__name__", *MODEL_LABELS, "le", *labels)
    return promql.sum_by(promql.max_by(promql.sum_by(wanted, *by, *_ONCE), *by, _BY), *by)


def router_queue() -> str:
    """Requests that wait at the router, by model."""
    return _each(
        s.ROUTER_FLOW_QUEUE,
        lambda name: promql.max_by(promql.sum_by(promql.selector(name), *MODEL_LABELS, *_ONCE), *MODEL_LABELS),
    )


def router_queue_sampled_at() -> str:
    """Unix time of the queue's sample, by model; of several routers the oldest counts."""
    return _each(s.ROUTER_FLOW_QUEUE, lambda name: promql.min_by(f"timestamp({promql.selector(name)})", *MODEL_LABELS))
