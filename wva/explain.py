"""Decisions in words and tables, for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.table import Table

from fleet.types import Decision

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
    "age_s": "age of the oldest sample, seconds",
    "running_per_replica": "requests running per replica, mean of the window",
    "best_speed_tps": "best speed learned, tokens/s of one request",
    "capacity_tps": "capacity learned, tokens/s of one full replica",
    "cost_per_capacity": "dollars per hour and unit of capacity",
    "scale_up_above": "scale up above saturation",
    "scale_down_below": "scale down below saturation",
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
    yield f"  decision   {row['direction']}: {row['current']} ready, {row['desired']} desired"
    yield f"  reason     {row['reason']}"
    yield f"  why        {row['detail']}"
    yield f"  saturation {saturation}"
    yield "  inputs"
    for name, value in row["signals"].items():
        shown = "not known" if value is None else f"{value:.4g}"
        yield f"    {_WORDS.get(name, name)}: {shown}"
