"""Whole decisions: filter, score, pick, fall back, explain."""

from __future__ import annotations

import dataclasses
import math
import random
from collections import Counter
from dataclasses import dataclass
from typing import ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.types import EngineSample, Role
from router.filters import RoleFilter
from router.pickers import MaxScore, TopKRandom
from router.profile import DEFAULT, PROFILES, NamedFilter, Scheduler, WeightedScorer
from router.types import EndpointView, InferenceRequest, Prediction

REQUEST = InferenceRequest(
    request_id="r", model="llama", input_tokens=640, block_hashes=tuple(range(10)), block_tokens=64
)


def endpoint(name, *, waiting=0, running=0, kv=0.1, own=0, matched=0, models=("llama",), age=1.0, role=Role.BOTH):
    sample = EngineSample(at_s=0.0, waiting=waiting, running=running, kv_utilisation=kv)
    return EndpointView(
        url=name,
        variant="v",
        sample=sample,
        age_s=age,
        models=frozenset(models),
        requests_in_flight=own,
        matched_tokens=matched,
        role=role,
    )


DOCUMENTS = PROFILES["documents"]


def pick(endpoints, *, profile=DOCUMENTS, seed=1, turn=0, predict=None):
    return Scheduler(profile).pick(REQUEST, endpoints, rng=random.Random(seed), turn=turn, predict=predict)


def picks(endpoints, profile, times=600):
    scheduler, rng = Scheduler(profile), random.Random(3)
    return Counter(scheduler.pick(REQUEST, endpoints, rng=rng, turn=turn).endpoint.url for turn in range(times))


def no_prediction(_request, _endpoints):
    return None


@pytest.mark.parametrize(
    ("endpoints", "reason", "dropped"),
    [
        pytest.param([], "no_endpoints", {}, id="nothing is there"),
        pytest.param(
            [endpoint("a", models=["qwen"])], "no_model", {"a": "model-compatibility"}, id="nobody serves the model"
        ),
        pytest.param([endpoint("a")], "picked", {}, id="one is fit"),
        pytest.param(
            [endpoint("a", waiting=50), endpoint("b")], "picked", {"a": "queue-depth"}, id="the overloaded one is out"
        ),
        pytest.param(
            [endpoint("a", waiting=50), endpoint("b", kv=0.99), endpoint("c", models=["qwen"])],
            "fallback_round_robin",
            {"a": "queue-depth", "b": "memory-pressure", "c": "model-compatibility"},
            id="all fit ones are overloaded",
        ),
    ],
)
def test_reason_and_drops(endpoints, reason, dropped):
    outcome = pick(endpoints)
    assert (outcome.reason, dict(outcome.dropped)) == (reason, dropped)
    assert (outcome.endpoint is None) == reason.startswith("no_")


def test_the_fallback_goes_round_over_those_that_serve_the_model():
    endpoints = [endpoint("a", waiting=99), endpoint("x", models=["qwen"]), endpoint("b", kv=1.0)]
    chosen = [pick(endpoints, turn=turn) for turn in range(4)]
    assert [outcome.endpoint.url for outcome in chosen] == ["a", "b", "a", "b"]
    assert {outcome.probability for outcome in chosen} == {1.0}


def test_no_endpoint_of_the_role_is_not_a_missing_model():
    role = NamedFilter(name="role", filter=RoleFilter(role=Role.DECODE))
    profile = dataclasses.replace(DOCUMENTS, filters=(*DOCUMENTS.filters, role))
    outcome = pick([endpoint("a", role=Role.PREFILL)], profile=profile)
    assert (outcome.endpoint, outcome.reason, dict(outcome.dropped)) == (None, "no_role", {"a": "role"})


def test_the_weights_of_the_documents():
    assert [(entry.name, entry.weight) for entry in DOCUMENTS.scorers] == [
        ("prefix-aware", 100),
        ("load-aware", 50),
        ("predicted-latency", 30),
    ]
    assert [entry.name for entry in DOCUMENTS.filters] == ["model-compatibility", "queue-depth", "memory-pressure"]
    assert DOCUMENTS.picker == TopKRandom(top_k=3)


def test_scores_explain_the_total():
    def predict(_request, endpoints):
        return [Prediction(ttft_s=0.1 * (index + 1), tpot_s=0.01) for index, _ in enumerate(endpoints)]

    outcome = pick([endpoint("a", matched=320), endpoint("b", waiting=10)], predict=predict)
    assert outcome.scores["a"] == pytest.approx(
        {"prefix-aware": 0.5, "load-aware": 1.0, "predicted-latency": 1.0, "total": 130.0}
    )
    load = 1 - 0.7 * 0.2 - 0.3 * 10 / 128
    assert outcome.scores["b"] == pytest.approx(
        {"prefix-aware": 0.0, "load-aware": load, "predicted-latency": 0.5, "total": 50 * load + 15}
    )
    assert outcome.predictions["b"].ttft_s == 0.2
    assert not outcome.cold


def test_a_filling_cache_lowers_the_total_and_says_so():
    outcome = pick([endpoint("a", kv=0.9), endpoint("b")])
    assert outcome.scores["a"]["memory-pressure"] == pytest.approx(0.75)
    assert outcome.scores["a"]["total"] == pytest.approx(0.75 * outcome.scores["b"]["total"])


@pytest.mark.parametrize("predict", [None, no_prediction])
def test_a_cold_model_is_said_and_changes_nothing_between_candidates(predict):
    outcome = pick([endpoint("a"), endpoint("b")], predict=predict)
    assert outcome.cold
    assert {row["predicted-latency"] for row in outcome.scores.values()} == {0.5}
    assert dict(outcome.predictions) == {}


def test_the_model_is_asked_once_and_only_for_candidates():
    asked = []

    def predict(_request, endpoints):
        asked.append([view.url for view in endpoints])
        return [Prediction(ttft_s=0.1, tpot_s=0.01) for _ in endpoints]

    pick([endpoint("a"), endpoint("full", waiting=99), endpoint("b")], predict=predict)
    assert asked == [["a", "b"]]


def test_a_profile_without_latency_scorers_asks_no_model():
    profile = dataclasses.replace(DOCUMENTS, scorers=DOCUMENTS.scorers[:2])
    outcome = pick([endpoint("a")], profile=profile, predict=lambda *_: pytest.fail("asked"))
    assert not outcome.cold


def test_without_scorers_all_are_alike():
    profile = dataclasses.replace(DOCUMENTS, scorers=(), picker=MaxScore())
    outcome = pick([endpoint("a"), endpoint("b")], profile=profile)
    assert (outcome.probability, {row["total"] for row in outcome.scores.values()}) == (0.5, {0.0})


@dataclass(frozen=True, slots=True, kw_only=True)
class Odd:
    """A scorer that keeps no promise."""

    predicts: ClassVar[bool] = False
    scores: tuple[float, ...] = ()

    def __call__(self, candidates):
        return list(self.scores)


def test_the_framework_clamps():
    scorer = WeightedScorer(name="odd", weight=10, scorer=Odd(scores=(math.nan, -3.0, 7.0, math.inf)))
    profile = dataclasses.replace(DOCUMENTS, scorers=(scorer,))
    outcome = pick([endpoint(name) for name in "abcd"], profile=profile)
    assert [row["total"] for row in outcome.scores.values()] == [0, 0, 10, 10]


def test_a_scorer_that_forgets_a_candidate_is_an_error():
    scorers = (WeightedScorer(name="odd", weight=1, scorer=Odd(scores=(1.0,))),)
    with pytest.raises(ValueError, match="zip"):
        pick([endpoint("a"), endpoint("b")], profile=dataclasses.replace(DOCUMENTS, scorers=scorers))


def test_a_stale_sample_is_not_believed():
    """It said idle a minute ago; the one that says so now is preferred."""
    stale, fresh = endpoint("stale", age=60.0), endpoint("fresh")
    outcome = pick([stale, fresh], profile=dataclasses.replace(DOCUMENTS, picker=MaxScore()))
    assert outcome.endpoint.url == "fresh"
    assert outcome.scores["stale"]["load-aware"] == 0.5
    assert pick([endpoint("stale", age=60.0, waiting=99)]).reason == "picked"


def test_the_plain_rule_spreads_over_the_best_three_whatever_the_prefix():
    endpoints = [endpoint("warm", matched=640), endpoint("b"), endpoint("c")]
    counts = picks(endpoints, PROFILES["documents"])
    assert all(count > 150 for count in counts.values())


def test_the_default_keeps_a_warm_prefix_and_spreads_equals():
    warm = [endpoint("warm", matched=640), endpoint("b"), endpoint("c")]
    assert picks(warm, DEFAULT) == {"warm": 600}
    equal = picks([endpoint("a"), endpoint("b"), endpoint("c"), endpoint("d")], DEFAULT)
    assert all(count > 100 for count in equal.values())
    assert len(equal) == 4


def test_the_default_leaves_a_warm_prefix_for_an_idle_endpoint_when_it_is_swamped():
    swamped, idle = endpoint("warm", matched=640, own=200, waiting=80, running=120), endpoint("idle")
    assert picks([swamped, idle], DEFAULT) == {"idle": 600}


def test_the_default_turns_nobody_away_for_load():
    """A full cache everywhere must not scatter requests away from their prefixes."""
    full = [endpoint("warm", matched=640, kv=0.99, own=60, running=60), endpoint("b", kv=0.99, own=60, running=60)]
    outcome = pick(full, profile=DEFAULT)
    assert (outcome.endpoint.url, outcome.reason, dict(outcome.dropped)) == ("warm", "picked", {})


names = st.sampled_from("abcdef")
views = st.lists(
    st.builds(
        endpoint,
        names,
        waiting=st.none() | st.integers(0, 60),
        running=st.none() | st.integers(0, 60),
        kv=st.none() | st.floats(0, 1),
        own=st.integers(0, 60),
        matched=st.integers(0, 640),
        models=st.sets(st.sampled_from(["llama", "qwen"])),
        age=st.none() | st.floats(0, 60),
    ),
    unique_by=lambda view: view.url,
)


@settings(deadline=None)
@given(views, st.sampled_from(sorted(PROFILES)), st.integers(0, 10**9), st.integers(0, 99), st.booleans())
def test_every_decision_accounts_for_every_endpoint(endpoints, name, seed, turn, cold):
    def predict(_request, given_):
        return None if cold else [Prediction(ttft_s=0.1, tpot_s=0.01) for _ in given_]

    outcome = pick(endpoints, profile=PROFILES[name], seed=seed, turn=turn, predict=predict)
    urls = {view.url for view in endpoints}
    serving = {view.url for view in endpoints if not view.models or "llama" in view.models}
    assert set(outcome.dropped) | set(outcome.scores) == urls
    assert not set(outcome.dropped) & set(outcome.scores)
    assert (outcome.endpoint is None) == (not serving)
    if outcome.endpoint is not None:
        assert outcome.endpoint.url in serving
        assert 0.0 < outcome.probability <= 1.0
    for row in outcome.scores.values():
        assert all(0.0 <= score <= 1.0 for scorer, score in row.items() if scorer != "total")
        assert 0.0 <= row["total"] <= 180.0


@given(views, st.integers(0, 10**9))
def test_the_same_seed_gives_the_same_decision(endpoints, seed):
    one, two = pick(endpoints, seed=seed), pick(endpoints, seed=seed)
    assert (one.endpoint, one.reason, one.probability) == (two.endpoint, two.reason, two.probability)
    assert (one.scores, one.dropped, one.predictions) == (two.scores, two.dropped, two.predictions)
