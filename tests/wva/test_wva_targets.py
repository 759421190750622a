"""Where a variant's latency targets come from, and how long its starts are taken to take."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest

from fleet.slo import DEFAULT_SLOS, parse_slos
from fleet.types import ReplicaState, VariantObservation
from tests.wva.slo_fleet import RULES, SPEC, START, ToyFleet
from tests.wva.wva_builders import NOW, seen, spec
from wva.decide import decide
from wva.explain import in_words
from wva.settings import WvaSettings
from wva.slo.observe import _starts, lead_s
from wva.slo.state import GroupMemory
from wva.targets import Targets
from wva.types import Policy, VariantState
from wva.view import view_variant

BOOK = parse_slos({
    "default": {"ttft": {"threshold_s": 0.5, "objective": 0.9}},
    "models": {"slow": {"ttft": {"threshold_s": 5.0, "objective": 0.99}}, "free": {"ttft": None, "tpot": None}},
})  # fmt: skip


@pytest.mark.parametrize(
    ("targets", "model", "own", "found"),
    [
        pytest.param(Targets(), "m", {}, (0.2, 0.1, 0.95), id="built-in"),
        pytest.param(Targets(ttft_s=1.0), "m", {}, (1.0, 0.1, 0.95), id="settings-over-built-in"),
        pytest.param(Targets(book=DEFAULT_SLOS, ttft_s=1.0), "m", {}, (0.2, 0.1, 0.95), id="file-over-settings"),
        pytest.param(Targets(book=BOOK, ttft_s=1.0, objective=0.8), "m", {}, (0.5, 0.1, 0.95), id="stricter-objective"),
        pytest.param(Targets(book=BOOK), "slow", {}, (5.0, 0.1, 0.99), id="the-model's-own"),
        pytest.param(Targets(book=BOOK, ttft_s=1.0, objective=0.8), "free", {}, (1.0, 0.1, 0.8), id="no-promise"),
        pytest.param(Targets(book=BOOK), "slow", {"slo_ttft_s": 2.0}, (2.0, 0.1, 0.99), id="the-variant's-own"),
    ],
)
def test_the_nearest_word_counts(
    targets: Targets, model: str, own: dict[str, float], found: tuple[float, float, float]
) -> None:
    (one,) = targets.completed([spec(model=model, **own)])
    assert (one.slo_ttft_s, one.slo_tpot_s, one.slo_objective) == found


def test_a_stricter_objective_wants_more_replicas() -> None:
    wanted = []
    for objective in (0.8, 0.999):
        fleet = ToyFleet(replicas=4, spec=replace(SPEC, slo_objective=objective))
        wanted.append(fleet.run(1800, 5.0)[-1].desired)
    assert wanted[0] < wanted[1]


# ---- start-up times


def planned(memory: GroupMemory, startup_s: float | None = None) -> float:
    entry = VariantObservation(spec=spec(startup_s=startup_s), requested=1)
    view = view_variant(entry, VariantState(requested=1, requested_at_s=NOW), now_s=NOW, extra_age_s=0.0,
                        rules=Policy())  # fmt: skip
    return lead_s(view, memory, Policy(lead_time_s=120.0))


def test_before_any_start_the_platform_is_believed_and_else_the_setting() -> None:
    assert planned(GroupMemory(), startup_s=8.0) == pytest.approx(8.0, rel=0.15)
    assert planned(GroupMemory()) == pytest.approx(120.0, rel=0.15)
    assert planned(GroupMemory(), startup_s=0.0) < 1.0


def test_one_or_two_starts_all_but_replace_a_guess() -> None:
    assert planned(GroupMemory(leads_s=(8.0,))) < 20.0
    assert planned(GroupMemory(leads_s=(8.0, 8.5))) == pytest.approx(11.0, rel=0.2)
    assert planned(GroupMemory(leads_s=(200.0,) * 3), startup_s=100.0) == pytest.approx(170.0, rel=0.15)


def test_starts_that_scatter_are_planned_for_on_the_long_side() -> None:
    even, uneven = (100.0,) * 8, (60.0, 160.0) * 4
    assert planned(GroupMemory(leads_s=uneven)) > 1.2 * planned(GroupMemory(leads_s=even))


def starts(state: ReplicaState, since_s: float, created_s: float, now_s: float, memory: GroupMemory) -> GroupMemory:
    one = seen(0, state=state, since_s=since_s)
    one = replace(one, replica=replace(one.replica, created_s=created_s))
    entry = VariantObservation(spec=spec(), requested=1, replicas=(one,))
    starting, leads = _starts([entry], memory, now_s, 300.0)
    return replace(memory, starting=starting, leads_s=leads)


def test_a_start_is_timed_from_the_request_to_readiness() -> None:
    memory = starts(ReplicaState.STARTING, NOW, NOW, NOW + 10, GroupMemory())
    memory = starts(ReplicaState.READY, NOW + 95, NOW, NOW + 105, memory)
    assert memory.leads_s == (95.0,)
    assert starts(ReplicaState.READY, NOW + 95, NOW, NOW + 120, memory).leads_s == (95.0,), "once"


def test_a_replica_that_falls_out_of_readiness_teaches_no_start() -> None:
    """It was created hours ago: its age is no start-up time."""
    memory = starts(ReplicaState.READY, NOW + 95, 0.0, NOW + 100, GroupMemory())
    memory = starts(ReplicaState.STARTING, NOW, NOW, NOW + 250, memory)
    memory = starts(ReplicaState.READY, NOW + 260, NOW, NOW + 265, memory)
    assert memory.leads_s == ()


def test_pods_that_serve_already_tell_how_long_they_took() -> None:
    """A controller that starts beside a running fleet knows creation and readiness of its pods."""
    assert starts(ReplicaState.READY, NOW + 110, NOW, NOW + 5000, GroupMemory()).leads_s == (110.0,)
    flapped = starts(ReplicaState.READY, NOW + 4000, NOW, NOW + 5000, GroupMemory())
    assert flapped.leads_s == (), "ready again after an hour: no start takes so long"


def test_leads_are_learned_from_the_first_start_on() -> None:
    fleet = ToyFleet(replicas=3, startup_s=30.0, rules=replace(RULES, lead_time_s=120.0))
    first = fleet.run(60, 2.0)[-1].signals["lead_s"]
    fleet.run(300, 6.0)
    assert first == pytest.approx(120.0, rel=0.15)
    assert fleet.last is not None and (fleet.last.signals["lead_s"] or 0.0) < 60.0


def test_the_reaction_is_two_passes_unless_it_is_set() -> None:
    assert WvaSettings(interval_s=15).policy().react_s == 30.0
    assert WvaSettings(interval_s=2).policy().react_s == 10.0
    assert WvaSettings(interval_s=2, react_s=3).policy().react_s == 3.0


# ---- words


@pytest.mark.parametrize("analyzer", ["slo", "saturation"])
def test_every_input_of_a_decision_has_words(analyzer: str) -> None:
    fleet = ToyFleet(replicas=2)
    fleet.run(120, 2.0)
    (made,), _ = decide(fleet.snapshot(), [SPEC], fleet.state, fleet.now_s, replace(RULES, analyzer=analyzer))
    said = list(in_words(asdict(made)))
    assert made.at_s > START
    bare = [name for name in made.signals if any(line.startswith(f"    {name}: ") for line in said)]
    assert bare == []
