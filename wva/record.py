"""What a pass leaves in the history: signal samples, decisions, scale events."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Final

from fleet import signals as s
from fleet.history import Event, SignalSample
from fleet.types import Decision, EngineSample, FittedLaw, FleetSnapshot, ReplicaObservation, ReplicaState, VariantSpec
from wva.actuate import scale_event
from wva.recorded import CREATED, ROUTER_AGE, SAMPLE_AGE, SINCE, STARTING, STILL, law_inputs

Row = SignalSample | Decision | Event
MAX_SAMPLES: Final = 5_000
"""Values of replicas that a pass writes, about; 10 000 engines would else write five thousand rows a second."""
_VALUES: Final = 11
"""Of each replica."""
LAW_EVERY_S: Final = 900.0
"""A law of the predictor is written when it is another one, and again after so long: for a replay that begins later."""


class Recorder:
    """Turns passes into rows and keeps the history small.

    A decision is written when its desired replicas or its reason changed, and else every ``decision_every_s`` seconds;
    a replica's values only when its sample is a new one, the age of the old one otherwise. In a large fleet each
    replica takes its turn every few passes, so that no pass writes many more than ``max_samples`` values of replicas.
    The predictor's laws are written as samples of their variants.
    """

    def __init__(self, decision_every_s: float, *, max_samples: int = MAX_SAMPLES) -> None:
        self._every_s, self._max_samples, self._pass = decision_every_s, max_samples, 0
        self._decisions: dict[tuple[str, str], Decision] = {}
        self._sampled: dict[str, float] = {}
        self._laws: dict[str, tuple[float, FittedLaw]] = {}

    def rows(self, snapshot: FleetSnapshot, decisions: Sequence[Decision], scaled: Sequence[Decision]) -> Iterator[Row]:
        """Rows of one pass; ``scaled`` are the decisions that changed what the platform was asked for."""
        self._pass += 1
        replicas = sum(len(entry.replicas) for entry in snapshot.variants)
        turns = max(1, math.ceil(replicas * _VALUES / self._max_samples))
        number = self._pass
        for entry in snapshot.variants:
            for seen in entry.replicas:
                number += 1
                if number % turns == 0:
                    yield from _of_replica(entry.spec, seen, snapshot.at_s, new=self._is_new(seen))
        yield from self._of_laws(snapshot)
        yield from _of_router(snapshot)
        for decision in decisions:
            yield from _of_variant(decision)
            if self._is_news(decision):
                self._decisions[decision.namespace, decision.variant] = decision
                yield decision
        yield from map(scale_event, scaled)

    def _of_laws(self, snapshot: FleetSnapshot) -> Iterator[SignalSample]:
        at_s = snapshot.at_s
        for spec in [entry.spec for entry in snapshot.variants if entry.spec.name in snapshot.fitted]:
            law = snapshot.fitted[spec.name]
            written_s, written = self._laws.get(spec.name, (-math.inf, None))
            if law != written or not written_s <= at_s < written_s + LAW_EVERY_S:
                self._laws[spec.name] = at_s, law
                for name, value in law_inputs(law).items():
                    yield SignalSample(at_s=at_s, signal=name, value=value, model=spec.model, variant=spec.name)

    def _is_new(self, seen: ReplicaObservation) -> bool:
        if seen.replica.state is ReplicaState.STARTING:
            return True
        if seen.sample is None or self._sampled.get(seen.replica.url) == seen.sample.at_s:
            return False
        self._sampled[seen.replica.url] = seen.sample.at_s
        return True

    def _is_news(self, decision: Decision) -> bool:
        last = self._decisions.get((decision.namespace, decision.variant))
        if last is None or (last.desired, last.reason) != (decision.desired, decision.reason):
            return True
        return not last.at_s <= decision.at_s < last.at_s + self._every_s


def _of_replica(spec: VariantSpec, seen: ReplicaObservation, at_s: float, *, new: bool) -> Iterator[SignalSample]:
    sample, one = seen.sample or EngineSample(at_s=at_s), seen.replica
    values = {
        s.KV_UTILISATION.name: sample.kv_utilisation,
        s.WAITING.name: sample.waiting,
        s.RUNNING.name: sample.running,
        "kv_capacity_tokens": sample.kv_capacity_tokens,
        "max_running": sample.max_running,
        SINCE: one.since_s or None,
        CREATED: one.created_s or None,
        STARTING: 1.0 if one.state is ReplicaState.STARTING else None,
        SAMPLE_AGE: seen.age_s,
        STILL: seen.still_s or None,
        s.GENERATION_TOKENS.name: sample.generation_tokens_total if seen.still_s else None,
        "generation_tps": seen.generation_tps,
        "prompt_tps": seen.prompt_tps,
        "request_rps": seen.request_rps,
        "prefix_hit_ratio": seen.prefix_hit_ratio,
        s.GPU_ACTIVE.name: seen.gpu_active,
    }
    for name, value in values.items() if new else ((SAMPLE_AGE, seen.age_s),):
        if value is not None:
            yield SignalSample(at_s=at_s, signal=name, value=float(value), model=spec.model, variant=spec.name,
                               endpoint=one.url or one.name)  # fmt: skip


def _of_router(snapshot: FleetSnapshot) -> Iterator[SignalSample]:
    """The queue of each model that is served, with its age."""
    for model in sorted({entry.spec.model for entry in snapshot.variants}):
        if (age_s := snapshot.router_age_of(model)) is None:
            continue
        waiting = snapshot.router_queue.get(model, 0.0)
        yield SignalSample(at_s=snapshot.at_s, signal=s.ROUTER_FLOW_QUEUE.name, value=float(waiting), model=model)
        yield SignalSample(at_s=snapshot.at_s, signal=ROUTER_AGE, value=age_s, model=model)


def _of_variant(decision: Decision) -> Iterator[SignalSample]:
    values = {
        s.WVA_SATURATION.name: decision.saturation,
        s.WVA_DESIRED.name: decision.desired,
        s.WVA_CURRENT.name: decision.current,
        "requested_replicas": decision.signals.get("requested"),
    }
    for name, value in values.items():
        if value is not None:
            yield SignalSample(at_s=decision.at_s, signal=name, value=float(value), model=decision.model,
                               variant=decision.variant)  # fmt: skip
