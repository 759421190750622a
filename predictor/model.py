"""The fitted model: latencies of many candidates at once, in microseconds. Pure.

One law a target: coefficients on physics columns, shared by all, with one set a variant that has rows of its own, and
a multiplicative scale an endpoint. At prediction time all three are one row of a table. Where boosted trees have shown
that they add to it, their tables do.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from predictor import intervals, residual
from predictor.features import WIDTH
from predictor.physics import (
    CONTEXT,
    INPUT,
    TTFT_COLUMNS,
    TTFT_UNITS,
    fill_ttft_columns,
    tpot_by_feature,
    tpot_columns,
    ttft_columns,
    ttft_columns_of,
)

Array = NDArray[np.float64]
Places = NDArray[np.intp]
"""Where a model's tables hold what is known of endpoints (:meth:`LatencyModel.places`)."""

FLOOR_S: Final = 1e-4
"""No prediction is below 0.1 ms."""

TARGETS: Final = ("ttft", "tpot")


class Rung(enum.StrEnum):
    """What a prediction rests on, best first: a closed set, used as a metric label."""

    BOOSTED = "boosted"
    """The law, corrected by boosted trees that were better on newer rows."""
    PHYSICS = "physics"
    """The law, fitted to samples."""
    PRIOR = "prior"
    """What hardware data says; no sample stands behind it."""
    HEURISTIC = "heuristic"
    """Nothing: the router goes by its own counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyPrediction:
    """Latencies in seconds, one an input row."""

    ttft_s: Array
    tpot_s: Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Error on rows newer than all that the scored fit saw; ratios, 1.0 = 100 %."""

    n: int = 0
    mape: float | None = None
    median_ape: float | None = None
    bias: float | None = None
    """Mean signed relative error; above 0 predicts too much."""
    coverage: float | None = None
    """Share of actual values inside the 90 % interval of an independent calibration."""
    width: float | None = None
    """Sharpness: mean log of the 90 % interval's upper over its lower end; smaller is sharper."""
    pinball_s: float | None = None
    """Mean pinball loss of the 90 % quantile, seconds."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Law:
    """What was fitted for one target."""

    shared: Array
    """Coefficients for a variant never seen, shape (k,), >= 0."""
    variants: Mapping[str, Array]
    scales: Mapping[tuple[str, str], float]
    """(endpoint, variant) -> factor on the variant's law."""
    quantiles: Array
    """Of actual / predicted by group, at :data:`predictor.intervals.LEVELS` (:mod:`predictor.conformal`)."""
    samples: int
    score: Score = field(default_factory=Score)
    table: Array | None = None
    """Of :mod:`predictor.residual`, where it was better on newer rows."""
    changed: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """(endpoint, variant) -> rows since it last became faster or slower, where it did (:mod:`predictor.drift`)."""
    widths: Mapping[tuple[str, str], intervals.Width] = field(default_factory=dict)
    """(endpoint, variant) -> how wide its intervals are beside its group's; others are as wide."""

    @property
    def rung(self) -> Rung:
        """What its predictions rest on."""
        if not self.samples:
            return Rung.PRIOR
        return Rung.PHYSICS if self.table is None else Rung.BOOSTED

    def coefficients(self, endpoint: str, variant: str) -> Array:
        """The coefficients that hold for one endpoint of a variant; both may be unknown."""
        return self.variants.get(variant, self.shared) * self.scales.get((endpoint, variant), 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Taught:
    """The rows of one variant that a model was fitted on, as means and bounds."""

    rows: int
    uncached_tokens: float
    """Mean prompt tokens that were computed."""
    output_tokens: float
    """Mean answer."""
    in_flight_most: float
    """Most requests in flight at an endpoint."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LatencyModel:
    """Frozen and ready to predict; make one with :func:`build`."""

    ttft: Law
    tpot: Law
    ranges: Array
    """Smallest and largest value of each feature in training, shape (2, 8)."""
    capacities: Mapping[str, float]
    """Variant -> tokens of KV cache of one replica, where training rows told."""
    fitted_at_s: float
    taught: Mapping[str, Taught]
    """Variant -> what its rows were."""
    _ttft_table: Array
    _tpot_table: Array
    _capacity: Array
    _widths: tuple[Array, Array]
    _most: Array
    _rows: Mapping[tuple[str, str], int]
    _variant_rows: Mapping[str, int]

    @property
    def cold(self) -> bool:
        """No sample of one of the targets stands behind it: it is what hardware data says."""
        return min(self.ttft.samples, self.tpot.samples) == 0

    def with_laws(self, laws: Mapping[str, Law]) -> LatencyModel:
        """With other laws for some targets."""
        return build(ttft=laws.get("ttft", self.ttft), tpot=laws.get("tpot", self.tpot), ranges=self.ranges,
                     capacities=self.capacities, fitted_at_s=self.fitted_at_s, taught=self.taught)  # fmt: skip

    def predict_for(self, matrix: Array, endpoints: Sequence[str], variants: Sequence[str]) -> LatencyPrediction:
        """Latencies of feature rows (n, 8), each at its endpoint (URL) of its variant; either may be unknown."""
        return self.predict_at(matrix, self.places(endpoints, variants))

    def predict_at(self, matrix: Array, places: Places) -> LatencyPrediction:
        """The same for endpoints at these :meth:`places`."""
        ttft = np.einsum("ij,ij->i", ttft_columns(matrix, self._capacity[places]), self._ttft_table[places])
        tpot = np.einsum("ij,ij->i", tpot_columns(matrix), self._tpot_table[places])
        if self.ttft.table is not None or self.tpot.table is not None:
            bins = residual.bins(matrix)
            ttft = ttft if self.ttft.table is None else ttft * residual.factor(self.ttft.table, bins)
            tpot = tpot if self.tpot.table is None else tpot * residual.factor(self.tpot.table, bins)
        return LatencyPrediction(ttft_s=np.maximum(ttft, FLOOR_S), tpot_s=np.maximum(tpot, FLOOR_S))

    def at(self, endpoints: Sequence[str], variants: Sequence[str]) -> Batch:
        """Coefficients of these candidates laid out for one prediction after another."""
        return Batch(self, self.places(endpoints, variants))

    def coefficients(self, endpoints: Sequence[str], variants: Sequence[str]) -> tuple[Array, Array, Array]:
        """Of TTFT (n, 7) and TPOT (n, 5), and the tokens of KV cache (n,), of these candidates."""
        return self.coefficients_at(self.places(endpoints, variants))

    def coefficients_at(self, places: Places) -> tuple[Array, Array, Array]:
        """The same at these :meth:`places`."""
        return self._ttft_table[places], self._tpot_table[places], self._capacity[places]

    def places(self, endpoints: Sequence[str], variants: Sequence[str]) -> Places:
        """Rows of the model's tables: the endpoint's, else the variant's, else the shared one (0)."""
        rows, fallback = self._rows, self._variant_rows
        found = [
            rows[pair] if pair in rows else fallback.get(pair[1], 0) for pair in zip(endpoints, variants, strict=True)
        ]
        return np.array(found, dtype=np.intp)

    def widths_at(self, places: Places) -> tuple[Array, Array]:
        """Widths (n, 2) of TTFT's and of TPOT's intervals at these :meth:`places`."""
        return self._widths[0][places], self._widths[1][places]

    def quantile(self, matrix: Array, point: LatencyPrediction, level: float, places: Places) -> LatencyPrediction:
        """Latencies that stay below with probability ``level``, from point predictions of the same rows.

        Rows beyond what training saw get wider intervals the further out they are: there the law extrapolates.
        """
        logs = intervals.widened(self.logs_at(level, intervals.groups(matrix), places), self.excess(matrix))
        ttft, tpot = np.exp(logs)
        return LatencyPrediction(ttft_s=point.ttft_s * ttft, tpot_s=point.tpot_s * tpot)

    def logs_at(self, level: float, group: NDArray[np.intp], places: Places) -> Array:
        """Log ratios at ``level`` of TTFT and TPOT in each ``group`` at endpoints at these places, (2, ...)."""
        laws = zip((self.ttft, self.tpot), self.widths_at(places), strict=True)
        return np.array([intervals.logs_at(law.quantiles, level, group, widths) for law, widths in laws])

    def outside(self, matrix: Array) -> NDArray[np.bool_]:
        """Rows with a feature above all that training saw: the law extrapolates there."""
        return np.asarray((matrix > self.ranges[1]).any(axis=1))

    def excess(self, matrix: Array) -> Array:
        """How far rows lie above all that training saw: log of the worst feature's ratio to its largest, shape (n,)."""
        return self.excess_of(matrix.T)

    def excess_of(self, rows: Array) -> Array:
        """The same from features (8, n)."""
        return np.asarray(np.log(np.maximum(((rows + 1.0) / self._most).max(axis=0), 1.0)))

    @property
    def rung(self) -> Rung:
        """The lower of both targets'."""
        rungs = list(Rung)
        return max(self.ttft.rung, self.tpot.rung, key=rungs.index)


class Batch:
    """One set of candidates, predicted again and again: fill :attr:`rows`, then :meth:`predict`. Not thread-safe."""

    __slots__ = (
        "_capacity", "_column_lines", "_columns", "_lines", "_logs", "_numbers", "_tpot", "_tpot_start", "_ttft",
        "model", "places", "rows", "tpot_s", "ttft_s",
    )  # fmt: skip

    def __init__(self, model: LatencyModel, places: Places) -> None:
        count = len(places)
        self.model, self.places = model, places
        ttft, tpot, self._capacity = model.coefficients_at(places)
        self._ttft = (ttft * TTFT_UNITS).T.copy()
        self._tpot_start, self._tpot = tpot_by_feature(tpot)
        self._columns = np.empty((len(TTFT_COLUMNS), count))
        self.rows = np.zeros((WIDTH, count))
        """Features, one row a name (:data:`predictor.features.NAMES`), one column a candidate."""
        self._lines, self._column_lines = tuple(self.rows), tuple(self._columns)
        self._numbers = np.arange(count)
        self._logs: dict[float, Array] = {}
        """By level: log ratios of TTFT and TPOT, shape (2, groups x candidates)."""
        self.ttft_s, self.tpot_s = np.empty(count), np.empty(count)

    def predict(self) -> None:
        """Put latencies for :attr:`rows` into :attr:`ttft_s` and :attr:`tpot_s`."""
        fill_ttft_columns(self._lines, self._capacity, self._column_lines)
        np.einsum("ij,ij->j", self._columns, self._ttft, out=self.ttft_s)
        np.einsum("ij,ij->j", self.rows, self._tpot, out=self.tpot_s)
        np.add(self.tpot_s, self._tpot_start, out=self.tpot_s)
        tables = self.model.ttft.table, self.model.tpot.table
        if tables[0] is not None or tables[1] is not None:
            bins = residual.bins_of(self.rows)
            for table, latency_s in zip(tables, (self.ttft_s, self.tpot_s), strict=True):
                if table is not None:
                    np.multiply(latency_s, residual.factor(table, bins), out=latency_s)
        np.maximum(self.ttft_s, FLOOR_S, out=self.ttft_s)
        np.maximum(self.tpot_s, FLOOR_S, out=self.tpot_s)

    def alike(self) -> tuple[Array, Array]:
        """Laws' TTFT and TPOT of one and the same load, the candidates' mean, at each of them."""
        mean = self.rows.mean(axis=1)
        ttft = ttft_columns_of(mean.tolist()) @ self._ttft
        ttft += np.maximum(mean[CONTEXT] + mean[INPUT] - self._capacity, 0.0) * self._ttft[-1]
        return ttft, mean @ self._tpot + self._tpot_start

    def quantiles(self, level: float) -> LatencyPrediction:
        """As :meth:`LatencyModel.quantile`, of the last prediction."""
        if level not in self._logs:
            every_group = np.arange(len(intervals.GROUPS))[:, None]
            self._logs[level] = self.model.logs_at(level, every_group, self.places).reshape(2, -1)
        count = len(self.places)
        logs = self._logs[level].take(intervals.groups_of(self.rows) * count + self._numbers, axis=1)
        ttft, tpot = np.exp(intervals.widened(logs, self.model.excess_of(self.rows)))
        return LatencyPrediction(ttft_s=self.ttft_s * ttft, tpot_s=self.tpot_s * tpot)


def build(
    *, ttft: Law, tpot: Law, ranges: Array, capacities: Mapping[str, float], fitted_at_s: float,
    taught: Mapping[str, Taught] | None = None,
) -> LatencyModel:  # fmt: skip
    """A model from its laws: the coefficient tables are laid out once, so that a prediction only looks up."""
    variants = sorted(set(ttft.variants) | set(tpot.variants))
    pairs = sorted({pair for law in (ttft, tpot) for known in (law.scales, law.widths) for pair in known})
    keys = [("", "")] + [("", variant) for variant in variants] + pairs
    return LatencyModel(
        ttft=ttft,
        tpot=tpot,
        ranges=ranges,
        capacities=capacities,
        fitted_at_s=fitted_at_s,
        taught=taught or {},
        _ttft_table=np.array([ttft.coefficients(*key) for key in keys]),
        _tpot_table=np.array([tpot.coefficients(*key) for key in keys]),
        _capacity=np.array([capacities.get(variant, np.inf) for _, variant in keys]),
        _widths=(_width_table(ttft, keys), _width_table(tpot, keys)),
        _most=ranges[1][:, None] + 1.0,
        _rows={pair: 1 + len(variants) + i for i, pair in enumerate(pairs)},
        _variant_rows={variant: 1 + i for i, variant in enumerate(variants)},
    )


def _width_table(law: Law, keys: Sequence[tuple[str, str]]) -> Array:
    return np.array([law.widths.get(key, (1.0, 1.0)) for key in keys])
