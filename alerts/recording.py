"""Recording rules over the real series, the source documents' pseudo-names among them. Pure.

An engine's series are read under each of their names (vLLM's versions, SGLang, KServe's and Ray's prefixes), the
first that a pod exports counts. Names: ``model:`` and ``router:`` say what was kept, ``_5m`` the window.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from alerts.algebra import Agg, Expr, Over, Quantile, Select, any_of
from alerts.model import Recording, recorded
from alerts.store import Matchers
from fleet import signals as s
from fleet.signals import Kind, Layer, Signal

MODEL: Final = ("namespace", "model_name")
POD: Final = ("namespace", "pod", "instance", "model_name")
RANK: Final = (*POD, "engine")
"""One data-parallel rank: it has a KV cache of its own."""

OWN: Final[Matchers] = (("server", ""),)
"""Only the engines' own gauges: a production-stack router exports copies with the label ``server``."""
STREAMED: Final[Matchers] = (("streaming", "true"),)
"""Only streamed requests: for the others the router's TTFT is the whole duration."""


def spelled(signal: Signal) -> tuple[Signal, ...]:
    """The signal under each of its names."""
    return tuple(replace(signal, name=name, aliases=()) for name in signal.names)


def now_of(signal: Signal, matchers: Matchers = ()) -> Expr:
    """The current value under whichever name a pod uses."""
    return any_of(*(Select(name, matchers) for name in spelled(signal)))


def rate_of(signal: Signal, window_s: float, matchers: Matchers = (), suffix: str = "") -> Expr:
    """The rate under whichever name a pod uses."""
    return any_of(*(Over("rate", name, window_s, matchers, suffix) for name in spelled(signal)))


def p(q: float, signal: Signal, window_s: float, by: tuple[str, ...], matchers: Matchers = ()) -> Quantile:
    """Quantile of a histogram over ``window_s``."""
    return Quantile(q, rate_of(signal, window_s, matchers, "_bucket").by(*by, "le"))


QUEUE = recorded("vllm_queue_depth", "requests", "Requests waiting for capacity at one engine.", *POD)
KV = recorded("vllm_kv_cache_utilization", "ratio", "KV-cache blocks in use, 0..1, by data-parallel rank.", *RANK)
CACHE_HITS = recorded("vllm_cache_hit_total", "tokens", "Prompt tokens found in the prefix cache.", kind=Kind.COUNTER)
KV_CACHE_HITS = recorded("kv_cache_hit_total", "tokens", "The same under its other name.", kind=Kind.COUNTER)
SCHEDULING = recorded("epp_scheduling_duration_seconds_bucket", "requests", "Buckets of the scheduling time.", "le",
                      kind=Kind.COUNTER)  # fmt: skip
MODEL_QUEUE = recorded("model:queue_depth:sum", "requests", "Requests waiting for capacity.", *MODEL)
HIT_RATIO = recorded("model:prefix_hit:ratio_10m", "ratio", "Prompt tokens found in the prefix cache.", *MODEL)
OUTPUT_TPS = recorded("model:generation_tokens:rate_5m", "tokens/s", "Output throughput.", *MODEL,
                      layer=Layer.BUSINESS)  # fmt: skip
FINISHED_RPS = recorded("model:finished_requests:rate_5m", "requests/s", "Requests that left the engines.", *MODEL)
TTFT_P95 = recorded("model:ttft_seconds:p95_5m", "s", "TTFT P95: the router's, else the engines'.", *MODEL,
                    layer=Layer.BUSINESS)  # fmt: skip
TPOT_P95 = recorded("model:tpot_seconds:p95_5m", "s", "TPOT P95: the router's, else the engines'.", *MODEL,
                    layer=Layer.BUSINESS)  # fmt: skip
SCHEDULING_P95 = recorded("router:scheduling_seconds:p95_5m", "s", "Time to choose an endpoint, P95.", "namespace")
SCHEDULING_P99 = recorded("router:scheduling_seconds:p99_5m", "s", "Time to choose an endpoint, P99.", "namespace")


def _queue() -> Expr:
    by_reason = Select(s.WAITING_BY_REASON, (("reason", "capacity"),))
    return by_reason.matching("or", now_of(s.WAITING, OWN), ignoring=("reason",)).by(*POD)


def _router_else_engine(q: float, router: Signal, engine: Signal, matchers: Matchers = ()) -> Expr:
    return p(q, router, 300, MODEL, matchers).matching("or", p(q, engine, 300, MODEL), "model_name")


def _hit_ratio() -> Expr:
    hits, asked = rate_of(s.PREFIX_HITS, 600).by(*MODEL), rate_of(s.PREFIX_QUERIES, 600).by(*MODEL)
    return hits / (asked > 0)


def recordings() -> tuple[Recording, ...]:
    """All but those of the error budgets (:mod:`alerts.burn`), in the order they are to be evaluated."""
    expressions: dict[Signal, Expr] = {
        QUEUE: _queue(),
        KV: Agg("max", now_of(s.KV_UTILISATION), RANK),
        CACHE_HITS: now_of(s.PREFIX_HITS),
        KV_CACHE_HITS: now_of(s.PREFIX_HITS),
        SCHEDULING: any_of(*(Select(name, suffix="_bucket") for name in spelled(s.ROUTER_SCHEDULER))),
        MODEL_QUEUE: Select(QUEUE).by(*MODEL),
        HIT_RATIO: _hit_ratio(),
        OUTPUT_TPS: rate_of(s.GENERATION_TOKENS, 300).by(*MODEL),
        FINISHED_RPS: rate_of(s.FINISHED, 300).by(*MODEL),
        TTFT_P95: _router_else_engine(0.95, s.ROUTER_TTFT, s.ENGINE_TTFT, STREAMED),
        TPOT_P95: _router_else_engine(0.95, s.ROUTER_TPOT, s.ENGINE_TPOT),
        SCHEDULING_P95: p(0.95, s.ROUTER_SCHEDULER, 300, ("namespace",)),
        SCHEDULING_P99: p(0.99, s.ROUTER_SCHEDULER, 300, ("namespace",)),
    }
    return tuple(Recording(signal=signal, expr=expr) for signal, expr in expressions.items())
