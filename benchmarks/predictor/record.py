"""A run as a router records it: features at dispatch, outcomes, and what each candidate would truly have taken.

The router is the production one (:class:`benchmarks.routing.front.Front` keeps its real books and prefix index, its
default profile picks). The truth about the candidates comes from clones: each engine is copied at the moment of the
decision, given the request, and stepped without noise until the first token is out.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import numpy as np

from benchmarks.predictor.traffic import TrafficSpec, arrivals
from benchmarks.predictor.world import FleetSpec, engines, rough_config
from benchmarks.routing.front import VARIANT, Front
from predictor.samples import Dataset, Sample
from router.predict import row
from router.profile import DEFAULT, Scheduler
from simulator.cluster import Arrival, Cluster
from simulator.engine import Engine
from simulator.outcome import Outcome
from simulator.sequence import EngineRequest
from simulator.sequence import Sequence as Progress

SCRAPE_S: Final = 5.0
"""Production's default is 1 s; the features must bear older scrapes."""
TIMEOUT_S: Final = 120.0
"""A client gives up; such rows are censored."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Choice:
    """A decision whose candidates were all tried on clones."""

    rows: np.ndarray
    """Features of every candidate."""
    ttft_s: np.ndarray
    """What each would have taken, without noise."""
    chosen: int
    position: int
    """Samples that had come back by then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """What a run left behind, in the order in which answers were complete."""

    samples: Sequence[Sample]
    at_s: Sequence[float]
    """When each sample's request was sent."""
    done_s: Sequence[float]
    output_tokens: Sequence[int]
    choices: Sequence[Choice] = field(default=())


class Recorder:
    """One run."""

    def __init__(self, fleet: FleetSpec, *, seed: int, choices: Sequence[int] = ()) -> None:
        """A fleet with its router.

        Args:
            fleet: the engines.
            seed: of noise.
            choices: numbers of the requests whose candidates are all tried.
        """
        rng = np.random.default_rng([seed, 77])
        self.fleet, self.engines = fleet, engines(fleet, rng)
        self.front, self._scheduler, self._rng = Front(self.engines), Scheduler(DEFAULT), rng
        self._cluster = Cluster(self.engines, self._pick, timeout_s=TIMEOUT_S, on_first_token=self._first,
                                on_outcome=self._over)  # fmt: skip
        for index in range(fleet.pods):
            self._cluster.every(SCRAPE_S, partial(self.front.scrape, index), start_s=SCRAPE_S * index / fleet.pods)
        self._tried, self._number = frozenset(choices), 0
        self._still = [rough_config(fleet, None).timer] * fleet.pods
        self._sent: dict[str, tuple[int, tuple[float, ...]]] = {}
        self._samples: list[Sample] = []
        self._times: list[tuple[float, float, int]] = []
        self._choices: list[Choice] = []

    def run(self, traffic: Iterable[Arrival]) -> Recording:
        """Send everything and wait for all answers."""
        self._cluster.run(traffic)
        at_s, done_s, lengths = zip(*self._times, strict=True)
        return Recording(samples=self._samples, at_s=at_s, done_s=done_s, output_tokens=lengths,
                         choices=self._choices)  # fmt: skip

    def _pick(self, request: EngineRequest, engines: Sequence[Engine], now_s: float) -> int:
        asked = self.front.ask(request)
        views = self.front.views(asked, now_s)
        pick = self._scheduler.pick(asked.inference, views, rng=self._rng, turn=0)
        index = 0 if pick.endpoint is None else self.front.urls.index(pick.endpoint.url)
        if self._number in self._tried:
            rows = np.array([row(asked.inference, view) for view in views])
            truth = np.array([self._truth(engine, request, now_s) for engine in self.engines])
            self._choices.append(Choice(rows=rows, ttft_s=truth, chosen=index, position=len(self._samples)))
        self._number += 1
        self._sent[request.request_id] = index, row(asked.inference, views[index])
        self.front.dispatch(index, asked)
        return index

    def _truth(self, engine: Engine, request: EngineRequest, now_s: float) -> float:
        """Seconds to the first token on a copy of ``engine`` whose steps take what they take on average."""
        memo = {id(engine.group): None, id(engine._clock): None}  # not the whole cluster with it
        twin = copy.deepcopy(engine, memo)
        twin.config = copy.copy(twin.config)
        object.__setattr__(twin.config, "timer", self._still[0])
        progress = twin.submit(request, now_s)
        for _ in range(200_000):
            if progress.first_token_s is not None or (due_s := twin.due_s) is None:
                break
            twin.turn(due_s)
        return float("inf") if progress.first_token_s is None else progress.first_token_s - now_s

    def _first(self, index: int, progress: Progress, _now_s: float) -> None:
        self.front.first_token(index, progress)

    def _over(self, outcome: Outcome) -> None:
        index, features = self._sent.pop(outcome.request_id)
        self.front.finish(index, outcome.request_id, outcome.output_tokens)
        gaps, ok = outcome.output_tokens - 1, outcome.ok
        tpot_s = (outcome.e2e_s - outcome.ttft_s) / gaps if gaps > 0 and ok else None
        came = outcome.ttft_s < float("inf")
        self._samples.append(
            Sample(features=features, ttft_s=outcome.ttft_s if came else outcome.e2e_s, tpot_s=tpot_s,
                   endpoint=self.front.urls[index], variant=VARIANT, censored=not came,
                   output_tokens=outcome.output_tokens if ok else None))  # fmt: skip
        self._times.append((outcome.arrival_s, outcome.end_s, outcome.output_tokens))


def record(fleet: FleetSpec, traffic: TrafficSpec, *, seed: int, choices: Sequence[int] = ()) -> Recording:
    """A whole run by seed."""
    return Recorder(fleet, seed=seed, choices=choices).run(arrivals(traffic, np.random.default_rng([seed, 11])))


def candidates(known: Dataset, rows: np.ndarray, endpoints: Sequence[str] | None = None) -> Dataset:
    """Feature rows without outcomes, of pods in order unless their ``endpoints`` are told."""
    count = len(rows)
    unknown = np.full(count, np.nan)
    urls = [f"http://pod-{index}" for index in range(count)] if endpoints is None else endpoints
    return Dataset(
        matrix=rows, ttft_s=unknown, tpot_s=unknown, endpoints=urls, variants=[known.variants[0]] * count,
        censored=np.zeros(count, dtype=np.bool_), output_tokens=unknown, served_ttft_s=unknown, served_tpot_s=unknown,
    )  # fmt: skip
