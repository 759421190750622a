"""What latency is made of: non-negative columns, and a robust non-negative fit on them. Pure.

Every column grows (or stays) when the load that it stands for grows, and every coefficient is at least 0, so a
prediction can neither be negative nor fall when work is added.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from predictor.features import NAMES

Array = NDArray[np.float64]
Lines = Array | Sequence[Array]
"""Rows of an array, or each of them by itself, which is quicker to ask for."""

INPUT, CACHED, PENDING, REQUESTS, CONTEXT, WAITING, RUNNING, KV = range(len(NAMES))
"""Positions in a feature row (:data:`predictor.features.NAMES`)."""

TTFT_COLUMNS: Final = (
    "constant",
    "uncached_k",
    "uncached_x_length_m",
    "pending_k",
    "steps_x_requests",
    "steps_x_context_k",
    "overflow_k",
)
"""``_k`` thousands of tokens, ``_m`` millions; a step is one pass of the engine over :data:`CHUNK_TOKENS` of prompt;
overflow is what this request and those in flight need beyond the KV cache."""

TTFT_UNITS: Final = np.array([1.0, 1e-3, 1e-6, 1e-3, 1.0, 1e-3, 1e-3])
"""What one token (or its product) is of a column."""

TPOT_COLUMNS: Final = ("constant", "requests", "context_k", "pending_k", "length_k")
TPOT_FEATURES: Final = [REQUESTS, CONTEXT, PENDING, INPUT]
"""Those of its columns after the constant."""
TPOT_UNITS: Final = np.array([1.0, 1e-3, 1e-3, 1e-3])

CHUNK_TOKENS: Final = 2048.0
"""Prompt tokens of one engine step (vLLM's default ``max_num_batched_tokens`` for chunked prefill)."""

_TINY: Final = 1e-9
_NEAR: Final = 1e-3
"""Logarithms that differ by less: their mean is the geometric one."""
_SMALL: Final = 0.5
"""A target below this share of the median one is tiny: an endpoint that always says 1 ms must not be a start."""
_MOST_OFF: Final = 5.0
"""A prediction further off than this factor counts as off by this factor in the yardstick."""
_CAPACITY_ROWS: Final = 8
"""Fewest rows that tell a KV capacity ..."""
_CAPACITY_ERROR: Final = 0.03
"""... if they agree so well that their median is this sure: a capacity that is too small sees overflow everywhere."""


def ttft_columns(matrix: Array, capacity: Array | float = np.inf) -> Array:
    """Physics columns of TTFT from feature rows (n, 8): shape (n, 7), in the order of :data:`TTFT_COLUMNS`.

    The engine works off the prompts before this one (``pending``) and this one's uncached part, chunk by chunk; each
    chunk's step also carries the decoding of all requests in flight and reads their context. Once the KV cache is
    full, a prompt waits until others have freed what it lacks (``overflow``). The scraped queue length has no column:
    it is older than the router's own counts of the same requests, and models with it were worse in every trial.

    Args:
        matrix: feature rows, all >= 0.
        capacity: KV cache of each row's endpoint, tokens, shape (n,); infinite where unknown.
    """
    columns = np.empty((len(TTFT_COLUMNS), matrix.shape[0]))
    fill_ttft_columns(matrix.T, capacity, columns)
    return np.asarray(columns.T * TTFT_UNITS)


def fill_ttft_columns(rows: Lines, capacity: Array | float, out: Lines) -> None:
    """The same in tokens, and transposed: from features (8, n) into ``out`` (7, n), :data:`TTFT_UNITS` not applied."""
    steps, uncached, square, pending, by_requests, by_context, overflow = out
    np.subtract(rows[INPUT], rows[CACHED], out=uncached)
    np.maximum(uncached, 0.0, out=uncached)
    np.multiply(uncached, rows[INPUT], out=square)
    np.copyto(pending, rows[PENDING])
    np.add(uncached, pending, out=steps)
    np.multiply(steps, 1.0 / CHUNK_TOKENS, out=steps)
    np.add(steps, 1.0, out=steps)
    np.multiply(steps, rows[REQUESTS], out=by_requests)
    np.multiply(steps, rows[CONTEXT], out=by_context)
    np.add(rows[CONTEXT], rows[INPUT], out=overflow)
    np.subtract(overflow, capacity, out=overflow)
    np.maximum(overflow, 0.0, out=overflow)
    steps.fill(1.0)  # its place is the constant's


def ttft_columns_of(row: Sequence[float]) -> Array:
    """The same of one row whose cache has no end: numpy costs ten times as much for so few numbers."""
    size, pending = row[INPUT], row[PENDING]
    uncached = max(size - row[CACHED], 0.0)
    steps = (uncached + pending) / CHUNK_TOKENS + 1.0
    return np.array((1.0, uncached, uncached * size, pending, steps * row[REQUESTS], steps * row[CONTEXT], 0.0))


def tpot_columns(matrix: Array) -> Array:
    """Physics columns of TPOT from feature rows (n, 8): shape (n, 5), in the order of :data:`TPOT_COLUMNS`."""
    return np.column_stack((np.ones(len(matrix)), matrix[:, TPOT_FEATURES] * TPOT_UNITS))


def tpot_by_feature(coefficients: Array) -> tuple[Array, Array]:
    """The constant (n,) of TPOT's law and what it asks for one of each feature (8, n), from coefficients (n, 5).

    Its columns are features as they are, so that ``constant + sum of features times these`` needs no columns.
    """
    found = np.zeros((len(NAMES), len(coefficients)))
    found[TPOT_FEATURES] = (coefficients[:, 1:] * TPOT_UNITS).T
    return coefficients[:, 0].copy(), found


def kv_capacity(matrix: Array) -> float:
    """Tokens of KV cache, from feature rows of one kind of endpoint; infinite where they cannot tell.

    Without a queue, tokens in flight over KV utilisation is the capacity. The scrape is a little older than the
    tokens, so single rows err both ways: the median is taken, of caches that are not near empty.
    """
    utilisation = matrix[:, KV]
    told = (matrix[:, WAITING] == 0) & (matrix[:, CONTEXT] > 0) & (utilisation > 0.2) & (utilisation < 0.95)
    if told.sum() < _CAPACITY_ROWS:
        return float("inf")
    tokens = matrix[told, CONTEXT] / utilisation[told]
    middle = float(np.median(tokens))
    error = 1.4826 * float(np.median(np.abs(tokens / middle - 1.0))) / np.sqrt(len(tokens))
    return middle if error <= _CAPACITY_ERROR else float("inf")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prior:
    """What is expected of coefficients before there are many rows."""

    proportions: Array
    """Shape (k,), >= 0; their common size comes from the data. 0: nothing is expected."""
    rows: float
    """A coefficient that is off by 100 % costs as much as so many rows that are."""


def fit_nonnegative(
    columns: Array, target: Array, weights: Array | None = None, *, prior: Prior | None = None, rounds: int = 5
) -> Array:
    """Coefficients >= 0 that minimise the relative error of ``columns @ coefficients`` against ``target``.

    The first round divides errors by the target, where it is not tiny (one that is would outweigh all others); the
    later ones by the logarithmic mean of target and prediction, which makes them log errors and so does not favour
    predicting too little. Robust: rows whose error is far beyond the usual (1.5 robust standard deviations) count less
    (Huber weights), so that stalls and liars bend the fit only a little.

    Args:
        columns: shape (n, k), n >= 1, finite.
        target: shape (n,), > 0.
        weights: shape (n,), how many rows each row stands for; default 1.
        prior: what is expected of the coefficients: it rules where few rows, or rows of one level of load, tell little,
            and is forgotten as they come.
        rounds: fits in all.
    Raises: RuntimeError if the solver does not converge.
    """
    base = np.ones(len(target)) if weights is None else weights
    emphasis, yardstick = base, np.maximum(target, _SMALL * float(np.median(target)))
    pull = np.empty((0, columns.shape[1])) if prior is None else _pull(columns, target, prior.proportions)
    pull_weight = np.full(len(pull), 0.0 if prior is None else prior.rows)
    coefficients = np.zeros(columns.shape[1])
    for _ in range(rounds):
        rows = np.concatenate((columns / yardstick[:, None], pull))
        goal, weight = np.ones(len(rows)), np.concatenate((emphasis, pull_weight))
        goal[: len(target)] = target / yardstick
        coefficients = _weighted_nnls(rows, goal, weight)
        predicted = np.maximum(columns @ coefficients, _TINY)
        emphasis = base * _huber(np.log(predicted / target))
        yardstick = _log_mean(target, np.maximum(predicted, target / _MOST_OFF))
    return coefficients


def _log_mean(one: Array, two: Array) -> Array:
    """Logarithmic mean: differences divided by it are differences of logarithms."""
    ratio = np.log(two / one)
    near = np.abs(ratio) < _NEAR
    return np.where(near, np.sqrt(one * two), (two - one) / np.where(near, 1.0, ratio))


def _pull(columns: Array, target: Array, prior: Array) -> Array:
    """Rows that draw each coefficient to its expected share: one where it is as expected."""
    expected = columns @ prior
    told = expected > 0
    size = float(np.exp(np.median(np.log(target[told] / expected[told])))) if told.any() else 1.0
    known = np.flatnonzero(prior > 0)
    rows = np.zeros((len(known), len(prior)))
    rows[np.arange(len(known)), known] = 1.0 / (size * prior[known])
    return rows


def _weighted_nnls(columns: Array, target: Array, weights: Array) -> Array:
    """argmin over x >= 0 of sum of weights * (columns @ x - target)**2, on normalised columns."""
    root = np.sqrt(weights)
    scaled = columns * root[:, None]
    norms = np.maximum(np.linalg.norm(scaled, axis=0), _TINY)
    scaled /= norms
    orthogonal, triangle = np.linalg.qr(scaled)  # same solution from k rows instead of n
    solution, _ = nnls(triangle, orthogonal.T @ (root * target), maxiter=50 * columns.shape[1])
    return np.asarray(solution / norms, dtype=np.float64)


def _huber(error: Array) -> Array:
    size = np.abs(error)
    limit = max(1.5 * 1.4826 * float(np.median(size)), 0.05)
    return np.minimum(1.0, limit / np.maximum(size, _TINY))
