"""The decision bench drives the production director, with every scorer, and gives the figures that it says."""

from __future__ import annotations

import pytest

from benchmarks.decision.bench import index_bytes, measure
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
