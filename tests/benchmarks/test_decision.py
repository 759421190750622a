"""The decision bench drives the production director, with every scorer, and gives the figures that it says."""

from __future__ import annotations

import pytest

from benchmarks.decision.bench import BARS, NATIVE, PLAIN, index_bytes, measure, outcome
from benchmarks.decision.fleet import DecisionFleet, every_scorer
from router.profile import DEFAULT
from router.scorers import SCORERS


def test_every_scorer_takes_part_once():
    assert {type(entry.scorer) for entry in every_scorer().scorers} == {plugin.kind for plugin in SCORERS.values()}
    assert every_scorer().predicts


@pytest.mark.parametrize("predicts", [True, False])
def test_decisions_are_made_and_booked(predicts):
    fleet = DecisionFleet(5, every_scorer(), seed=1, predicts=predicts)
    times = [fleet.decide(fleet.prompt(2000)) for _ in range(12)]
    director = fleet.director
    assert len(times) == len(director.ledger) == len(director.decisions) == 12
    assert director.decisions[-1].pick.cold is not predicts
    assert set(director.decisions[-1].pick.columns) == {entry.name for entry in every_scorer().scorers} | {"total"}
    assert len(director.known.sessions) == 1
    fleet.finish(0)
    assert len(director.ledger) == 0


def test_as_many_times_as_asked_for():
    assert len(measure(3, DEFAULT, 200, 7, seed=1)) == 7


def test_the_index_takes_about_what_its_docs_say():
    found = index_bytes()
    assert found["shared"] < found["apart"] < 160


def figures(p99_us: float) -> dict[str, dict[str, object]]:
    one = {"p50_us": 1.0, "p90_us": 2.0, "p99_us": p99_us}
    return {"every_scorer": {"8k": one, "100k": {**one, "p99_us": 2 * p99_us}}, "default_profile": {"default, 1": one},
            "index_bytes_per_block": {"apart": 130.0, "shared": 60.0}, "python": "3.11"}  # fmt: skip


@pytest.mark.parametrize(("forms", "bars"), [
    pytest.param({PLAIN: figures(900.0), NATIVE: figures(500.0)}, [500.0, 1000.0, 900.0, 1800.0], id="both"),
    pytest.param({PLAIN: figures(900.0)}, [900.0, 1800.0, 900.0, 1800.0], id="only-plain-python"),
    pytest.param({NATIVE: figures(500.0)}, [500.0, 1000.0, None, None], id="only-native-code"),
])  # fmt: skip
def test_the_bars_are_of_native_code_where_it_was_measured(forms, bars):
    found = outcome(forms)
    assert [(name, bar.value) for name, bar in found.bars.items()] == list(zip(BARS, bars, strict=True))
    assert f"The bars are of {NATIVE if NATIVE in forms else PLAIN}" in found.notes[2]
    assert [table.title.rpartition(", ")[2] for table in found.tables[:-1]] == [
        form for form in forms for _ in range(2)
    ]


def test_native_code_that_is_missing_is_said():
    assert (
        "Missing: ours-compiled. Run make bench-compiled."
        in outcome({PLAIN: figures(1.0)}, missing="ours-compiled").notes
    )
