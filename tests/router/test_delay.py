"""The delay that a request has and causes: what it is made of, and which way each part pulls."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.types import EngineSample
from router.delay import LeastDelay
from router.scoring import Candidates
from router.types import EndpointView, InferenceRequest, Prediction

PROMPT, ANSWER = 1000, 100.0


def endpoint(*, own=0, length=1000, pending=0, matched=0, others=0.0, waiting=0.0, new=0.0, scraped=True):
    sample = EngineSample(at_s=0.0, waiting=waiting, running=float(own)) if scraped else None
    return EndpointView(
        url="u",
        variant="v",
        sample=sample,
        requests_in_flight=own,
        context_tokens_in_flight=own * length,
        prefill_tokens_in_flight=pending,
        matched_tokens=matched,
        other_requests=others,
        new_prompts=new,
    )


def delays(*endpoints, reuse=0.0, alike=0, slowness=None, **parameters):
    request = InferenceRequest(
        request_id="r",
        model="m",
        input_tokens=PROMPT,
        expected_output_tokens=ANSWER,
        expected_reuse=reuse,
        alike=alike,
    )
    predictions = slowness and [Prediction(ttft_s=1, tpot_s=1, slowness=factor) for factor in slowness]
    return LeastDelay(**parameters).delays(
        Candidates(request=request, endpoints=endpoints, predictions=predictions or None)
    )


def test_the_formula():
    """0.5 a request and 0.001 a context token a step; own answer, and half of the others'; a miss counts 1.25 times."""
    warm = endpoint(own=10, pending=300, matched=900)
    cold = endpoint(own=30)
    mean_requests, step_of_one = 20.0, 0.5 + 0.001 * 1000
    decoding = [ANSWER * (n * step_of_one + 0.5 * n * step_of_one) for n in (10, 30)]
    miss = 1.25 * (1 + min(mean_requests, 2 * 30)) * (1000 - 100)
    assert delays(warm, cold) == pytest.approx([300 + 100 + decoding[0], 0 + 1000 + miss + decoding[1]])


def test_scores_are_the_least_delay_over_each():
    request = InferenceRequest(request_id="r", model="m", input_tokens=PROMPT)
    seen = Candidates(request=request, endpoints=[endpoint(), endpoint(pending=1000)])
    assert LeastDelay()(seen) == [1.0, 0.5]


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        pytest.param(endpoint(matched=900), endpoint(), id="more of the prompt is cached"),
        pytest.param(endpoint(own=3), endpoint(own=4), id="fewer requests"),
        pytest.param(endpoint(own=3), endpoint(own=3, length=2000), id="shorter contexts"),
        pytest.param(endpoint(own=3), endpoint(own=3, pending=500), id="fewer prompt tokens before it"),
        pytest.param(endpoint(own=3), endpoint(own=3, others=2), id="fewer requests of other routers"),
        pytest.param(endpoint(own=3), endpoint(own=3, waiting=2), id="no queue"),
    ],
)
def test_each_part_pulls_its_way(better, worse):
    first, second = delays(better, worse)
    assert first < second


def test_a_miss_costs_more_the_more_requests_it_holds_up():
    quiet = delays(endpoint(own=2, matched=900), endpoint(own=2))
    busy = delays(endpoint(own=80, matched=900), endpoint(own=80))
    assert busy[1] - busy[0] > 20 * (quiet[1] - quiet[0])


def test_a_popular_prefix_is_copied_sooner_than_a_rare_one():
    """The copy costs once and serves, on each endpoint, its share of the requests that start alike."""
    warm, cold = endpoint(own=40, matched=900), endpoint(own=20)
    rare, popular = delays(warm, cold, alike=0), delays(warm, cold, alike=38)
    assert rare[0] == popular[0] < rare[1]
    miss = 1.25 * (1 + 30) * 900
    assert rare[1] - popular[1] == pytest.approx(miss - miss / 20)


def test_an_idle_endpoint_takes_a_miss_rather_than_a_queue():
    queued, idle = delays(endpoint(own=60, matched=1000, waiting=20), endpoint())
    assert idle < queued


def test_an_endpoint_never_scraped_is_as_busy_as_the_others():
    known, unknown = delays(endpoint(own=8), endpoint(scraped=False))
    assert unknown == pytest.approx(known)


def test_a_slow_engine_counts_for_what_it_is():
    alike = delays(endpoint(own=5), endpoint(own=5), slowness=(1.0, 2.0))
    assert alike[1] == pytest.approx(2 * alike[0])


@pytest.mark.parametrize("odd", [math.nan, math.inf, 0.0, -1.0])
def test_a_slowness_that_is_no_positive_number_changes_nothing(odd):
    assert delays(endpoint(own=5), slowness=(odd,)) == delays(endpoint(own=5))


def test_new_prompts_even_out_over_endpoints_where_prompts_are_reused():
    """The load of the moment says left, where too many new prompts went already."""
    left, right = endpoint(own=9, new=12.0), endpoint(own=10, new=8.0)
    now, usual = delays(left, right, reuse=0.0), delays(left, right, reuse=0.9)
    assert now[0] < now[1]
    assert usual[0] > usual[1]
    assert delays(left, right, reuse=0.9, placement=0.0) == now


def test_a_prompt_that_is_mostly_cached_is_judged_by_the_load_of_the_moment():
    """Its followers have been placed already."""
    views = [endpoint(own=9, new=12.0, matched=501), endpoint(own=10, new=8.0, matched=501)]
    assert delays(*views, reuse=0.9) == delays(*views, reuse=0.0)


def test_the_pull_of_earlier_placements_is_bounded():
    """A new endpoint does not get all new prompts until it has as many as the others."""
    old, new = endpoint(own=10, new=1000.0), endpoint(own=10, new=0.0)
    high, low = delays(old, new, reuse=1.0)
    assert high - PROMPT == pytest.approx(1.6 / 0.4 * (low - PROMPT))


def test_a_prompt_that_some_endpoint_has_is_steered_less_at_the_others():
    holder = endpoint(own=10, new=10.0, matched=900)
    often, seldom = endpoint(own=10, new=20.0), endpoint(own=10, new=0.0)
    _, high, low = delays(holder, often, seldom, reuse=1.0)
    decoding = ANSWER * 10 * (1.5 * 0.5 + 1.5 * 0.001 * 1000)
    assert high - low == pytest.approx(decoding * 0.5 * (1.2 - 0.8))


views = st.lists(
    st.builds(
        endpoint,
        own=st.integers(0, 300),
        length=st.integers(1, 20_000),
        pending=st.integers(0, 100_000),
        matched=st.integers(0, 2 * PROMPT),
        others=st.floats(0, 300),
        waiting=st.floats(0, 300),
        new=st.floats(0, 1e100),
        scraped=st.booleans(),
    ),
    min_size=1,
    max_size=8,
)


@given(views, st.floats(0, 1))
def test_bounds(endpoints, reuse):
    found = delays(*endpoints, reuse=reuse)
    assert all(math.isfinite(delay) and delay >= 1.0 for delay in found)
    request = InferenceRequest(request_id="r", model="m", input_tokens=PROMPT, expected_reuse=reuse)
    scores = LeastDelay()(Candidates(request=request, endpoints=endpoints))
    assert max(scores) == 1.0
    assert all(0.0 < score <= 1.0 for score in scores)


@given(views, st.integers(1, 50_000))
def test_more_tokens_before_it_never_shorten_the_delay(endpoints, more):
    loaded = dataclasses.replace(
        endpoints[0], prefill_tokens_in_flight=endpoints[0].prefill_tokens_in_flight + more
    )  # fmt: skip
    assert delays(loaded, *endpoints[1:])[0] > delays(*endpoints)[0]


def test_an_engines_own_counters_count_before_the_latency_model():
    views = [dataclasses.replace(endpoint(own=5), slowness=2.0), endpoint(own=5)]
    plain = delays(endpoint(own=5), endpoint(own=5))
    assert delays(*views) == [2 * plain[0], plain[1]]
    assert delays(*views, slowness=(9.0, 3.0)) == [2 * plain[0], 3 * plain[1]]
