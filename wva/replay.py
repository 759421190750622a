"""What another policy would have decided on recorded history, through the real ``decide``. Pure: rows in, answer out.

The console's what-if and ``fleet wva replay`` use these functions. History is open-loop: the engines answered to what
was done then, so a replay says what would have been decided from the same observations, not how the fleet would have
fared. Where the other policy wanted fewer replicas for long, its later observations would have been worse.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Final

import numpy as np

from fleet import signals as s
from fleet.types import (
    Decision,
    EngineSample,
    FittedLaw,
    FleetSnapshot,
    Histogram,
    ModelTraffic,
    Replica,
    ReplicaObservation,
    ReplicaState,
    VariantObservation,
    VariantSpec,
)
from wva.decide import decide
from wva.recorded import CREATED, ROUTER_AGE, SAMPLE_AGE, SINCE, STARTING, STILL, law_of, spec_of
from wva.types import Policy, WvaState

Row = Mapping[str, Any]
"""A row of the history, by column."""
TTFT_BOUNDS_S: Final = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 120.0)
TPOT_BOUNDS_S: Final = (0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.2, 0.5)
_RATES: Final = ("generation_tps", "prompt_tps", "request_rps", "prefix_hit_ratio")


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What the replay is run with in place of what was."""

    policy: Policy
    cost_per_hour: Mapping[str, float] = field(default_factory=dict)
    """By variant."""
    thresholds: tuple[float, float] | None = None
    """Scale up above, scale down below, of all variants."""
    slo_ttft_s: float | None = None
    slo_tpot_s: float | None = None

    def apply(self, spec: VariantSpec) -> VariantSpec:
        """The spec as changed."""
        up, down = self.thresholds or (spec.saturation_threshold, spec.scale_down_threshold)
        return replace(
            spec, cost_per_hour=self.cost_per_hour.get(spec.name, spec.cost_per_hour), saturation_threshold=up,
            scale_down_threshold=down, slo_ttft_s=self.slo_ttft_s or spec.slo_ttft_s,
            slo_tpot_s=self.slo_tpot_s or spec.slo_tpot_s,
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """One variant over the replayed time, as it was and as it would have been."""

    variant: str
    at_s: tuple[float, ...]
    recorded: tuple[int, ...]
    """Replicas that were desired then."""
    replayed: tuple[int, ...]
    reasons: tuple[str, ...]
    """Of the replay."""
    cost_per_hour: float

    def replica_hours(self, replicas: Sequence[int]) -> float:
        """Each value holds until the next time."""
        spans = zip(replicas, pairwise(self.at_s), strict=False)
        return sum(count * (end - start) for count, (start, end) in spans) / 3600

    def changes(self, replicas: Sequence[int]) -> int:
        """How often the number changed."""
        return sum(one != other for one, other in pairwise(replicas))

    @property
    def differing(self) -> int:
        """Passes at which the two disagree."""
        return sum(one != other for one, other in zip(self.recorded, self.replayed, strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The replay's answer."""

    courses: tuple[Course, ...]
    decisions: tuple[Decision, ...]
    """Of the replay, in order of time."""
    attainment: float | None
    """Share of the recorded requests that met the targets, as served then; ``None`` without any."""

    @property
    def cost(self) -> tuple[float, float]:
        """US dollars for the desired replicas: recorded, replayed."""
        return (sum(one.replica_hours(one.recorded) * one.cost_per_hour for one in self.courses),
                sum(one.replica_hours(one.replayed) * one.cost_per_hour for one in self.courses))  # fmt: skip


def specs_of(decisions: Iterable[Row]) -> dict[str, VariantSpec]:
    """The variants as their newest decision rows tell them."""
    return {row["variant"]: spec_of(row) for row in decisions}


def snapshots(
    samples: Iterable[Row], requests: Sequence[Row], specs: Mapping[str, VariantSpec]
) -> Iterator[FleetSnapshot]:
    """The fleet as recorded at each pass.

    Args:
        samples: rows in order of time; those of one pass share their time.
        requests: rows in order of arrival: what each model's router would have counted.
        specs: by variant; others are left out.
    """
    traffic = {model: Arrivals([row for row in requests if row["model"] == model])
               for model in {spec.model for spec in specs.values()}}  # fmt: skip
    engines: dict[str, dict[str, ReplicaObservation]] = {name: {} for name in specs}
    laws: dict[str, FittedLaw] = {}
    for at_s, rows in _passes(samples):
        laws |= {name: law for name in specs if (law := _law(rows.get(name, []))) is not None}
        seen = (_observed(spec, rows.get(name, []), engines[name], at_s) for name, spec in specs.items())
        if variants := tuple(one for one in seen if one is not None):
            queue, ages = _router(rows.get("", []))
            yield FleetSnapshot(
                at_s=at_s, variants=variants, source="history", router_queue=queue, router_ages_s=ages,
                router_age_s=max(ages.values(), default=None), fitted=dict(laws),
                traffic={model: told for model, one in traffic.items() if (told := one.until(at_s)) is not None},
            )  # fmt: skip


def replay(found: Iterable[FleetSnapshot], change: Change) -> tuple[Decision, ...]:
    """Decisions on recorded snapshots, the state carried from one to the next."""
    state = WvaState()
    decisions: list[Decision] = []
    for snapshot in found:
        specs = tuple(change.apply(entry.spec) for entry in snapshot.variants)
        made, state = decide(snapshot, specs, state, snapshot.at_s, change.policy)
        decisions += made
    return tuple(decisions)


def compare(samples: Sequence[Row], requests: Sequence[Row], recorded: Sequence[Row], change: Change) -> Comparison:
    """Replay ``samples`` and set it beside the recorded decisions.

    Args:
        samples: rows of the table ``samples`` in order of time.
        requests: rows of ``requests`` in order of arrival.
        recorded: rows of ``decisions`` in order of time.
        change: what is different.
    """
    specs = specs_of(recorded)
    made = replay(snapshots(samples, requests, specs), change)
    courses = tuple(
        _course(change.apply(spec), [one for one in made if one.variant == name],
                [row for row in recorded if row["variant"] == name])
        for name, spec in specs.items()
    )  # fmt: skip
    return Comparison(courses=courses, decisions=made, attainment=_attained(requests, change))


def _course(spec: VariantSpec, made: Sequence[Decision], rows: Sequence[Row]) -> Course:
    times = [row["at_s"] for row in rows]
    known = [max(bisect_right(times, one.at_s) - 1, 0) for one in made]
    return Course(
        variant=spec.name, at_s=tuple(one.at_s for one in made), replayed=tuple(one.desired for one in made),
        recorded=tuple(int(rows[index]["desired"]) for index in known), reasons=tuple(str(one.reason) for one in made),
        cost_per_hour=spec.cost_per_hour,
    )  # fmt: skip


def _passes(samples: Iterable[Row]) -> Iterator[tuple[float, dict[str, list[Row]]]]:
    """Rows by pass, and in it by variant."""
    at_s, held = None, dict[str, list[Row]]()
    for row in samples:
        if row["at_s"] != at_s:
            if at_s is not None:
                yield at_s, held
            at_s, held = row["at_s"], {}
        held.setdefault(row["variant"], []).append(row)
    if at_s is not None:
        yield at_s, held


def _router(rows: Sequence[Row]) -> tuple[dict[str, float], dict[str, float]]:
    """Waiting requests and their age, by model."""
    told: dict[str, dict[str, float]] = {s.ROUTER_FLOW_QUEUE.name: {}, ROUTER_AGE: {}}
    for row in rows:
        if row["signal"] in told:
            told[row["signal"]][row["model"]] = row["value"]
    return told[s.ROUTER_FLOW_QUEUE.name], told[ROUTER_AGE]


def _law(rows: Sequence[Row]) -> FittedLaw | None:
    """What the predictor told of a variant anew."""
    return law_of({row["signal"]: row["value"] for row in rows if not row["endpoint"]})


def _observed(
    spec: VariantSpec, rows: Sequence[Row], before: dict[str, ReplicaObservation], at_s: float
) -> VariantObservation | None:  # fmt: skip
    """The variant at a pass; ``before`` has the last reading of each ready replica, and gets the new ones.

    A pass writes only the samples that are new in it: a ready replica without one keeps its last, at its age.
    """
    own = {row["signal"]: row["value"] for row in rows if not row["endpoint"]}
    if "requested_replicas" not in own:
        return None
    engines: dict[str, dict[str, float]] = {}
    for row in rows:
        if row["endpoint"]:
            engines.setdefault(row["endpoint"], {})[row["signal"]] = row["value"]
    told = [_again(before[url], values, at_s) if url in before and not values.keys() - {SAMPLE_AGE}
            else _replica(spec, url, values, at_s) for url, values in sorted(engines.items())]  # fmt: skip
    ready = {one.replica.url: one for one in told if one.replica.state is ReplicaState.READY}
    before.clear()
    before.update(ready)
    silent = int(own.get(s.WVA_CURRENT.name, 0)) - len(ready)  # ready, but nothing is told of them
    unknown = [ReplicaObservation(replica=Replica(name=f"silent-{n}", url=f"silent-{n}", variant=spec.name))
               for n in range(max(silent, 0))]  # fmt: skip
    return VariantObservation(spec=spec, requested=int(own["requested_replicas"]), replicas=(*told, *unknown))


def _again(seen: ReplicaObservation, values: Mapping[str, float], at_s: float) -> ReplicaObservation:
    """The reading of a pass before, older now."""
    age_s = values[SAMPLE_AGE]
    return replace(seen, age_s=age_s, sample=replace(seen.sample, at_s=at_s - age_s) if seen.sample else None)


def _replica(spec: VariantSpec, url: str, values: Mapping[str, float], at_s: float) -> ReplicaObservation:
    begins = bool(values.get(STARTING))
    replica = Replica(name=url, url=url, variant=spec.name, since_s=values.get(SINCE, 0.0),
                      created_s=values.get(CREATED, 0.0),
                      state=ReplicaState.STARTING if begins else ReplicaState.READY)  # fmt: skip
    if begins:
        return ReplicaObservation(replica=replica)
    age_s = values.get(SAMPLE_AGE, 0.0)
    sample = EngineSample(
        at_s=at_s - age_s, kv_utilisation=values.get(s.KV_UTILISATION.name), waiting=values.get(s.WAITING.name),
        running=values.get(s.RUNNING.name), kv_capacity_tokens=values.get("kv_capacity_tokens"),
        max_running=values.get("max_running"), generation_tokens_total=values.get(s.GENERATION_TOKENS.name),
    )  # fmt: skip
    return ReplicaObservation(replica=replica, sample=sample, age_s=age_s, still_s=values.get(STILL),
                              **{name: values.get(name) for name in _RATES})  # fmt: skip


class Arrivals:
    """One model's requests as running totals."""

    def __init__(self, rows: Sequence[Row]) -> None:
        came = np.array([row["at_s"] for row in rows], dtype=float)
        ends = came + np.array([row["e2e_s"] or 0.0 for row in rows], dtype=float)
        order = np.argsort(ends, kind="stable")
        self._came, self._ended = came, ends[order]
        self._prompt = np.concatenate(([0.0], np.cumsum([float(row["input_tokens"]) for row in rows])))
        self._output = np.concatenate(([0.0], np.cumsum([float(rows[i]["output_tokens"]) for i in order])))
        self._ttft = [rows[i]["ttft_s"] for i in order]
        self._tpot = [rows[i]["tpot_s"] for i in order]

    def until(self, at_s: float) -> ModelTraffic | None:
        """What a router's page would have said; ``None`` before the first request."""
        arrived = int(np.searchsorted(self._came, at_s, side="right"))
        if not arrived:
            return None
        finished = int(np.searchsorted(self._ended, at_s, side="right"))
        return ModelTraffic(
            at_s=at_s, arrived_total=arrived, finished_total=finished, in_flight=arrived - finished,
            prompt_tokens_total=float(self._prompt[arrived]), generation_tokens_total=float(self._output[finished]),
            ttft=_histogram(self._ttft[:finished], TTFT_BOUNDS_S),
            tpot=_histogram(self._tpot[:finished], TPOT_BOUNDS_S),
        )  # fmt: skip


def _histogram(values: Sequence[float | None], bounds: tuple[float, ...]) -> Histogram:
    known = np.array([value for value in values if value is not None], dtype=float)
    counts = np.bincount(np.searchsorted(bounds, known, side="left"), minlength=len(bounds) + 1)
    return Histogram(bounds=bounds, counts=tuple(map(float, counts)), sum_s=float(known.sum()))


def _attained(requests: Sequence[Row], change: Change) -> float | None:
    ttft, tpot = change.slo_ttft_s or change.policy.slo_ttft_s, change.slo_tpot_s or change.policy.slo_tpot_s
    judged = [row["outcome"] == "ok" and (row["ttft_s"] is None or row["ttft_s"] <= ttft)
              and (row["tpot_s"] is None or row["tpot_s"] <= tpot) for row in requests]  # fmt: skip
    return sum(judged) / len(judged) if judged else None
