"""The project's own parts: controller, predictor, router. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from alerts.algebra import Agg, Expr, Now, Over, Select, both
from alerts.model import Alert, Severity
from fleet import signals as s
from fleet.signals import Layer

STALLED_AFTER_S: Final = 120.0
SCRAPE_LIMIT_S: Final = 10.0
DRIFT: Final = 0.5
"""Mean absolute relative error beyond which predictions mislead (a good fit has 0.2)."""
FLAPS: Final = 20
"""Changes within ten minutes (upstream's limit)."""
GAPS: Final = 3
"""Gaps in KV events within ten minutes; one that is played back does no harm."""
SATURATED: Final = 0.8
VARIANT: Final = ("namespace", "variant_name")


def _alert(name: str, expr: Expr, for_s: float, severity: Severity, layer: Layer, **words: Any) -> Alert:
    return Alert(name=name, expr=expr, for_s=for_s, severity=severity, layer=layer, group="fleet", **words)


def alerts() -> Iterator[Alert]:
    """All alerts on our own parts."""
    yield from (_stalled(), _stale(), _errors(), _at_max(), _not_acted_on(), _saturated(), _flapping())
    yield from (_cold(), _fit_fails(), _drifts())
    yield from (_shedding(), _old_scrapes(), _kv_gaps(), _kv_lost())


def _stalled() -> Alert:
    age = Now() - Select(s.WVA_LAST_PASS)
    return _alert(
        "ControllerStalled", age > STALLED_AFTER_S, 60, Severity.CRITICAL, Layer.INFRASTRUCTURE, tree="not_scaling",
        summary="The autoscaler has not decided for <value:seconds>",
        description=f"The last pass of wva on <instance> that decided is <value:seconds> old (limit "
        f"{STALLED_AFTER_S:.0f} s): replicas stay as they are, whatever the load.",
        means="The controller runs and its loop does not: its metric source, the platform or its history blocks it.",
        check=("Its log: the last error.", "Does the metric source answer? Does the platform?"),
        do=("Restart it; HPA keeps the last value meanwhile.",),
    )  # fmt: skip


def _stale() -> Alert:
    blind = Select(s.WVA_FRESHNESS, (("status", "~stale|missing|unavailable"),)).matching("==", 1.0)
    return _alert(
        "DecisionsOnStaleData", blind, 120, Severity.WARNING, Layer.INFRASTRUCTURE, tree="not_scaling",
        summary="<variant_name>: the autoscaler holds, its metrics are <status>",
        description="The metrics of <variant_name> have been <status> (<value:number>) for 2 minutes: wva holds its "
        "replicas, up and down.",
        means="Missing data never scales down. It does not scale up either, so load may outgrow the fleet.",
        check=("TargetDown for its engines.", "fleet_wva_signal_age_seconds: how old."),
        do=("Repair the scrape; raise WVA_STALE_AFTER_S only if the scrape interval is longer.",),
    )  # fmt: skip


def _errors() -> Alert:
    return _alert(
        "ControllerErrors", Over("rate", s.WVA_ERRORS, 300).by("namespace", "component", "error_type") > 0.1, 300,
        Severity.WARNING, Layer.INFRASTRUCTURE, tree="not_scaling",
        summary="wva: <value:rate> errors/s in <component> (<error_type>)",
        description="<component> of the autoscaler fails <value:rate> times a second with <error_type> over 5 "
        "minutes.",
        means="A part of the control loop keeps failing; decisions go on without it or hold.",
        check=("Its log at the time of the first error.",),
        do=("Repair what the error names.",),
    )  # fmt: skip


def _at_max() -> Alert:
    return _alert(
        "WVAAtMax", Select(s.WVA_AT_MAX).matching("==", 1.0), 300, Severity.WARNING, Layer.INFRASTRUCTURE,
        tree="not_scaling",
        summary="<variant_name> wants more replicas than its maximum",
        description="wva has wanted more replicas of <variant_name> (<accelerator_type>) than max_replicas allows "
        "(<value:number>) for 5 minutes.",
        means="The load is beyond what the variant may grow to.",
        check=("Other variants of the model: at their maximum too?", "TTFT and queue: does it hurt?"),
        do=("Raise max_replicas, add a variant, or shed.",),
    )  # fmt: skip


def _not_acted_on() -> Alert:
    wanted = Select(s.WVA_DESIRED).matching(">", Select(s.WVA_CURRENT), *VARIANT, "accelerator_type")
    return _alert(
        "CapacityNotActedOn", wanted, 600, Severity.WARNING, Layer.INFRASTRUCTURE, tree="not_scaling",
        summary="<variant_name> does not get its <value:number> replicas",
        description="wva wants <value:number> replicas of <variant_name> and fewer have been ready for 10 minutes.",
        means="The decision is there, the replicas are not: actuation, scheduling or start-up fails.",
        check=("Does the HPA or the platform see the wanted number?", "Pods pending or starting: since when?"),
        do=("Follow the diagnosis.",),
    )  # fmt: skip


def _saturated() -> Alert:
    full = Agg("max", Select(s.WVA_SATURATION), (*VARIANT, "model_name")) > SATURATED
    unchanged = Over("changes", s.WVA_DESIRED, 600).by(*VARIANT).matching("==", 0.0)
    return _alert(
        "SaturatedWithoutScaling", both(full, unchanged, *VARIANT), 600, Severity.WARNING, Layer.INFRASTRUCTURE,
        tree="not_scaling",
        summary="<variant_name> is saturated (<value:percent>) and nothing scales",
        description=f"<variant_name> of <model_name> is at a saturation of <value:percent> (threshold "
        f"{SATURATED:.0%}), and its wanted replicas have not changed for 10 minutes.",
        means="Load is above the threshold, and wva holds: at its maximum, blind, or waiting for another variant.",
        check=("`fleet wva explain`: the reason of the last decision.",),
        do=("As the reason says.",),
    )  # fmt: skip


def _flapping() -> Alert:
    return _alert(
        "ScalingFlaps", Over("increase", s.WVA_SCALINGS, 600).by(*VARIANT) > FLAPS, 600, Severity.WARNING,
        Layer.INFRASTRUCTURE, tree="not_scaling",
        summary="<variant_name> changed its wanted replicas <value:rate> times within 10 minutes",
        description=f"The wanted replicas of <variant_name> changed <value:rate> times within 10 minutes (limit "
        f"{FLAPS}).",
        means="Scaling up and down in turn: each start-up is paid for and never used.",
        check=("The stabilisation window against the start-up time.", "The two thresholds: too near each other?"),
        do=("Lengthen the stabilisation window, or widen the gap between the thresholds.",),
    )  # fmt: skip


def _cold() -> Alert:
    return _alert(
        "PredictorCold", Select(s.PREDICTOR_COLD).matching("==", 1.0), 1_800, Severity.INFO, Layer.APPLICATION,
        tree="predictor_off",
        summary="The latency predictor has no model yet",
        description="The predictor on <instance> has been cold (<value:number>) for 30 minutes; the router's "
        "predicted-latency scorer stays neutral.",
        means="Too few finished requests were recorded, or the fits fail.",
        check=("fleet_predictor_samples; `fleet history show requests`.",),
        do=("Send traffic; check that router and predictor share one history.",),
    )  # fmt: skip


def _fit_fails() -> Alert:
    return _alert(
        "PredictorFitFailing", Over("increase", s.PREDICTOR_FIT_FAILURES, 1_800).by("namespace", "instance") > 0, 300,
        Severity.WARNING, Layer.APPLICATION, tree="predictor_off",
        summary="The latency predictor fails to fit",
        description="<value:number> fits on <instance> failed within 30 minutes; the last good model stays in use and "
        "ages.",
        means="History cannot be read, or its rows do not support a fit.",
        check=("The predictor's log: the reason of the failure.", "Its history URL."),
        do=("Repair the history; lower the weight of predicted-latency until it fits again.",),
    )  # fmt: skip


def _drifts() -> Alert:
    return _alert(
        "PredictorDrifting", Select(s.PREDICTOR_ERROR) > DRIFT, 600, Severity.WARNING, Layer.APPLICATION,
        tree="predictor_off",
        summary="Predicted <target> is <value:percent> off",
        description=f"The mean relative error of predicted <target> is <value:percent> over later requests (limit "
        f"{DRIFT:.0%}) for 10 minutes.",
        means="Engines, models or traffic changed since the fit; routing by prediction misleads.",
        check=("New variant, new model, other prompt lengths?", "Time of the last good fit."),
        do=("Let it refit on new traffic; lower the weight of predicted-latency meanwhile.",),
    )  # fmt: skip


def _shedding() -> Alert:
    return _alert(
        "RouterShedding", Over("rate", s.ROUTER_SHED, 300).by("namespace", "model_name", "reason") > 0, 120,
        Severity.WARNING, Layer.APPLICATION, tree="routing_failed",
        summary="<model_name>: the router refuses <value:rate> requests/s (<reason>)",
        description="The router finds no endpoint for <value:rate> requests/s to <model_name> (<reason>): capacity "
        "is short.",
        means="All endpoints are gone, not ready, or filtered out. Clients see 503.",
        check=("Ready endpoints and what filters drop them.", "Replicas starting: how long still?"),
        do=("Add replicas; loosen the filters if the engines have room.",),
    )  # fmt: skip


def _old_scrapes() -> Alert:
    oldest = Agg("max", Select(s.ROUTER_SCRAPE_AGE), ("namespace", "model_server_endpoint"))
    return _alert(
        "RouterScrapesOld", oldest > SCRAPE_LIMIT_S, 60, Severity.WARNING, Layer.APPLICATION, tree="load_uneven",
        summary="The router's view of <model_server_endpoint> is <value:seconds> old",
        description=f"The router has not read the metrics of <model_server_endpoint> for <value:seconds> (limit "
        f"{SCRAPE_LIMIT_S:.0f} s): it scores it on old figures.",
        means="An engine too busy to answer its metrics page, or gone.",
        check=("Does its /metrics answer, and how fast?",),
        do=("Restart the engine, or give its API server more CPU.",),
    )  # fmt: skip


def _kv_gaps() -> Alert:
    gaps = Over("increase", s.KV_EVENT_GAPS, 600).by("namespace", "job", "instance")
    return _alert(
        "KVEventGaps", gaps > GAPS, 300, Severity.WARNING, Layer.APPLICATION, tree="kv_events",
        summary="<instance> misses KV events again and again: <value:rate> gaps within 10 minutes",
        description=f"<instance> (job <job>) saw <value:rate> gaps in the engines' KV events within 10 minutes (limit "
        f"{GAPS}): until each is played back, its picture of that engine's cache is old.",
        means="Batches of KV events are numbered; numbers are missing. A gap holds later batches and asks the engine "
        "to play back. A gap now and then is no fault, many mean that messages are lost all the time.",
        check=("fleet_router_kv_event_lag_seconds: does the reader lag?", "The network from the engines to the router.",
               "fleet_router_kv_event_batches_lost_total: does playing back help?"),
        do=("Give the router more CPU, or the index a process of its own (`fleet router indexer`).",
            "Raise hwm and buffer_steps in the engines' --kv-events-config."),
    )  # fmt: skip


def _kv_lost() -> Alert:
    lost = Over("increase", s.KV_EVENTS_LOST, 600).by("namespace", "job", "instance")
    return _alert(
        "KVEventsLost", lost > 0, 120, Severity.WARNING, Layer.APPLICATION, tree="kv_events",
        summary="<instance> gave up <value:rate> batches of KV events within 10 minutes",
        description="<instance> (job <job>) gave up <value:rate> batches of KV events within 10 minutes: nothing could "
        "play them back, so the engine that sent them counts as empty until its prompts are stored again.",
        means="What is lost cannot mislead (the engine's part of the index is emptied), but prompts that the engine "
        "has cached are sent elsewhere: the hit rate falls.",
        check=("Do the engines name a replay_endpoint, and does it answer?", "buffer_steps against the batches lost.",
               "fleet_router_kv_event_lag_seconds."),
        do=("Set replay_endpoint in --kv-events-config and allow its port.", "Raise buffer_steps.",
            "Do nothing where an engine was restarted: its cache is empty indeed."),
    )  # fmt: skip
