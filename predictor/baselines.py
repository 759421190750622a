"""Other ways to predict latency, to be measured beside ours with their authors' settings. Pure.

``upstream``: boosted trees on upstream's features with their hyper-parameters; the mean objective (their chart's
default) for the point, quantile objectives for intervals; XGBoost in theirs, scikit-learn's histogram trees here.
``token-load``: work in front of a request, in tokens. ``lmetric``: new prefill tokens times batch size (arXiv
2603.15202). The last two rank endpoints by design; a line fitted to the same rows turns them into seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingRegressor

from predictor.fit import fit_model
from predictor.model import TARGETS, LatencyModel
from predictor.physics import CACHED, INPUT, KV, PENDING, REQUESTS, RUNNING, WAITING, fit_nonnegative
from predictor.samples import Dataset
from predictor.trial import backtest, calibrated, of, with_tables

Array = NDArray[np.float64]
Band = tuple[Array, Array]


class Fitted(Protocol):
    """A method after training."""

    def point(self, rows: Dataset, target: str) -> Array:
        """Predictions of ``ttft`` or ``tpot``, seconds."""
        ...

    def band(self, rows: Dataset, target: str) -> Band | None:
        """A 90 % interval, seconds; ``None``: the method has none."""
        ...

    def upper(self, rows: Dataset, target: str) -> Array | None:
        """The 90 % quantile, seconds."""
        ...


class Method(Protocol):
    """A way to predict."""

    def __call__(self, rows: Dataset) -> Fitted:
        """Train on ``rows``, oldest first."""
        ...


# ---- ours


@dataclass(frozen=True, slots=True)
class Ours:
    """A fitted :class:`predictor.model.LatencyModel`."""

    model: LatencyModel

    def point(self, rows: Dataset, target: str) -> Array:
        """See :class:`Fitted`."""
        return of(self.model.predict_for(rows.matrix, rows.endpoints, rows.variants), target)

    def band(self, rows: Dataset, target: str) -> Band | None:
        """See :class:`Fitted`."""
        return self._at(rows, target, 0.05), self._at(rows, target, 0.95)

    def upper(self, rows: Dataset, target: str) -> Array | None:
        """See :class:`Fitted`."""
        return self._at(rows, target, 0.9)

    def _at(self, rows: Dataset, target: str, level: float) -> Array:
        places = self.model.places(rows.endpoints, rows.variants)
        return of(self.model.quantile(rows.matrix, self.model.predict_at(rows.matrix, places), level, places), target)


def ours(rows: Dataset) -> Ours:
    """As production fits, boosted where that wins."""
    trial = backtest(rows, now_s=0.0)
    return Ours(calibrated(with_tables(fit_model(rows, now_s=0.0), rows, trial.boosted), trial))


def physics(rows: Dataset) -> Ours:
    """Ours without boosted trees."""
    return Ours(calibrated(fit_model(rows, now_s=0.0), backtest(rows, now_s=0.0, boosting=False)))


# ---- upstream's settings


class _Constant:
    """Their model before it has rows."""

    def predict(self, rows: Array) -> Array:
        """10 ms for everything."""
        return np.full(len(rows), 0.010)


@dataclass(frozen=True, slots=True)
class Upstream:
    """Trees by target and objective (``mean``, or a level)."""

    trees: Mapping[tuple[str, float | None], HistGradientBoostingRegressor | _Constant]

    def point(self, rows: Dataset, target: str) -> Array:
        """See :class:`Fitted`."""
        return self._said(rows, target, None)

    def band(self, rows: Dataset, target: str) -> Band | None:
        """See :class:`Fitted`."""
        return self._said(rows, target, 0.05), self._said(rows, target, 0.95)

    def upper(self, rows: Dataset, target: str) -> Array | None:
        """See :class:`Fitted`."""
        return self._said(rows, target, 0.9)

    def _said(self, rows: Dataset, target: str, level: float | None) -> Array:
        return np.maximum(self.trees[target, level].predict(upstream_features(rows.matrix, target)), 1e-4)


def upstream_features(matrix: Array, target: str) -> Array:
    """Upstream's columns, as far as our features tell them."""
    rows = matrix.T
    share = np.clip(rows[CACHED] / np.maximum(rows[INPUT], 1.0), 0.0, 1.0)
    common = [rows[WAITING] > 0, rows[KV], rows[INPUT], rows[WAITING], rows[RUNNING], rows[PENDING]]
    if target == "ttft":
        common += [share, (1.0 - share) * rows[INPUT], np.digitize(share, (0.25, 0.5, 0.75))]
    return np.column_stack(common).astype(np.float64)


def upstream(rows: Dataset) -> Upstream:
    """200 trees of depth 6, rate 0.05, L2 0.1, at least 5 rows a leaf; no log target, no constraints."""
    trees: dict[tuple[str, float | None], HistGradientBoostingRegressor | _Constant] = {}
    for target in TARGETS:
        seen = rows.observed(target)
        columns, actual = upstream_features(rows.matrix[seen], target), rows.target(target)[seen]
        for level in (None, 0.05, 0.9, 0.95):
            trees[target, level] = _tree(level).fit(columns, actual) if len(actual) >= 10 else _Constant()
    return Upstream(trees)


def _tree(level: float | None) -> HistGradientBoostingRegressor:
    loss = {"loss": "squared_error"} if level is None else {"loss": "quantile", "quantile": level}
    return HistGradientBoostingRegressor(max_iter=200, max_depth=6, learning_rate=0.05, l2_regularization=0.1,
                                         min_samples_leaf=5, early_stopping=False, random_state=42, **loss)  # fmt: skip


# ---- rankings in seconds


@dataclass(frozen=True, slots=True)
class Ranking:
    """A line through one figure of load."""

    kind: str
    coefficients: Mapping[str, Array]

    def point(self, rows: Dataset, target: str) -> Array:
        """See :class:`Fitted`."""
        return np.maximum(_load(self.kind, rows.matrix) @ self.coefficients[target], 1e-4)

    def band(self, _rows: Dataset, _target: str) -> Band | None:
        """It has none."""
        return None

    def upper(self, _rows: Dataset, _target: str) -> Array | None:
        """It has none."""
        return None


def _load(kind: str, matrix: Array) -> Array:
    rows = matrix.T
    work = rows[PENDING] + np.maximum(rows[INPUT] - rows[CACHED], 0.0)
    figure = work if kind == "token-load" else work * (rows[REQUESTS] + 1.0)
    return np.column_stack((np.ones(len(figure)), figure * 1e-3))


def token_load(rows: Dataset) -> Ranking:
    """Prompt tokens to be computed there before a first token of this one."""
    return _ranking("token-load", rows)


def lmetric(rows: Dataset) -> Ranking:
    """The same, times the batch."""
    return _ranking("lmetric", rows)


def _ranking(kind: str, rows: Dataset) -> Ranking:
    found = {}
    for target in TARGETS:
        seen = rows.observed(target)
        found[target] = fit_nonnegative(_load(kind, rows.matrix[seen]), rows.target(target)[seen])
    return Ranking(kind, found)


METHODS: Final[Mapping[str, Method]] = {
    "ours": ours, "physics": physics, "upstream": upstream, "token-load": token_load, "lmetric": lmetric,
}  # fmt: skip
"""By name; ``quantile-net`` joins them where torch is installed (:mod:`predictor.quantile_net`)."""
