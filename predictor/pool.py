"""The samples that fits draw on: bounded, rare regimes kept, refusals counted by reason. Pure."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np

from predictor.physics import CACHED, INPUT, WAITING
from predictor.samples import RejectedError, Rejection, Sample, from_record

LENGTHS: Final = (256.0, 1024.0, 4096.0)
"""Upper ends of the prompt-length strata, tokens; the last stratum is open."""

ERROR_WINDOW: Final = 500
"""Served predictions that the error looks back on."""


Stratum = tuple[bool, int, bool]
"""Met a queue; length class 0..3; at least half of its prompt was cached."""


def stratum(sample: Sample) -> Stratum:
    """Busy or idle, short or long, cached or not."""
    tokens = sample.features[INPUT]
    cached = tokens > 0 and sample.features[CACHED] >= 0.5 * tokens
    return sample.features[WAITING] > 0, sum(tokens >= limit for limit in LENGTHS), cached


class Pool:
    """At most ``limit`` samples; beyond it the oldest of the fullest stratum goes, so that rare ones stay."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.accepted = 0
        self.rejected: Counter[Rejection] = Counter()
        self._strata: dict[Stratum, deque[tuple[int, Sample]]] = {}

        self._size = 0
        self._errors: dict[str, deque[float]] = {name: deque(maxlen=ERROR_WINDOW) for name in ("ttft", "tpot")}

    def __len__(self) -> int:
        return self._size

    def add(self, sample: Sample) -> None:
        """Keep a checked sample; it counts as newer than all before."""
        self.accepted += 1
        self._size += 1
        self._strata.setdefault(stratum(sample), deque()).append((self.accepted, sample))
        if self._size > self.limit:
            max(self._strata.values(), key=len).popleft()
            self._size -= 1
        self._note_error("ttft", None if sample.censored else sample.ttft_s, sample.predicted_ttft_s)
        self._note_error("tpot", sample.tpot_s, sample.predicted_tpot_s)

    def add_records(self, records: Iterable[Mapping[str, Any]]) -> int:
        """Offer rows of the history one by one; returns how many were samples, the rest is counted by reason."""
        before = self.accepted
        for record in records:
            try:
                self.add(from_record(record))
            except RejectedError as error:
                self.rejected[error.reason] += 1
        return self.accepted - before

    def samples(self) -> list[Sample]:
        """Everything kept, oldest first."""
        return [sample for _, sample in sorted((pair for kept in self._strata.values() for pair in kept), key=_order)]

    def strata(self) -> Mapping[str, int]:
        """Samples kept by stratum: ``idle/0-256``, ``idle/0-256/cached`` ... ``queued/4096+/cached``."""
        ends = ("0-256", "256-1024", "1024-4096", "4096+")
        return {
            f"{'queued' if busy else 'idle'}/{ends[length]}{'/cached' if cached else ''}": len(kept)
            for (busy, length, cached), kept in sorted(self._strata.items())
        }

    def _note_error(self, target: str, actual_s: float | None, predicted_s: float | None) -> None:
        if actual_s and predicted_s:
            self._errors[target].append(abs(predicted_s / actual_s - 1.0))

    def served_error(self) -> dict[str, Any]:
        """Actual against predicted, of what was served: over the newest 500 samples that carried a prediction.

        ``ttft_mape`` and ``tpot_mape`` are means, ``median`` and ``tpot_median`` medians of |predicted / actual - 1|;
        ``None`` while nothing was served. ``n`` counts TTFT predictions.
        """
        ttft, tpot = (np.array(self._errors[name]) for name in ("ttft", "tpot"))
        return {
            "ttft_mape": _or_none(ttft, np.mean),
            "tpot_mape": _or_none(tpot, np.mean),
            "median": _or_none(ttft, np.median),
            "tpot_median": _or_none(tpot, np.median),
            "n": len(ttft),
        }


def _order(pair: tuple[int, Sample]) -> int:
    return pair[0]


def _or_none(values: Any, statistic: Any) -> float | None:
    return float(statistic(values)) if len(values) else None
