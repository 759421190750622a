"""What the router learns of its own traffic."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.traffic import START_OUTPUT_TOKENS, START_REUSE, Traffic


def test_before_anything_was_seen():
    traffic = Traffic()
    assert (traffic.output_tokens, traffic.reuse, traffic.new_prompts("u")) == (START_OUTPUT_TOKENS, START_REUSE, 0.0)


def test_means_come_to_what_is_usual():
    traffic = Traffic()
    for _ in range(1000):
        traffic.answered(40)
        traffic.dispatched("u", 100, 1000)
    assert traffic.output_tokens == pytest.approx(40, rel=0.01)
    assert traffic.reuse == pytest.approx(0.9, rel=0.01)


@pytest.mark.parametrize(
    ("uncached", "counted"),
    [
        pytest.param(1000, True, id="a new prompt"),
        pytest.param(501, True, id="mostly new"),
        pytest.param(500, False, id="half of it is cached"),
        pytest.param(0, False, id="all of it is cached"),
    ],
)
def test_only_prompts_that_are_mostly_new_are_tallied(uncached, counted):
    traffic = Traffic()
    traffic.dispatched("u", uncached, 1000)
    assert (traffic.new_prompts("u") > 0.0) is counted


def test_an_empty_prompt_is_no_new_one():
    traffic = Traffic()
    traffic.dispatched("u", 0, 0)
    assert traffic.new_prompts("u") == 0.0


def test_recent_placements_weigh_more_and_a_restart_forgets():
    traffic = Traffic()
    for url in ("old",) * 300 + ("new",) * 300:
        traffic.dispatched(url, 10, 10)
    assert traffic.new_prompts("new") > 2 * traffic.new_prompts("old")
    traffic.forget("new")
    assert traffic.new_prompts("new") == 0.0 < traffic.new_prompts("old")


def test_ratios_survive_the_rescaling():
    traffic = Traffic()
    for turn in range(80_000):
        traffic.dispatched("a" if turn % 3 else "b", 10, 10)
    assert traffic.new_prompts("a") / traffic.new_prompts("b") == pytest.approx(2.0, rel=0.02)
    assert 0.0 < traffic.new_prompts("a") < 1e103


@given(st.lists(st.tuples(st.sampled_from("uv"), st.integers(0, 500), st.integers(0, 500)), max_size=50))
def test_bounds(dispatches):
    traffic = Traffic()
    for url, uncached, cached in dispatches:
        traffic.dispatched(url, uncached, uncached + cached)
    assert 0.0 <= traffic.reuse <= 1.0
    assert traffic.new_prompts("u") >= 0.0
