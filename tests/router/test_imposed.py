"""A request that is late wherever it goes: where it does least harm, and that nothing else changes."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.delay import LeastDelay
from router.imposed import late_everywhere, misses
from router.scoring import Candidates
from router.types import EndpointView, InferenceRequest, Predictions

LIMIT_S = 0.05
TPOTS = st.lists(st.floats(1e-4, 10.0), min_size=2, max_size=8)


def scores(tpots, *, limit_s=LIMIT_S, own=(20, 20), cold=False, **parameters):
    endpoints = [
        EndpointView(url=str(index), variant="v", requests_in_flight=count, context_tokens_in_flight=count * 1000)
        for index, count in enumerate(own)
    ]
    request = InferenceRequest(request_id="r", model="m", input_tokens=1000, expected_output_tokens=200.0,
                               slo_tpot_s=limit_s)  # fmt: skip
    predictions = Predictions([0.1] * len(tpots), list(tpots), [1.0] * len(tpots))
    return LeastDelay(**parameters)(Candidates(request, endpoints, None if cold else predictions))


def test_with_a_candidate_in_time_nothing_changes():
    plain = scores((0.049, 0.09), limit_s=None, own=(30, 20))
    assert scores((0.049, 0.09), own=(30, 20)) == plain
    assert scores((0.052, 0.09), own=(30, 20)) == scores((0.052, 0.09), limit_s=None, own=(30, 20)), "within the error"
    assert scores((0.053, 0.09), own=(30, 20)) != plain


@pytest.mark.parametrize("without", [{"limit_s": None}, {"cold": True}, {"missed_target": 0.0}])
def test_without_a_target_a_model_or_a_price_nothing_changes(without):
    assert scores((0.06, 0.3), **without) == scores((0.06, 0.3), limit_s=None)


def test_of_two_alike_the_one_that_is_lost_anyway_takes_it():
    """At 53 ms half of four hundred others are on the edge; at 150 ms they all are late already."""
    edge, lost = scores((0.053, 0.15), own=(400, 400))
    assert (lost, edge < 1.0) == (1.0, True)


def test_but_delay_still_counts_so_that_nobody_waits_without_end():
    edge, lost = scores((0.053, 0.5), own=(20, 400))
    assert (edge, lost < 1.0) == (1.0, True)


@given(TPOTS, st.floats(1e-3, 1.0))
def test_late_everywhere_is_the_best_beyond_the_limit(tpots, limit_s):
    assert late_everywhere(tpots, limit_s) is all(tpot >= 1.05 * limit_s for tpot in tpots)


@given(TPOTS, st.floats(1e-3, 1.0), st.floats(0.0, 500.0), st.floats(0.0, 1.0))
def test_misses_are_finite_and_grow_with_what_is_slowed(tpots, limit_s, others, share):
    count = len(tpots)
    alone = misses(tpots, limit_s, [0.0] * count, [share] * count)
    among = misses(tpots, limit_s, [others] * count, [share] * count)
    assert all(0.0 <= one <= 1.0 for one in alone)
    assert all(math.isfinite(one) and one >= other for one, other in zip(among, alone, strict=True))
    order = sorted(range(count), key=lambda index: tpots[index])
    assert [alone[index] for index in order] == sorted(alone), "the slower, the likelier to be late oneself"


def test_far_from_the_limit_nobody_else_is_pushed_over_it():
    inside, edge, beyond = misses([0.005, 0.05, 0.5], 0.05, [50.0] * 3, [0.01] * 3)
    assert inside == pytest.approx(0.0, abs=1e-6)
    assert beyond == pytest.approx(1.0, abs=1e-6)
    assert edge == pytest.approx(0.5 + 0.5 * 50 * 0.01 / (0.2 * math.sqrt(2 * math.pi)))
