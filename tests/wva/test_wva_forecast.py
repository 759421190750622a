"""The forecast's errors at another demand than the one that they were made at, and states of before."""

from __future__ import annotations

import msgspec
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
