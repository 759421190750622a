"""A director over many endpoints, as production has it: samples, books, a full prefix index, a fitted latency model."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from fleet.discovery import static_fleet
from fleet.history import RequestOutcome
from fleet.types import EngineSample
from predictor.fit import fit_model
from predictor.model import LatencyModel
from predictor.samples import Sample, dataset
from router.dataplane.body import ParsedBody
from router.dataplane.replies import Refusal
from router.director import Director
from router.endpoints import EndpointSet
from router.hints import Hints
from router.metrics import RouterMetrics
from router.parts import Parts
from router.pickers import TopKRandom
from router.predict import Predictor, row
from router.prefix import BYTES_PER_TOKEN
from router.profile import PROFILES, Profile, Scheduler, WeightedScorer
from router.scorers import SCORERS, PrefixAware
from router.settings import RouterSettings
from router.ticket import Ticket
from router.types import EndpointView, InferenceRequest

MODEL: Final = "sql"
"""A LoRA adapter, so that its scorer has work."""
HINTS: Final = Hints(session="s", slo_ttft_s=0.5, slo_tpot_s=0.05)
_TRAINING: Final = 2000
_GROUPS: Final = 64
"""Shared beginnings of prompts."""


def every_scorer() -> Profile:
    """Every scorer that there is, each once, with the filters of the ``documents`` profile."""
    found: dict[type, WeightedScorer] = {}
    for name, plugin in SCORERS.items():
        if plugin.kind not in found:
            found[plugin.kind] = WeightedScorer(name=name, weight=1.0, scorer=plugin.kind(**plugin.preset))
    return Profile(name="every-scorer", filters=PROFILES["documents"].filters, scorers=tuple(found.values()),
                   picker=TopKRandom(), prefix=PrefixAware())  # fmt: skip


@dataclass(frozen=True, slots=True)
class Fitted:
    """A model that is there, where production follows one (:class:`predictor.client.Watcher`)."""

    model: LatencyModel
    cold: bool = False


def _model(urls: Sequence[str], rng: np.random.Generator) -> LatencyModel:
    """Fitted to made-up answers of every endpoint."""
    samples = []
    for index in range(_TRAINING):
        own, pending = int(rng.integers(1, 60)), int(rng.integers(0, 20_000))
        view = EndpointView(url=urls[index % len(urls)], variant="static", requests_in_flight=own,
                            context_tokens_in_flight=1000 * own, prefill_tokens_in_flight=pending)  # fmt: skip
        size = int(rng.integers(100, 20_000))
        features = row(InferenceRequest(request_id="", model=MODEL, input_tokens=size), view)
        samples.append(Sample(features=features, ttft_s=0.02 + 5e-5 * (size + pending), tpot_s=0.01 + 2e-4 * own,
                              endpoint=view.url, variant=view.variant))  # fmt: skip
    model = fit_model(dataset(samples), now_s=0.0)
    if model is None:
        raise RuntimeError("the latency model could not be fitted")
    return model


class DecisionFleet:
    """``count`` endpoints before one director.

    Args:
        count: endpoints.
        profile: how it decides.
        seed: of samples, prompts and draws.
        predicts: with a latency model, or none as before the first answers.
    """

    def __init__(self, count: int, profile: Profile, *, seed: int, predicts: bool = True) -> None:
        self.rng, rng = np.random.default_rng(seed), np.random.default_rng([seed, 1])
        self.urls = [f"http://10.0.{index // 256}.{index % 256}:8000" for index in range(count)]
        self.endpoints = EndpointSet(clock=time.monotonic)
        self.endpoints.update(static_fleet(self.urls, model=MODEL))
        predict = Predictor(Fitted(_model(self.urls, rng))) if predicts else None
        self.director = Director(Parts(settings=RouterSettings(), scheduler=Scheduler(profile),
                                       endpoints=self.endpoints, metrics=RouterMetrics(),
                                       rng=random.Random(seed), predict=predict))  # fmt: skip
        self._shared = [rng.bytes(4 << 20) for _ in range(2)]
        self._open: list[Ticket] = []
        self.scrape()

    def scrape(self) -> None:
        """Every endpoint is read anew."""
        now_s = time.monotonic()
        self.director.tick(now_s)
        for one in self.endpoints.all:
            one.sample = EngineSample(
                at_s=now_s, waiting=float(self.rng.integers(0, 4)), running=float(self.rng.integers(0, 60)),
                kv_utilisation=float(self.rng.uniform(0.1, 0.84)), adapters=frozenset({"sql", "x"}), adapter_slots=4,
            )  # fmt: skip
            one.sampled_s, one.distance_s = now_s, float(self.rng.uniform(0.001, 0.01))
            one.model_entries = [{"id": MODEL, "parent": "base"}]
        self.endpoints.described()

    def prompt(self, tokens: int) -> ParsedBody:
        """A prompt that begins like one in sixty-four others, for three quarters of its length."""
        size = tokens * BYTES_PER_TOKEN
        start = int(self.rng.integers(_GROUPS)) * 4096
        body = self._shared[0][start : start + 3 * size // 4] + self.rng.bytes(size // 4)
        return ParsedBody(MODEL, body, tokens, 256, stream=True)

    def decide(self, parsed: ParsedBody) -> float:
        """One decision, from the parsed body to the engine with all books kept; seconds."""
        start_s = time.perf_counter()
        ticket = self.director.open(parsed, request_id="r", tenant="t", hints=HINTS)
        self.director.route(ticket, self._routed)
        took_s = time.perf_counter() - start_s
        self._open.append(ticket)
        return took_s

    def finish(self, keep: int) -> None:
        """Answers come until ``keep`` requests are in flight."""
        while len(self._open) > keep:
            ticket = self._open.pop(int(self.rng.integers(len(self._open))))
            self.director.close(ticket, RequestOutcome.OK, 200)

    @staticmethod
    def _routed(answer: str | Refusal) -> None:
        if isinstance(answer, Refusal):
            raise RuntimeError(f"no endpoint was picked: {answer}")
