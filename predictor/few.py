"""Latencies of a few candidates in plain floats: below some twenty, numpy's fixed cost is more than all of this. Pure.

The same arithmetic as :class:`predictor.model.Batch`, one candidate at a time; a test holds both equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, log1p
from typing import Final

from predictor import residual
from predictor.model import FLOOR_S, Array, LatencyModel
from predictor.physics import CHUNK_TOKENS

_STEPS: Final = 1e3 / CHUNK_TOKENS
_LAST: Final = residual.BINS - 1
_UNITS: Final = tuple(float(unit) for unit in residual.UNIT.ravel())
_WIDTHS: Final = tuple(float(width) for width in residual.STEP.ravel())

Table = tuple[tuple[float, ...], ...]
Row = tuple[float, float, float, float, float, float, float]
"""Input, cached, pending, requests, context, waiting, KV: features but ``running``, which no law asks for."""


class Few:
    """One set of candidates, predicted again and again.

    Args:
        model: the laws.
        endpoints: URLs of the candidates.
        variants: of each.
    """

    __slots__ = ("_places", "_tpot_table", "_ttft_table", "model")

    def __init__(self, model: LatencyModel, endpoints: Sequence[str], variants: Sequence[str]) -> None:
        self.model = model
        self._places = list(zip(*(part.tolist() for part in model.coefficients(endpoints, variants)), strict=True))
        self._ttft_table, self._tpot_table = _table(model.ttft.table), _table(model.tpot.table)

    def predict(self, rows: Sequence[Row]) -> list[tuple[float, float]]:
        """TTFT and TPOT in seconds of each candidate's features."""
        tables = self._ttft_table, self._tpot_table
        if tables[0] is None and tables[1] is None:
            found = [_laws(place, row) for place, row in zip(self._places, rows, strict=True)]
        else:
            found = [_corrected(_laws(place, row), row, tables) for place, row in zip(self._places, rows, strict=True)]
        return [(ttft if ttft > FLOOR_S else FLOOR_S, tpot if tpot > FLOOR_S else FLOOR_S) for ttft, tpot in found]

    def alike(self, rows: Sequence[Row]) -> list[tuple[float, float]]:
        """Laws' TTFT and TPOT of one and the same load, the candidates' mean, at each of them."""
        count = len(rows)
        mean = tuple(sum(column) / count for column in zip(*rows, strict=True))
        return [_laws(place, mean) for place in self._places]


def _laws(place: tuple[list[float], list[float], float], row: Sequence[float]) -> tuple[float, float]:
    """See :data:`predictor.physics.TTFT_COLUMNS` and ``TPOT_COLUMNS``."""
    (start, by_k, by_length, by_pending, by_requests, by_context, by_overflow), tpot, capacity = place
    size, cached, pending, requests, context, _, _ = row
    uncached = (size - cached) * 1e-3 if size > cached else 0.0
    pending *= 1e-3
    steps = (uncached + pending) * _STEPS + 1.0
    ttft = start + by_k * uncached + by_length * (uncached * size * 1e-3) + by_pending * pending
    ttft += by_requests * (steps * requests) + by_context * (steps * context * 1e-3)
    if (beyond := context + size - capacity) > 0.0:
        ttft += by_overflow * (beyond * 1e-3)
    return ttft, (
        tpot[0] + tpot[1] * requests + tpot[2] * (context * 1e-3) + tpot[3] * pending + tpot[4] * (size * 1e-3)
    )


def _table(table: Array | None) -> Table | None:
    return None if table is None else tuple(tuple(axis) for axis in table.tolist())


def _corrected(
    found: tuple[float, float], row: Row, tables: tuple[Table | None, Table | None]
) -> tuple[float, float]:  # fmt: skip
    """What the law leaves over: :mod:`predictor.residual`."""
    size, cached, pending, requests, context, waiting, kv = row
    loads = (size - cached if size > cached else 0.0, size, pending, requests, context, waiting, kv)
    bins = [
        place if (place := int(log1p(load / unit) / width)) < _LAST else _LAST
        for load, unit, width in zip(loads, _UNITS, _WIDTHS, strict=True)
    ]
    ttft, tpot = (
        one if table is None else one * exp(sum([axis[place] for axis, place in zip(table, bins, strict=True)]))
        for one, table in zip(found, tables, strict=True)
    )
    return ttft, tpot
