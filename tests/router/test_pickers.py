"""Chances that pickers give, and the draw."""

from __future__ import annotations

import itertools
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.pickers import PICKERS, MaxScore, TopKRandom, UniformRandom, WeightedRandom, draw

THIRD = pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("picker", "totals", "chances"),
    [
        pytest.param(TopKRandom(), [1, 5, 4, 3], [0, THIRD, THIRD, THIRD], id="one of the best three"),
        pytest.param(TopKRandom(), [9, 1], [0.5, 0.5], id="fewer than three all draw"),
        pytest.param(TopKRandom(), [7], [1], id="a single candidate is certain"),
        pytest.param(TopKRandom(top_k=2), [5, 3, 3, 1], [0.5, 0.25, 0.25, 0], id="a tie shares the last place evenly"),
        pytest.param(TopKRandom(), [0, 0, 0, 0], [0.25] * 4, id="all alike all draw, however many"),
        pytest.param(TopKRandom(top_k=1), [5, 5, 3], [0.5, 0.5, 0], id="top one with a tie is not the first"),
        pytest.param(TopKRandom(margin=0.1), [100, 91, 89, 95], [THIRD, THIRD, 0, THIRD], id="inside the margin"),
        pytest.param(TopKRandom(margin=0.1), [100, 50, 40, 30], [1, 0, 0, 0], id="one clear best wins"),
        pytest.param(TopKRandom(margin=0.1), [100, 89], [1, 0], id="the margin also holds for few"),
        pytest.param(TopKRandom(margin=0), [8, 8, 7], [0.5, 0.5, 0], id="no margin leaves equals"),
        pytest.param(
            TopKRandom(margin=0.5), [10, 9, 8, 7], [THIRD, THIRD, THIRD, 0], id="a wide margin still draws among k"
        ),
        pytest.param(MaxScore(), [1, 3, 2], [0, 1, 0], id="max-score takes the best"),
        pytest.param(MaxScore(), [3, 1, 3], [0.5, 0, 0.5], id="max-score shares between equals"),
        pytest.param(WeightedRandom(), [1, 3], [0.25, 0.75], id="weighted-random goes by share"),
        pytest.param(WeightedRandom(), [0, 0], [0.5, 0.5], id="weighted-random without weights is even"),
        pytest.param(UniformRandom(), [1, 3], [0.5, 0.5], id="random ignores totals"),
    ],
)
def test_chances(picker, totals, chances):
    assert picker(totals) == chances


class Point:
    """A generator that gives one number."""

    def __init__(self, value):
        self.value = value

    def random(self):
        return self.value


@pytest.mark.parametrize(
    ("point", "index"),
    [
        pytest.param(0.0, 1, id="a zero chance is never drawn, not even at 0"),
        pytest.param(0.24, 1, id="inside the first"),
        pytest.param(0.25, 3, id="at its end the next begins"),
        pytest.param(1 - 1e-16, 3, id="rounding falls to the last possible"),
    ],
)
def test_draw(point, index):
    assert draw([0, 0.25, 0, 0.75, 0], Point(point)) == index


def test_draws_follow_the_chances():
    rng = random.Random(1)
    counts = Counter(draw([0.5, 0.0, 0.3, 0.2], rng) for _ in range(20_000))
    assert [counts[index] / 20_000 for index in range(4)] == pytest.approx([0.5, 0.0, 0.3, 0.2], abs=0.015)


def test_the_same_seed_draws_the_same():
    one, two = random.Random(7), random.Random(7)
    assert [draw([0.5, 0.5], one) for _ in range(50)] == [draw([0.5, 0.5], two) for _ in range(50)]


pickers = st.one_of(
    st.builds(TopKRandom, top_k=st.integers(1, 5), margin=st.floats(0, 1)),
    st.sampled_from([MaxScore(), WeightedRandom(), UniformRandom()]),
)
totals = st.lists(st.one_of(st.sampled_from([0.0, 1.0, 2.0]), st.floats(0, 180)), min_size=1, max_size=12)


@given(pickers, totals)
def test_chances_sum_to_one(picker, values):
    chances = picker(values)
    assert len(chances) == len(values)
    assert sum(chances) == pytest.approx(1.0)
    assert all(0.0 <= chance <= 1.0 + 1e-9 for chance in chances)


@given(st.one_of(st.builds(TopKRandom, top_k=st.integers(1, 5), margin=st.floats(0, 1)), st.just(MaxScore())), totals)
def test_a_better_total_never_has_the_smaller_chance(picker, values):
    ranked = sorted(zip(values, picker(values), strict=True))
    for (low, low_chance), (high, high_chance) in itertools.pairwise(ranked):
        assert high_chance >= low_chance - 1e-9 if high > low else high_chance == low_chance


@given(totals, st.integers(1, 5))
def test_the_plain_rule_draws_k_when_totals_differ(values, top_k):
    distinct = sorted(set(values))
    chances = TopKRandom(top_k=top_k)(distinct)
    assert sum(chance > 0 for chance in chances) == min(top_k, len(distinct))


def test_upstream_names_stand_for_the_same():
    assert PICKERS["max-score-picker"].kind is MaxScore
    assert PICKERS["weighted-random-picker"].kind is WeightedRandom
    assert PICKERS["random-picker"].kind is UniformRandom
