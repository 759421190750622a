"""Filters are asked once while nothing changed, and say what they would say anew."""

from __future__ import annotations

import dataclasses
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.types import EngineSample
from router.affinity import ContextLength, LoraAware
from router.filters import FILTERS
from router.profile import PROFILES, NamedFilter, Profile, Scheduler, WeightedScorer
from router.scorers import SCORERS
from router.sieve import Sieve
from router.types import EndpointView, InferenceRequest

EVERYTHING = Profile(
    name="everything", filters=PROFILES["documents"].filters, picker=PROFILES["documents"].picker,
    scorers=tuple(WeightedScorer(name=name, weight=1.0 + number, scorer=plugin.kind(**plugin.preset))
                  for number, (name, plugin) in enumerate(SCORERS.items())),
)  # fmt: skip
MODELS = ("llama", "qwen", "sql")


def request(model="llama", **fields):
    return InferenceRequest(request_id="r", model=model, input_tokens=640, block_hashes=tuple(range(10)),
                            block_tokens=64, adapter="sql" if model == "sql" else "", **fields)  # fmt: skip


def endpoint(number, **fields):
    given = {"url": f"http://e{number}", "variant": "v", "age_s": 1.0, **fields}
    return EndpointView(**given)


@st.composite
def endpoints(draw):
    found = []
    for number in range(draw(st.integers(1, 6))):
        sample = EngineSample(
            at_s=0.0, waiting=draw(st.sampled_from([0.0, 3.0, 60.0])), running=2.0,
            kv_utilisation=draw(st.sampled_from([0.2, 0.9, 0.97])),
        )  # fmt: skip
        found.append(endpoint(
            number, sample=draw(st.sampled_from([None, sample])), age_s=draw(st.sampled_from([None, 1.0, 60.0])),
            models=draw(st.sampled_from([frozenset(), frozenset(MODELS), frozenset({"llama"})])),
            adapters=draw(st.sampled_from([frozenset(), frozenset({"sql"})])), adapter_slots=2,
            distance_s=draw(st.sampled_from([None, 0.001, 0.02])), labels={"llm-d.ai/context-length-range": "0-512"},
        ))  # fmt: skip
    return found


def counts(views, rng):
    """What changes with every request."""
    for view in views:
        view.requests_in_flight, view.prefill_tokens_in_flight = rng.randrange(20), rng.randrange(9000)
        view.context_tokens_in_flight, view.matched_tokens = rng.randrange(90_000), rng.choice([0, 64, 640])
        view.new_prompts, view.last_cold = rng.random(), rng.randrange(50)


def told(pick):
    return (pick.endpoint and pick.endpoint.url, pick.reason, pick.probability, pick.scores, dict(pick.dropped))


@settings(max_examples=80, deadline=None)
@given(endpoints(), st.lists(st.sampled_from(MODELS), min_size=2, max_size=8), st.integers(0, 1000))
def test_decisions_are_the_same_with_what_is_kept_and_without(views, models, seed):
    keeping, rng = Scheduler(EVERYTHING), random.Random(seed)
    for turn, model in enumerate(models):
        counts(views, rng)
        kept, anew = (
            scheduler.pick(request(model), views, rng=random.Random(turn), turn=turn, epoch=epoch)
            for scheduler, epoch in ((keeping, 1), (Scheduler(EVERYTHING), None))
        )
        assert told(kept) == told(anew)


def test_another_epoch_or_another_list_is_looked_at_anew():
    sieve = Sieve(PROFILES["documents"].filters, stale_after_s=10.0)
    views = [endpoint(0), endpoint(1)]
    first = sieve.sift(request(), views, 1)
    views[0].sample = EngineSample(at_s=0.0, waiting=99.0)
    assert sieve.sift(request(), views, 1) is first, "the caller promised that nothing changed"
    assert [one.url for one in sieve.sift(request(), views, 2).kept] == ["http://e1"]
    assert sieve.sift(request(), [endpoint(7)], 2).kept[0].url == "http://e7"
    assert [one.url for one in sieve.sift(request(), views, None).kept] == ["http://e1"]


def test_a_sample_that_grew_stale_is_never_kept_as_a_copy():
    sieve = Sieve((), stale_after_s=10.0)
    views = [endpoint(0, age_s=60.0, sample=EngineSample(at_s=0.0, waiting=1.0)), endpoint(1)]
    for own in (3, 4):
        views[0].requests_in_flight = own
        found = sieve.sift(request(), views, 1).kept
        assert (found[0].sample, found[0].requests_in_flight) == (None, own)


@pytest.mark.parametrize("name", sorted(FILTERS))
def test_every_filter_says_whether_it_is_steady(name):
    assert FILTERS[name].kind.steady in (True, False)


@pytest.mark.parametrize("name", [name for name in FILTERS if FILTERS[name].kind.steady])
def test_a_steady_filter_asks_nothing_that_changes_with_a_request(name):
    plugin = FILTERS[name]
    chosen, rng = plugin.kind(**plugin.preset), random.Random(2)
    views = [endpoint(number, sample=EngineSample(at_s=0.0, waiting=20.0 * number, kv_utilisation=0.3 * number))
             for number in range(4)]  # fmt: skip
    before = [one.url for one in chosen(request(), views).kept]
    for size in (1, 100_000):
        counts(views, rng)
        other = request(session="s", session_url="http://e1", chance=0.0)
        other.input_tokens = size
        assert [one.url for one in chosen(other, views).kept] == before


def test_models_beyond_the_number_kept_are_sifted_too():
    sieve = Sieve((NamedFilter(name="model", filter=FILTERS["model"].kind()),), stale_after_s=10.0)
    views = [endpoint(0, models=frozenset({"m7"})), endpoint(1)]
    for number in range(200):
        found = sieve.sift(request(f"m{number}"), views, 1)
        assert len(found.kept) == (2 if number == 7 else 1)


def test_scores_of_adapters_and_lengths_follow_the_request():
    scorers = (LoraAware(), ContextLength())
    profile = dataclasses.replace(
        EVERYTHING, filters=(), scorers=tuple(WeightedScorer(name=type(one).__name__, weight=1.0, scorer=one)
                                              for one in scorers),
    )  # fmt: skip
    labels = {"llm-d.ai/context-length-range": "0-900"}
    views = [endpoint(0, adapters=frozenset({"sql"}), adapter_slots=2, labels=labels), endpoint(1, adapter_slots=2)]
    scheduler, rng = Scheduler(profile), random.Random(1)
    found = [scheduler.pick(request(model, max_tokens=tokens), views, rng=rng, turn=1, epoch=1).scores["http://e0"]
             for model, tokens in (("sql", 10), ("llama", 10), ("sql", 999))]  # fmt: skip
    assert [(one["LoraAware"], one["ContextLength"]) for one in found] == [(1.0, 1.0), (1.0, 1.0), (1.0, 0.0)]
