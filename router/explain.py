"""A decision in words and numbers: as JSON for the admin port, and short enough for a header. Pure."""

from __future__ import annotations

import json
from typing import Any, Final

from router.imposed import late_everywhere
from router.targets import NO_TARGETS, Targets, told
from router.types import Pick

_SHOWN: Final = 8
"""Endpoints of one header, the best first."""
_LIMIT: Final = 3800
"""Bytes of one header: half of what common proxies take for all."""


def as_json(pick: Pick, matched_tokens: int | None, targets: Targets, held_s: float = 0.0) -> dict[str, Any]:
    """Everything that is known of a pick; ``matched_tokens``: as expected when it was made; ``targets``: held to;
    ``held_s``: the request waited so long at the router."""
    return {
        "endpoint": pick.endpoint.url if pick.endpoint else None,
        "matched_tokens": matched_tokens,
        "reason": pick.reason,
        "probability": pick.probability,
        "scores": pick.scores,
        "dropped": pick.dropped,
        "predictions": {url: prediction._asdict() for url, prediction in pick.predictions.items()},
        "predictor_cold": pick.cold,
        "targets": _held_to(pick, targets),
        "slo_chance": pick.chance,
        "held_s": held_s,
    }


def header(
    pick: Pick, matched_tokens: int | None = None, targets: Targets = NO_TARGETS, held_s: float = 0.0
) -> bytes:  # fmt: skip
    """The same as the value of ``x-fleet-decision``: one line of JSON, the best endpoints only, rounded.

    >>> header(Pick(None, "no_endpoints"))
    b'{"endpoint":null,"reason":"no_endpoints"}'
    """
    found: dict[str, Any] = {"endpoint": pick.endpoint.url if pick.endpoint else None, "reason": pick.reason}
    if pick.endpoint is not None:
        found["matched_tokens"] = matched_tokens
        found["probability"] = _short(pick.probability)
    if pick.prediction is not None:
        found["predicted_ttft_s"] = _short(pick.prediction.ttft_s)
        found["predicted_tpot_s"] = _short(pick.prediction.tpot_s)
    if held_to := _held_to(pick, targets):
        found["targets"] = held_to
    if pick.chance is not None:
        found["slo_chance"] = _short(pick.chance)
    if held_s:
        found["held_s"] = _short(held_s)
    return _fitted(found, pick)


def _fitted(found: dict[str, Any], pick: Pick) -> bytes:
    """With the scores of as many endpoints, the best first, as a header holds."""
    best = sorted(pick.scores.items(), key=lambda entry: -entry[1]["total"])[:_SHOWN]
    while True:
        if best:
            found["scores"] = {url: {name: _short(score) for name, score in row.items()} for url, row in best}
        if pick.dropped:
            found["dropped"] = len(pick.dropped)
        text = json.dumps(found, separators=(",", ":"), ensure_ascii=True).encode()
        if len(text) <= _LIMIT or not best:
            return text
        best = best[:-1]
        if not best:
            found.pop("scores", None)


def _held_to(pick: Pick, targets: Targets) -> dict[str, dict[str, Any]]:
    """Who named which target, and whether the request was predicted to miss its TPOT wherever it went."""
    found = told(targets)
    if targets.tpot_s is not None and pick.predicted:
        tpots = [one.tpot_s for one in pick.predicted]
        found["tpot"]["late_everywhere"] = late_everywhere(tpots, targets.tpot_s)
    return found


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")
