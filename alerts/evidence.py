"""Evidence for a diagnosis from rows of the history: the last minutes, and those before them. Reads nothing itself.

What the history does not hold (GPU, network, Kubernetes) stays unknown; a person can supply it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from alerts.diagnosis import Evidence
from fleet import signals as s
from fleet.history.rows import RequestOutcome
from fleet.types import Reason

Row = Mapping[str, Any]
BEFORE_WINDOWS: Final = 6
"""How many windows "before" takes: half an hour for a window of five minutes."""
_FAILED: Final = frozenset({RequestOutcome.ERROR, RequestOutcome.TIMEOUT, RequestOutcome.REJECTED})
_BLIND: Final = frozenset({Reason.STALE, Reason.NO_SIGNAL})


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """Rows of one model (or of all) that reach back over both windows."""

    requests: Sequence[Row] = ()
    samples: Sequence[Row] = ()
    decisions: Sequence[Row] = ()


def evidence(rows: Recorded, *, at_s: float, window_s: float) -> Evidence:
    """Values by the names in :data:`alerts.trees.EVIDENCE`.

    Args:
        rows: what the history says.
        at_s: end of the window, Unix seconds.
        window_s: length of the last window; "before" is :data:`BEFORE_WINDOWS` such windows ahead of it, or what the
            history has of them.
    """
    start_s, earliest_s = at_s - window_s, at_s - window_s * (1 + BEFORE_WINDOWS)
    now = _between(rows, start_s, at_s)
    before = _between(rows, earliest_s, start_s)
    found = {**_requests(now.requests, window_s), **_engines(now.samples), **_scaling(now, rows.decisions, at_s)}
    known_s = start_s - min((row["at_s"] for row in (*before.requests, *before.samples)), default=earliest_s)
    earlier = {**_requests(before.requests, known_s), **_engines(before.samples)}
    found |= {f"{name.removesuffix('_s')}_before_s" if name.endswith("_s") else f"{name}_before": earlier.get(name)
              for name in ("ttft_p95_s", "hit_ratio", "output_tps", "request_rps", "input_tokens")}  # fmt: skip
    found["queue_growth"] = _difference(found.get("queue_mean"), earlier.get("queue_mean"))
    found["requests_recorded"] = float(len(rows.requests))
    return found


def _between(rows: Recorded, start_s: float, end_s: float) -> Recorded:
    def inside(some: Sequence[Row]) -> Sequence[Row]:
        return [row for row in some if start_s <= row["at_s"] < end_s]

    return Recorded(requests=inside(rows.requests), samples=inside(rows.samples), decisions=inside(rows.decisions))


def _difference(left: float | None, right: float | None) -> float | None:
    return None if left is None or right is None else left - right


def _p95(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.quantile(known, 0.95)) if known else None


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _requests(requests: Sequence[Row], window_s: float) -> dict[str, float | None]:
    if not requests or window_s <= 0:
        return {}
    served = [row for row in requests if row["outcome"] == RequestOutcome.OK]
    failed = [row for row in requests if row["outcome"] in _FAILED]
    refused = sum(row["outcome"] == RequestOutcome.REJECTED for row in requests)
    by_endpoint: dict[str, int] = {}
    for row in failed:
        if row["endpoint"]:
            by_endpoint[row["endpoint"]] = by_endpoint.get(row["endpoint"], 0) + 1
    return {
        "ttft_p95_s": _p95(row["ttft_s"] for row in served),
        "tpot_p95_s": _p95(row["tpot_s"] for row in served),
        "hit_ratio": _share(sum(r["cached_tokens"] for r in served), sum(r["input_tokens"] for r in served)),
        "input_tokens": _mean([row["input_tokens"] for row in served]),
        "output_tps": sum(row["output_tokens"] for row in served) / window_s,
        "request_rps": len(requests) / window_s,
        "error_ratio": len(failed) / len(requests),
        "rejected_ratio": refused / len(requests),
        "one_endpoint_error_share": _share(max(by_endpoint.values(), default=0), len(failed)),
        "prediction_error": _mean([
            abs(row["predicted_ttft_s"] - row["ttft_s"]) / row["ttft_s"]
            for row in served if row["predicted_ttft_s"] is not None and row["ttft_s"]
        ]),
    }  # fmt: skip


def _by(samples: Sequence[Row], signal: str, key: str) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for row in samples:
        if row["signal"] == signal:
            found.setdefault(row[key], []).append(row["value"])
    return found


def _engines(samples: Sequence[Row]) -> dict[str, float | None]:
    queues = [float(np.mean(values)) for values in _by(samples, s.WAITING.name, "endpoint").values()]
    kv = [max(values) for values in _by(samples, s.KV_UTILISATION.name, "endpoint").values()]
    found: dict[str, float | None] = {"kv_max": max(kv, default=None)}
    if queues:
        found |= {"queue_mean": _mean(queues), "queue_max": max(queues), "queue_total": sum(queues),
                  "queue_imbalance": max(queues) / (min(queues) + 1.0) if len(queues) > 1 else None}  # fmt: skip
    return found


def _newest(samples: Sequence[Row], signal: str, fold: Callable[[list[float]], float]) -> float | None:
    latest = [values[-1] for values in _by(samples, signal, "variant").values()]
    return fold(latest) if latest else None


def _scaling(now: Recorded, decisions: Sequence[Row], at_s: float) -> dict[str, float | None]:
    newest: dict[str, Row] = {row["variant"]: row for row in decisions if row["at_s"] < at_s}
    reasons = [row["reason"] for row in newest.values()]
    passes = [row["at_s"] for row in now.samples if row["signal"] == s.WVA_DESIRED.name]
    passes += [row["at_s"] for row in newest.values()]
    return {
        "replicas_ready": _newest(now.samples, s.WVA_CURRENT.name, sum),
        "replicas_desired": _newest(now.samples, s.WVA_DESIRED.name, sum),
        "saturation": _newest(now.samples, s.WVA_SATURATION.name, max),
        "at_max": float(reasons.count(Reason.AT_MAX)) if reasons else None,
        "held_blind": float(sum(reason in _BLIND for reason in reasons)) if reasons else None,
        "decision_age_s": at_s - max(passes) if passes else None,
    }
