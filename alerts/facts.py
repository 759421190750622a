"""Evidence for the trees from metrics alone: facts as expressions that a Prometheus or our store answers. Pure.

What cannot be told from metrics (``hash_block_size``, weights) stays unknown here; the history and people supply it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from alerts.algebra import Absent, Agg, Expr, Now, Number, Over, Select, any_of, both
from alerts.burn import CLIENT_FAULTS
from alerts.diagnosis import Evidence
from alerts.infrastructure import ROUTER_JOBS
from alerts.recording import HIT_RATIO, KV, OUTPUT_TPS, OWN, QUEUE, TPOT_P95, TTFT_P95, now_of, rate_of
from alerts.store import Matchers
from fleet import signals as s
from fleet.signals import Signal

BEFORE_S: Final = 1_800.0
"""How much earlier "before" is."""
_BEFORE: Final = ("ttft_p95_s", "hit_ratio", "output_tps", "request_rps", "input_tokens")
_BLIND: Final = (("status", "~stale|missing|unavailable"),)


def _max(expr: Expr) -> Expr:
    return Agg("max", expr)


def _total(expr: Expr) -> Expr:
    return Agg("sum", expr)


def _down(jobs: str) -> Expr:
    return Agg("count", Select(s.UP, (("job", jobs),)).matching("==", 0.0))


def _requests(mine: Matchers) -> dict[str, Expr]:
    asked = _total(Over("rate", s.ROUTER_REQUESTS, 300, mine))
    failed = Over("rate", s.ROUTER_ERRORS, 300, (("error_code", CLIENT_FAULTS), *mine))
    engine_errors = Over("rate", s.ENGINE_HTTP, 300, (("status", "5xx"),)).by("instance")
    prompt = [_total(Over("rate", s.ROUTER_INPUT_TOKENS, 300, mine, suffix)) for suffix in ("_sum", "_count")]
    return {
        "ttft_p95_s": _max(Select(TTFT_P95, mine)),
        "tpot_p95_s": _max(Select(TPOT_P95, mine)),
        "hit_ratio": Agg("min", Select(HIT_RATIO, mine)),
        "output_tps": _total(Select(OUTPUT_TPS, mine)),
        "request_rps": asked,
        "input_tokens": prompt[0] / (prompt[1] > 0),
        "error_ratio": any_of(_total(failed), _total(asked * Number(0.0))) / (asked > 0),
        "rejected_ratio": _total(Over("rate", s.ROUTER_SHED, 300, mine)) / (asked > 0),
        "one_endpoint_error_share": _max(engine_errors) / (_total(engine_errors) > 0),
    }


def _engines(mine: Matchers) -> dict[str, Expr]:
    queue = Select(QUEUE, mine)
    token_s = [rate_of(s.ENGINE_TPOT, 300, mine, suffix).by("instance") for suffix in ("_sum", "_count")]
    pace = token_s[0] / (token_s[1] > 0)
    gpu = both(Select(s.GPU_ACTIVE), queue, "namespace", "pod")
    here = now_of(s.RUNNING, (*OWN, *mine))
    return {
        "queue_mean": _total(queue) / Agg("count", queue),
        "queue_max": _max(queue),
        "queue_total": _total(queue),
        "queue_imbalance": _max(queue) / (Agg("min", queue) + Number(1.0)),
        "kv_max": _max(Select(KV, mine)),
        "tpot_imbalance": _max(pace) / Agg("min", pace),
        "gpu_active": _total(gpu) / Agg("count", gpu),
        "replicas_ready": any_of(Agg("count", here), Absent(here) - Number(1.0)),
    }


def _scaling(mine: Matchers) -> dict[str, Expr]:
    def of_model(signal: Signal, matchers: Matchers = ()) -> Expr:
        return both(Select(signal, matchers), Select(s.WVA_SATURATION, mine), "variant_name")

    return {
        "saturation": _max(Select(s.WVA_SATURATION, mine)),
        "replicas_desired": _total(of_model(s.WVA_DESIRED)),
        "at_max": _total(of_model(s.WVA_AT_MAX)),
        "held_blind": _total(of_model(s.WVA_FRESHNESS, _BLIND)),
        "decision_age_s": _max(Now() - Select(s.WVA_LAST_PASS)),
    }


def _cluster() -> dict[str, Expr]:
    looping = Over("max_over_time", s.POD_WAITING_REASON, 300, (("reason", "CrashLoopBackOff"),))
    sent = Over("rate", s.IB_SENT, 300).matching("/", Select(s.IB_RATE), "instance", "device", "port")
    return {
        "network_share": _max(sent),
        "xid_changes": _total(Over("changes", s.GPU_XID, 600)),
        "unschedulable": _total(Select(s.POD_UNSCHEDULABLE)),
        "crash_looping": _total(looping),
        "routers_down": _down(ROUTER_JOBS),
        "targets_down": _down("!" + ROUTER_JOBS),
        "kv_event_gaps": _total(Over("increase", s.KV_EVENT_GAPS, 600)),
        "kv_events_lost": _total(Over("increase", s.KV_EVENTS_LOST, 600)),
        "kv_event_lag_s": _max(Select(s.KV_EVENT_LAG)),
        "prediction_error": _max(Select(s.PREDICTOR_ERROR)),
        "fit_failures": _total(Over("increase", s.PREDICTOR_FIT_FAILURES, 1_800)),
        "requests_recorded": _max(Select(s.PREDICTOR_SAMPLES)),
    }


def facts(model: str = "") -> Mapping[str, Expr]:
    """Fact -> expression with one series at most; of one model, or (empty) of all."""
    mine: Matchers = (("model_name", model),) if model else ()
    return {**_requests(mine), **_engines(mine), **_scaling(mine), **_cluster()}


Ask = Callable[[Expr, float], float | None]
"""(expression, time) -> its one value, or ``None``."""


def evidence(ask: Ask, *, model: str, at_s: float) -> Evidence:
    """Everything that metrics tell about ``model`` at a time, "before" included."""
    known = facts(model)
    found = {name: ask(expr, at_s) for name, expr in known.items()}
    for name in _BEFORE:
        before = f"{name.removesuffix('_s')}_before_s" if name.endswith("_s") else f"{name}_before"
        found[before] = ask(known[name], at_s - BEFORE_S)
    queue, earlier = found["queue_mean"], ask(known["queue_mean"], at_s - BEFORE_S)
    found["queue_growth"] = None if queue is None or earlier is None else queue - earlier
    return found
