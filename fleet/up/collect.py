"""Reads what the table shows: the platform's replicas and the history."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from fleet.errors import SourceError
from fleet.history import History, cause_of
from fleet.platform import Platform
from fleet.types import ReplicaState, Variant
from fleet.up import report
from fleet.up.view import VariantLine

WINDOW_S = 30.0
"""Latency and throughput in the table are over so many seconds."""


class Collector:
    """Keeps the last known fleet, so that a part that restarts leaves the table standing."""

    def __init__(self, history: History, platform: Platform, traffic_status: Path) -> None:
        self._history, self._platform, self._traffic_status = history, platform, traffic_status
        self._variants: tuple[Variant, ...] = ()
        self._last_event = 0
        self.trouble = ""
        """Why the history could not be read at the last look; empty: it could."""

    def lines(self, now_s: float) -> tuple[VariantLine, ...]:
        """One line a variant; the previous ones where nothing can be read."""
        with contextlib.suppress(SourceError):  # the supervisor reports a platform that is down; the last replicas stay
            self._variants = self._platform.variants()
        try:
            recent = self._history.read("requests", since_s=now_s - WINDOW_S)
            decisions = self._newest("decisions", now_s)
            saturation = self._newest("samples", now_s, signal="wva_saturation_utilization")
            desired = self._newest("samples", now_s, signal="wva_desired_replicas")
        except SQLAlchemyError:
            recent, decisions, saturation, desired = [], {}, {}, {}  # what the platform tells stays
        return tuple(_line(variant, recent, decisions, saturation, desired) for variant in self._variants)

    def engine_news(self, since_s: float) -> list[str]:
        """What wva noticed of engines and was not told yet; nothing where it cannot be read."""
        try:
            rows = self._history.read("events", since_s=since_s, after_id=self._last_event, kind="engine")
        except SQLAlchemyError as error:
            self.trouble = cause_of(error)
            return []
        self.trouble = ""
        self._last_event = max((row["id"] for row in rows), default=self._last_event)
        return [f"{row['subject']}: {row['message']}" for row in rows]

    def traffic(self) -> dict[str, Any]:
        """The load client's own status."""
        try:
            return dict(json.loads(self._traffic_status.read_text(encoding="utf-8")))
        except (OSError, ValueError):
            return {}

    def _newest(self, table: str, now_s: float, signal: str = "") -> dict[str, dict[str, Any]]:
        read = partial(self._history.read, table, since_s=now_s - 120.0, limit=50, newest_first=True)
        rows = read(signal=signal) if signal else read()
        return {row["variant"]: row for row in reversed(rows)}


def _line(
    variant: Variant,
    recent: Sequence[dict[str, Any]],
    decisions: dict[str, dict[str, Any]],
    saturation: dict[str, dict[str, Any]],
    desired: dict[str, dict[str, Any]],
) -> VariantLine:
    spec = variant.spec
    mine = [row for row in recent if row["variant"] == spec.name]
    running = variant.count(ReplicaState.READY) + variant.count(ReplicaState.STARTING)
    decision = decisions.get(spec.name)
    return VariantLine(
        variant=spec.name,
        accelerator=f"{spec.accelerator_count}x {spec.accelerator}",
        ready=variant.count(ReplicaState.READY),
        starting=variant.count(ReplicaState.STARTING),
        desired=int(desired[spec.name]["value"]) if spec.name in desired else None,
        saturation=saturation[spec.name]["value"] if running and spec.name in saturation else None,
        ttft_p95_s=report.quantile((row["ttft_s"] for row in mine), 0.95),
        tokens_per_s=sum(row["output_tokens"] for row in mine) / WINDOW_S,
        cost_per_hour=running * spec.cost_per_hour,
        decision=f"{decision['reason']}: {decision['detail']}" if decision else "",
    )
