"""What ``fleet up`` says at its end and in its table, from history rows. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from fleet import signals

Row = Mapping[str, Any]

SERVED = frozenset({"ok"})
REPLICA_SIGNALS = (signals.WVA_DESIRED.name, signals.WVA_CURRENT.name)
CLIENT_GONE = frozenset({"aborted"})
"""Neither served nor failed: the client went away."""


def quantile(values: Iterable[float | None], q: float) -> float | None:
    """Quantile of what is known; None of nothing.

    >>> quantile([0.1, None, 0.3], 0.5)
    0.2
    """
    known = [value for value in values if value is not None]
    return round(float(np.quantile(known, q)), 6) if known else None


def timestamp(at_s: float) -> str:
    """ISO 8601, UTC, milliseconds.

    >>> timestamp(0.0)
    '1970-01-01T00:00:00.000Z'
    """
    return datetime.fromtimestamp(at_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def success_rate(requests: Sequence[Row]) -> float | None:
    """Served requests among those that the client waited for."""
    counted = [row for row in requests if row["outcome"] not in CLIENT_GONE]
    return round(sum(row["outcome"] in SERVED for row in counted) / len(counted), 6) if counted else None


def latencies(requests: Sequence[Row]) -> dict[str, float | None]:
    """TTFT and TPOT P50 and P95 of served requests, seconds."""
    served = [row for row in requests if row["outcome"] in SERVED]
    return {
        f"{name}_p{int(q * 100)}_s": quantile((row[f"{name}_s"] for row in served), q)
        for name in ("ttft", "tpot")
        for q in (0.5, 0.95)
    }


def scale_events(events: Sequence[Row], started_at: float) -> list[dict[str, Any]]:
    """Scale-ups and scale-downs, in order of time."""
    return [
        {
            "time": timestamp(row["at_s"]),
            "at_s": round(row["at_s"] - started_at, 2),
            **{key: row["data"].get(key) for key in ("variant", "direction", "from", "to", "reason")},
            "detail": row["message"],
        }
        for row in events
        if row["kind"] == "scale"
    ]


def replica_timeline(samples: Sequence[Row], started_at: float) -> dict[str, list[dict[str, Any]]]:
    """Per variant: desired and ready replicas at each change."""
    names = dict(zip(REPLICA_SIGNALS, ("desired", "ready"), strict=True))
    timeline: dict[str, list[dict[str, Any]]] = {}
    for row in samples:
        points = timeline.setdefault(row["variant"], [])
        last = points[-1] if points else {"desired": None, "ready": None}
        if last[names[row["signal"]]] == row["value"]:
            continue
        at_s = round(row["at_s"] - started_at, 2)
        values = {key: last[key] for key in ("desired", "ready")} | {names[row["signal"]]: int(row["value"])}
        if points and points[-1]["at_s"] == at_s:
            points[-1].update(values)
        else:
            points.append({"at_s": at_s, **values})
    return timeline


def fired_alerts(events: Sequence[Row], started_at: float) -> list[dict[str, Any]]:
    """Alerts that fired, with when they did and whether they have resolved since."""
    fired: dict[str, dict[str, Any]] = {}
    for row in events:
        if row["kind"] != "alert":
            continue
        if row["data"].get("state") == "firing":
            at_s = round(row["at_s"] - started_at, 2)
            first = {"alert": row["subject"], "severity": row["severity"], "first_at_s": at_s, "times": 0}
            entry = fired.setdefault(row["subject"], first)
            entry["times"] += 1
            entry["firing"] = True
        elif row["subject"] in fired:
            fired[row["subject"]]["firing"] = False
    return list(fired.values())


def summary(
    *, requests: Sequence[Row], events: Sequence[Row], samples: Sequence[Row], started_at: float, ended_at: float
) -> dict[str, Any]:
    """The figures of a run.

    Args:
        requests, events, samples: history rows since ``started_at``, oldest first; of the samples only
            :data:`REPLICA_SIGNALS`.
        started_at, ended_at: Unix seconds.
    """
    first_s = min((row["at_s"] for row in requests), default=started_at)
    last_s = max((row["at_s"] + (row["e2e_s"] or 0.0) for row in requests), default=ended_at)
    tokens = sum(row["output_tokens"] or 0 for row in requests)
    outcomes: dict[str, int] = {}
    for row in requests:
        outcomes[row["outcome"]] = outcomes.get(row["outcome"], 0) + 1
    return {
        "duration_s": round(ended_at - started_at, 2),
        "requests": len(requests),
        "outcomes": outcomes,
        "success_rate": success_rate(requests),
        **latencies(requests),
        "tokens_per_s": round(tokens / max(last_s - first_s, 1e-9), 1),
        "replicas": replica_timeline(samples, started_at),
        "scale_events": scale_events(events, started_at),
        "alerts": fired_alerts(events, started_at),
    }
