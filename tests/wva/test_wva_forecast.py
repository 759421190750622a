"""The forecast's spread: errors made at another demand, few errors that tell something new, states of before."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from wva.slo.forecast import Error, Forecast, Memory, step

NOW = 1.7e9


def told(errors: list[Error], demand: float) -> Forecast:
    return step(Memory(errors=tuple(errors)), demand, now_s=NOW, horizon_s=120.0)[0]


def errors(size: float, demand: float) -> list[Error]:
    return [Error(NOW - 30.0 * i, size * sign, size * sign, size * sign, demand)
            for i, sign in enumerate((1, -1, 0, 0, 0, 1, -1, 0, 0, 0) * 4)]  # fmt: skip


@pytest.mark.parametrize(
    ("then", "now", "share"),
    [
        pytest.param(12.0, 12.0, 1.0, id="at the same demand it counts as it was"),
        pytest.param(12.0, 6.0, 0.5, id="at half of it half"),
        pytest.param(3.0, 6.0, 1.0, id="a step from little is no promise of larger ones"),
    ],
)
def test_errors_shrink_with_the_demand_and_never_grow(then: float, now: float, share: float) -> None:
    made_here = told(errors(3.0 * share, now), now)
    assert told(errors(3.0, then), now).parts == pytest.approx(made_here.parts)


def test_errors_that_do_not_tell_their_demand_count_as_they_were() -> None:
    """A state that was written before they did is read, and nothing in it is scaled."""
    old = [list(one[:4]) for one in errors(3.0, 12.0)]
    read = msgspec.json.decode(msgspec.json.encode(old), type=list[Error])
    assert {one.demand for one in read} == {0.0}
    assert told(read, 6.0).parts == told(errors(3.0, 6.0), 6.0).parts


def test_few_errors_promise_less_than_many() -> None:
    """The same errors over a long horizon overlap: fewer of them tell something new, so more is thought possible."""
    made = Memory(errors=tuple(errors(3.0, 12.0)))
    near, far = (step(made, 12.0, now_s=NOW, horizon_s=horizon_s)[0].parts for horizon_s in (120.0, 1200.0))
    assert far[-1] > near[-1] > 12.0
    assert far[0] < near[0] < 12.0


def test_the_spread_covers_errors_of_which_few_were_seen() -> None:
    """After eight independent errors of a normal distribution the upper part is exceeded about as often as it says."""
    rng, exceeded, trials = np.random.default_rng(1), 0, 2000
    for _ in range(trials):
        *seen, new = rng.normal(0.0, 2.0, 9)
        made = Memory(errors=tuple(Error(NOW, one, one, one, 12.0) for one in seen))
        exceeded += new > step(made, 12.0, now_s=NOW, horizon_s=30.0)[0].parts[-2] - 12.0
    assert 0.05 < exceeded / trials < 0.12
