"""Quantiles of the ratio actual / predicted, by the kind of load met and by endpoint: how they are looked up. Pure.

A latency quantile is the point prediction times the ratio's quantile: the group's, whose distance from the group's
middle is stretched by what the endpoint's own errors ask for. :mod:`predictor.conformal` finds both.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from predictor.physics import CACHED, INPUT, PENDING, WAITING

Array = NDArray[np.float64]
Width = tuple[float, float]
"""What an endpoint's intervals are stretched by below the middle and above it (1: as wide as its group's)."""

LEVELS: Final = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
"""Levels for which ratios are stored; between them they are interpolated."""
MIDDLE: Final = LEVELS.index(0.5)
_ABOVE: Final = np.array([level >= 0.5 for level in LEVELS], dtype=np.intp)

GROUPS: Final = ("idle", "pending", "behind", "queued")
"""``idle``: no prompt of ours was being computed at the endpoint; ``pending``: some were; ``behind``: more tokens of
them than of this request's own, so that its time hangs on theirs; ``queued``: the engine itself told of a queue. How
wide the errors are differs more between these than within them."""
_QUEUED: Final = GROUPS.index("queued")


def queued(matrix: Array) -> NDArray[np.bool_]:
    """Rows (of feature rows (n, 8)) that met a queue at their endpoint."""
    return matrix[:, WAITING] > 0


def groups(matrix: Array) -> NDArray[np.intp]:
    """Positions in :data:`GROUPS` of feature rows (n, 8)."""
    return groups_of(matrix.T)


def groups_of(rows: Array) -> NDArray[np.intp]:
    """The same from features (8, n)."""
    pending = rows[PENDING]
    found: NDArray[np.intp] = (pending > 0).astype(np.intp)
    found += pending > np.maximum(rows[INPUT] - rows[CACHED], 0.0)
    found[rows[WAITING] > 0] = _QUEUED
    return found


def at_level(table: Array, level: float) -> Array:
    """The ratio at ``level`` (in 0.01 .. 0.99, clipped) by group, shape (groups,)."""
    return np.array([np.interp(level, LEVELS, row) for row in table])


def logs_at(table: Array, level: float, group: NDArray[np.intp], widths: Array) -> Array:
    """Logarithms of the ratios at ``level``, one for each of ``group``, at endpoints of these widths.

    Args:
        table: quantiles of ratio at :data:`LEVELS`, shape (groups, levels), > 0.
        level: in 0.01 .. 0.99, clipped.
        group: positions in :data:`GROUPS`, of a shape that goes with (n,).
        widths: a :data:`Width` each, shape (n, 2).
    """
    middle = np.log(table[:, MIDDLE])
    apart = np.log(at_level(table, level)) - middle
    return np.asarray(middle[group] + apart[group] * widths[:, int(level >= 0.5)])


def row_of_logs(table: Array, group: int, width: Array) -> Array:
    """The same at all of :data:`LEVELS` in one group, at an endpoint of this width, shape (levels,)."""
    row = np.log(table[group])
    return np.asarray(row[MIDDLE] + (row - row[MIDDLE]) * width[_ABOVE])


def widened(logs: Array, excess: Array) -> Array:
    """Logarithms of ratios, moved away from 0 where a row lies outside what training saw.

    Args:
        logs: at one level, one a row.
        excess: how far beyond, as :meth:`predictor.model.LatencyModel.excess` says; 0 inside.
    """
    return np.asarray(np.copysign(np.abs(logs) * (1.0 + excess) + 0.25 * excess, logs))
