"""Decisions in words and tables, for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.table import Table

from fleet.types import Decision
from wva import plain
from wva.replay import Comparison

_WORDS = {
    "kv_utilisation": "KV-cache utilisation, mean over replicas",
    "queue_ratio": "queue ratio (waiting per replica over a full queue)",
    "throughput_degradation": "throughput degradation (speed of a request against the best learned)",
    "waiting_per_replica": "requests waiting per replica, router included",
    "model_saturation": "saturation over all variants of the model",
    "requested": "replicas the platform was asked for",
    "ready": "replicas ready",
    "pending": "replicas still starting",
    "overdue": "replicas that did not become ready in time",
    "fresh": "ready replicas with fresh metrics",
    "stale": "ready replicas with stale metrics",
    "missing": "ready replicas that never reported",
    "stuck": "ready replicas with requests under way that compute no token",
    "age_s": "age of the oldest sample, seconds",
    "running_per_replica": "requests running per replica, mean of the window",
    "best_speed_tps": "best speed learned, tokens/s of one request",
    "capacity_tps": "capacity learned, tokens/s of one full replica",
    "cost_per_capacity": "dollars per hour and unit of capacity",
    "scale_up_above": "scale up above saturation",
    "scale_down_below": "scale down below saturation",
    "cost_per_hour": "dollars for one replica and hour",
    "min_replicas": "replicas at least",
    "max_replicas": "replicas at most",
    "accelerator_count": "GPUs of a replica",
    "prefills": "1 where it prefills",
    "decodes": "1 where it decodes",
    "priority": "priority of its model when GPUs are short",
    "slo_ttft_s": "target for the time to first token, seconds",
    "slo_tpot_s": "target for the time per output token, seconds",
    "slo_objective": "share of requests that are to meet both targets",
    "startup_s": "start-up time that the platform tells, seconds",
    "retention_s": "seconds without a request after which it may go to zero",
    "router_age_s": "age of the router's queue, seconds",
    "traffic_age_s": "age of the model's request counts, seconds",
    "demand_rps": "requests/s that arrive now, over a steady window",
    "in_flight": "requests in flight",
    "prompt_tokens_mean": "tokens of a prompt, mean",
    "output_tokens_mean": "tokens of an answer, mean",
    "prefix_hit_ratio": "share of a prompt that the prefix cache holds",
    "lead_s": "start-up time that is planned with, seconds (from starts seen, where there were any)",
    "forecast_rps": "requests/s expected when a replica asked for now could serve",
    "forecast_p90_rps": "requests/s then that are not exceeded with 90 %",
    "forecast_error": "mean error of such forecasts of late, requests/s (not known before one came due)",
    "needed_now": "replicas of the reference variant that bear the present demand",
    "needed": "replicas of the reference variant that cost least under the forecast",
    "expected_misses": "share of requests expected to miss a target with those",
    "expected_misses_as_is": "share expected to miss with the replicas asked for",
    "warm_cache_loss": "work that warm caches of replicas that go (or of one that would) add at first, relative",
    "capacity_rps": "requests/s that a replica bears within the objective",
    "lone_s": "seconds of a request that runs alone",
    "work_s": "seconds that a request adds to every other beside it",
    "full_in_flight": "requests that run at once in a replica at most",
    "law_error": "uncertainty of that law, relative",
    "prior_calibrated": "1 where that law started from calibrated step times of its model and GPU",
    "prior_fitted": "1 where it started from what the predictor learned of its requests (0 in both: from an estimate)",
    "prior_fitted_rows": "requests behind what the predictor learned",
    "reference": "1 where replicas of the model are counted in this variant's",
}


def table(decisions: Sequence[Decision]) -> Table:
    """One row a decision."""
    found = Table("variant", "ready", "desired", "direction", "saturation", "reason", "why", show_lines=False)
    for each in decisions:
        saturation = "-" if each.saturation is None else f"{each.saturation:.2f}"
        found.add_row(each.variant, str(each.current), str(each.desired), each.direction, saturation, each.reason,
                      each.detail)  # fmt: skip
    return found


def in_words(row: Mapping[str, Any]) -> Iterator[str]:
    """A decision row of the history as lines for a person, its inputs last."""
    when = datetime.fromtimestamp(row["at_s"], UTC).isoformat(timespec="seconds")
    saturation = "not known" if row["saturation"] is None else f"{row['saturation']:.2f}"
    yield f"{row['variant']} ({row['model']} on {row['accelerator']}, namespace {row['namespace']}) at {when}"
    yield f"  in short   {plain.sentence(row)}"
    yield f"  decision   {row['direction']}: {row['current']} ready, {row['desired']} desired"
    yield f"  reason     {row['reason']}"
    yield f"  why        {row['detail']}"
    yield f"  saturation {saturation}"
    yield "  inputs"
    for name, value in row["signals"].items():
        shown = "not known" if value is None else f"{value:.4g}"
        yield f"    {_WORDS.get(name, name)}: {shown}"


def compared(found: Comparison) -> dict[str, Any]:
    """A replay for ``--json``."""
    was, would = found.cost
    return {
        "cost_recorded_usd": was, "cost_replayed_usd": would, "attainment_recorded": found.attainment,
        "variants": {one.variant: {
            "passes": len(one.at_s), "differing": one.differing,
            "replica_hours_recorded": one.replica_hours(one.recorded),
            "replica_hours_replayed": one.replica_hours(one.replayed), "changes_recorded": one.changes(one.recorded),
            "changes_replayed": one.changes(one.replayed), "at_s": one.at_s, "recorded": one.recorded,
            "replayed": one.replayed, "reasons": one.reasons,
        } for one in found.courses},
    }  # fmt: skip


def comparison(found: Comparison) -> Table:
    """A replay as a table: one row a variant."""
    was, would = found.cost
    share = "" if found.attainment is None else f"; {found.attainment:.2%} of the requests met these targets as served"
    table = Table("variant", "passes", "differing", "replica-hours", "replayed", "changes", "replayed",
                  title=f"Cost ${was:.2f} as recorded, ${would:.2f} replayed{share}", title_justify="left")  # fmt: skip
    for one in found.courses:
        table.add_row(one.variant, str(len(one.at_s)), str(one.differing), f"{one.replica_hours(one.recorded):.2f}",
                      f"{one.replica_hours(one.replayed):.2f}", str(one.changes(one.recorded)),
                      str(one.changes(one.replayed)))  # fmt: skip
    return table
