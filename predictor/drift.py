"""When an endpoint became another one: Page-Hinkley on its signed log errors. Pure.

A throttled GPU, another engine at the old address or a noisy neighbour shows as errors of one sign. The test adds up
how far each error is from the mean so far (less a tolerance); when the sum has risen high enough above its lowest
point, the change was there. It looks at stored rows in order, so nothing is kept between two fits and a fit that is
repeated says the same.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from predictor.scales import positions

Array = NDArray[np.float64]
Key = TypeVar("Key", bound=Hashable)

TOLERANCE: Final = 0.75
"""Shifts smaller than this many standard deviations of an error are borne."""
THRESHOLD: Final = 20.0
"""Sum, in standard deviations, that is an alarm: a shift by 2.4 of them (1.8x at 25 % error) takes a dozen rows."""
_LEAST: Final = 0.1
"""Nor is a shift of less than about this (log) worth a new start ..."""
_ALONE: Final = 0.3
"""... or, where no other endpoint tells what the load of the time did, than this."""
_MOST: Final = 3.0
"""One error counts as no more standard deviations than this: a stall is no drift."""
_SETTLED: Final = 8
"""Rows that tell the usual error before a change can be seen."""


def epochs(log_ratio: Array, apart: Array, keys: Sequence[Key]) -> NDArray[np.intp]:
    """For each row, how many changes its group had seen by then: 0 before the first.

    A change shows both in an endpoint's own errors and against those of the others: what the load does to all shows in
    the first only, and what a neighbour does in the second only.

    Args:
        log_ratio: log(actual / predicted), shape (n,), oldest first, finite.
        apart: the same, less what the others had (:func:`predictor.scales.relative`).
        keys: the group of each row.
    """
    found = np.zeros(len(log_ratio), dtype=np.intp)
    groups = positions(keys)
    log_ratio = _agreed(log_ratio, apart, groups.values())
    spread = max(1.4826 * float(np.median(np.abs(log_ratio - np.median(log_ratio)))), 0.05) if len(log_ratio) else 1.0
    tolerance = max(TOLERANCE, (_ALONE if len(groups) == 1 else _LEAST) / spread)
    for rows in groups.values():
        for start in changes(log_ratio[rows] / spread, tolerance=tolerance):
            found[rows[start:]] += 1
    return found


def _agreed(one: Array, two: Array, groups: Iterable[Sequence[int]]) -> Array:
    """Of two deviations from a group's median the smaller, and 0 where they contradict each other."""
    found = np.zeros_like(one)
    for rows in groups:
        a, b = one[rows] - np.median(one[rows]), two[rows] - np.median(two[rows])
        found[rows] = np.where(a * b > 0, np.sign(a) * np.minimum(np.abs(a), np.abs(b)), 0.0)
    return found


def changes(errors: Array, *, tolerance: float = TOLERANCE) -> list[int]:
    """Positions at which the mean of standardised ``errors`` changed by more than twice ``tolerance``, in order."""
    found: list[int] = []
    start = 0
    while (change := _first_change(errors, start, tolerance)) is not None:
        found.append(change)
        start = change
    return found


def _first_change(errors: Array, start: int, tolerance: float) -> int | None:
    """Where the first change after ``start`` began; ``None`` when the rest is alike."""
    values = errors[start:].tolist()
    settled = values[:_SETTLED]
    if len(settled) < _SETTLED:
        return None
    mean, count = float(np.median(settled)), _SETTLED
    up = down = 0.0
    up_from = down_from = _SETTLED
    for index in range(_SETTLED, len(values)):
        off = min(max(values[index] - mean, -_MOST), _MOST)
        up, down = up + off - tolerance, down - off - tolerance
        if up <= 0.0:
            up, up_from = 0.0, index + 1
        if down <= 0.0:
            down, down_from = 0.0, index + 1
        if max(up, down) > THRESHOLD:
            return start + (up_from if up >= down else down_from)
        count += 1
        mean += off / count
    return None
