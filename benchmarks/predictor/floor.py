"""What nobody can predict: the error that is left when everything but the future is known.

At some decisions the run is split (``fork``) into as many as there are futures: the present is the same to the last
token, what comes after is drawn anew (arrivals by the same law, step noise, stalls, the length of this request's
answer). The prediction with the least expected relative error over the other futures is as good as any can be that
looks at the moment of dispatch: its error is the floor under every method's. It knows more than any router can (the
engine's law, all queues, how long the answers under way will be).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.predictor.cases import Case
from benchmarks.predictor.record import Recorder, candidates
from benchmarks.predictor.traffic import Rng, Tide, output_tokens, stream, tide
from benchmarks.predictor.world import RoughTimer
from predictor.baselines import ours
from predictor.evaluate import GAP_ROWS, TEST_SHARE
from predictor.model import TARGETS
from predictor.samples import Dataset, dataset
from simulator.cluster import Arrival
from simulator.engine import Engine
from simulator.outcome import Outcome
from simulator.sequence import EngineRequest

Array = NDArray[np.float64]

DECISIONS: Final = 24
FUTURES: Final = 8
TRAIN_ROWS: Final = 3000
_LONGEST: Final = 3000
"""Requests of a future at most; it ends with the request that is watched."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Split:
    """A decision with several futures."""

    features: tuple[float, ...]
    endpoint: str
    outcomes: Array
    """TTFT and TPOT, seconds, shape (futures, 2); NaN where there was none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Floor:
    """MAPE, per cent, on the same decisions and futures."""

    least: float
    """Of the best prediction for the very futures that it is judged by: too good."""
    most: float
    """Of the best one for all other futures of the decision: a little too bad, as they are few."""
    ours: float
    """Of the model that learned from the rows before."""


class Splitter(Recorder):
    """A run that is split at some requests. The process must have no threads that matter: it is forked."""

    def __init__(self, one: Case, drawn: Tide, numbers: frozenset[int], futures: int) -> None:
        super().__init__(one.fleet, seed=one.seed)
        self._case, self._drawn, self._numbers, self._futures = one, drawn, numbers, futures
        self._coming: Iterator[Arrival] = iter(())
        self._turn = -1
        self._watched, self._pipe = "", -1
        self.splits: list[Split] = []

    def go(self, rng: Rng) -> Dataset:
        """The whole run; its samples."""
        self._coming = stream(self._case.traffic, self._drawn, rng)
        return dataset(list(self.run(self._arrivals()).samples))

    def _arrivals(self) -> Iterator[Arrival]:
        while (arrival := next(self._coming, None)) is not None:
            yield arrival

    def _pick(self, request: EngineRequest, engines: Sequence[Engine], now_s: float) -> int:
        self._turn += 1
        outcomes = self._split(request, now_s) if self._turn in self._numbers and not self._watched else None
        index = super()._pick(request, engines, now_s)
        if outcomes is not None and not self._watched:
            features = self._sent[request.request_id][1]
            self.splits.append(Split(features=features, endpoint=self.front.urls[index], outcomes=outcomes))
        return index

    def _split(self, request: EngineRequest, now_s: float) -> Array:
        """What came of it in each future; in the processes of the futures it returns at once."""
        found = []
        for future in range(self._futures):
            reader, writer = os.pipe()
            child = os.fork()
            if child == 0:
                os.close(reader)
                self._diverge(request, now_s, np.random.default_rng([self._case.seed, self._turn, future]))
                self._pipe = writer
                break
            os.close(writer)
            with os.fdopen(reader) as pipe:
                found.append(json.loads(pipe.read() or "[NaN, NaN]"))
            os.waitpid(child, 0)
        return np.array(found, dtype=np.float64).reshape(-1, 2)

    def _diverge(self, request: EngineRequest, now_s: float, rng: Rng) -> None:
        """From here on another future, in this process."""
        self._watched, traffic = request.request_id, self._case.traffic
        object.__setattr__(request, "output_tokens", output_tokens(traffic, rng))
        self._coming = stream(replace(traffic, requests=_LONGEST), self._drawn, rng, from_s=now_s, name="later")
        for engine, own in zip(self.engines, rng.spawn(len(self.engines)), strict=True):
            timer = engine.config.timer
            if isinstance(timer, RoughTimer) and timer.rng is not None:
                timer.rng.bit_generator.state = own.bit_generator.state

    def _over(self, outcome: Outcome) -> None:
        super()._over(outcome)
        if outcome.request_id == self._watched:
            sample = self._samples[-1]
            ttft_s = None if sample.censored else sample.ttft_s
            os.write(self._pipe, json.dumps([ttft_s or math.nan, sample.tpot_s or math.nan]).encode())
            os._exit(0)


def floors(one: Case, *, decisions: int = DECISIONS, futures: int = FUTURES) -> dict[str, Floor]:
    """By target, of decisions spread over the rows that the learning curve is tested on."""
    rng = np.random.default_rng([one.seed, 11])
    drawn = tide(one.traffic, rng)
    start = round(one.traffic.requests * (1 - TEST_SHARE))
    numbers = np.linspace(start, one.traffic.requests - 1, decisions, dtype=int, endpoint=False)
    run = Splitter(one, drawn, frozenset(numbers.tolist()), futures)
    data = run.go(rng)
    known = np.arange(max(0, start - GAP_ROWS - TRAIN_ROWS), start - GAP_ROWS)
    fitted = ours(data.take(known))
    rows = candidates(data, np.array([split.features for split in run.splits]),
                      [split.endpoint for split in run.splits])  # fmt: skip
    outcomes = np.array([split.outcomes for split in run.splits])
    return {name: judged(outcomes[:, :, place], fitted.point(rows, name)) for place, name in enumerate(TARGETS)}


def judged(outcomes: Array, points: Array) -> Floor:
    """Errors of the best predictions and of ``points``.

    Args:
        outcomes: seconds, shape (decisions, futures); NaN where there was none.
        points: a prediction for each decision, seconds.
    """
    least, most, own = [], [], []
    for row, point in zip(outcomes, points.tolist(), strict=True):
        seen = row[np.isfinite(row)]
        if len(seen) < 2:
            continue
        least += np.abs(best(seen) / seen - 1.0).tolist()
        most += [abs(best(np.delete(seen, index)) / value - 1.0) for index, value in enumerate(seen.tolist())]
        own += np.abs(point / seen - 1.0).tolist()
    return Floor(least=100.0 * fmean(least), most=100.0 * fmean(most), ours=100.0 * fmean(own))


def best(outcomes: Array) -> float:
    """The prediction with the least mean relative error: the median, each outcome weighing 1 / itself.

    >>> best(np.array([1.0, 2.0, 4.0]))
    1.0
    """
    ordered = np.sort(outcomes)
    weights = np.cumsum(1.0 / ordered)
    return float(ordered[np.searchsorted(weights, 0.5 * weights[-1])])
