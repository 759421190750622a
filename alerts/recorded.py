"""Reading the history for a diagnosis, and saying the diagnosis in words."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from alerts.diagnosis import Answer, Diagnosis, Evidence
from alerts.evidence import BEFORE_WINDOWS, Recorded, evidence
from alerts.trees import EVIDENCE, TREES
from fleet.errors import ConfigError
from fleet.history import History

_AGO = re.compile(r"-(\d+)([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


def read(history: History, *, model: str, at_s: float, window_s: float) -> Evidence:
    """Evidence on ``model`` (empty: all models) at a time."""
    since_s = at_s - window_s * (1 + BEFORE_WINDOWS)

    def rows(table: str) -> list[dict[str, Any]]:
        if model:
            return history.read(table, since_s=since_s, until_s=at_s, model=model)
        return history.read(table, since_s=since_s, until_s=at_s)

    recorded = Recorded(requests=rows("requests"), samples=rows("samples"), decisions=rows("decisions"))
    return evidence(recorded, at_s=at_s, window_s=window_s)


def firing(history: History, *, model: str, at_s: float) -> str:
    """The alert that began to fire last and still did at ``at_s``; empty where none did."""
    state: dict[tuple[str, str], bool] = {}
    for row in history.read("events", since_s=at_s - 86_400, until_s=at_s, kind="alert"):
        if model in ("", row["data"].get("model", "")):
            key = (row["subject"], row["data"].get("model", ""))
            state.pop(key, None)
            state[key] = row["data"].get("state") == "firing"
    return next((name for (name, _), fires in reversed(state.items()) if fires), "")


def parse_time(text: str, *, now_s: float) -> float:
    """``now``, ``-10m``, Unix seconds, or ISO 8601 (UTC where it names no zone).

    Raises: ConfigError for anything else.
    """
    if text == "now":
        return now_s
    if match := _AGO.fullmatch(text):
        return now_s - int(match[1]) * _SECONDS[match[2]]
    try:
        if math.isfinite(at_s := float(text)):
            return at_s
    except ValueError:
        pass
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"{text!r} is no time", where="--at", limit="now, -10m, 1790000000, 2026-11-21T10:00",
                          next_step="Write one of these.") from None  # fmt: skip
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


def given_evidence(pairs: Sequence[str]) -> Evidence:
    """``NAME=VALUE`` pairs that a person supplies.

    Raises: ConfigError for an unknown name or a value that is no number.
    """
    found: dict[str, float] = {}
    for pair in pairs:
        name, _, value = pair.partition("=")
        if name not in EVIDENCE:
            raise ConfigError(f"unknown evidence {name!r}", where="--set", next_step=f"Known: {', '.join(EVIDENCE)}.")
        try:
            found[name] = float(value)
        except ValueError:
            raise ConfigError(f"{value!r} is no number", where=f"--set {name}", next_step="Write NAME=0.5.") from None
    return found


def tree_of(tree: str, alert: str, trees_by_alert: Mapping[str, str]) -> str:
    """Name of the tree to walk: the one named, else the alert's, else that of a high TTFT.

    Raises: ConfigError for a name that is not known.
    """
    if tree:
        if tree not in TREES:
            raise ConfigError(f"unknown tree {tree!r}", where="--tree", next_step=f"Known: {', '.join(TREES)}.")
        return tree
    if alert and alert not in trees_by_alert:
        raise ConfigError(f"unknown alert {alert!r}", where="--alert",
                          next_step=f"Known: {', '.join(sorted(trees_by_alert))}.")  # fmt: skip
    return trees_by_alert.get(alert) or "ttft_high"


def as_json(diagnosis: Diagnosis, found: Evidence) -> dict[str, Any]:
    """The diagnosis for programs; ``evidence`` holds everything that is known, asked for or not."""
    return {**asdict(diagnosis), "unknown": list(diagnosis.unknown), "evidence": dict(found)}


def as_lines(diagnosis: Diagnosis) -> Iterator[str]:
    """The diagnosis for people."""
    for step in diagnosis.path:
        values = "; ".join(f"{EVIDENCE[name].text}: {EVIDENCE[name].show(value)}" for name, value in step.evidence)
        yield f"  {step.answer.value:<8} {step.question}"
        yield f"           {values}"
    yield f"=> {diagnosis.cause}"
    yield f"   {diagnosis.advice}"
    if diagnosis.command:
        yield f"   {diagnosis.command}"
    if any(step.answer is Answer.UNKNOWN for step in diagnosis.path):
        yield f"   Not known, so passed over: {', '.join(diagnosis.unknown)} (supply with --set NAME=VALUE)"
