"""The demand now, from counters: steady, stepping, climbing."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from wva.slo.demand import Level, Reading, Weights, level

EVERY_S = 15.0
WEIGHTS = Weights(request_s=1.0, token_s=0.0)


def walk(rate: Callable[[float], float], seconds: float, seed: int) -> list[Level]:
    """What each pass says of Poisson arrivals, a pass each :data:`EVERY_S`; a request is one second of work."""
    rng = np.random.default_rng(seed)
    readings, found, before, arrived = [], list[Level](), None, 0.0
    for number in range(int(seconds / EVERY_S) + 1):
        at_s = number * EVERY_S
        readings.append(Reading(at_s=at_s, arrived=arrived, prompt_tokens=0.0, finished=arrived,
                                generation_tokens=0.0, in_flight=10.0, ready=2))  # fmt: skip
        before = level(readings, WEIGHTS, 1.0, before, lead_s=120.0)
        found += [before] if before else []
        arrived += float(rng.poisson(np.mean([rate(at_s + second) for second in range(15)]) * EVERY_S))
    return found


def climb(at_s: float) -> float:
    """From 4 to 20 requests/s in ten minutes, after five at rest."""
    return 4.0 + 16.0 * float(np.clip((at_s - 300.0) / 600.0, 0.0, 1.0))


@pytest.mark.parametrize("falls", [False, True], ids=["climbs", "falls"])
def test_demand_that_changes_steadily_is_told_as_it_is_now(falls: bool) -> None:
    """A mean over the two minutes that its noise asks for is 1.6 requests/s behind, all of the way."""
    rate: Callable[[float], float] = (lambda at_s: 24.0 - climb(at_s)) if falls else climb
    behind = []
    for seed in range(20):
        told = walk(rate, 900.0, seed)[-20:]
        times = np.arange(len(told)) * EVERY_S + 900.0 - EVERY_S * (len(told) - 1)
        behind.append(float(np.mean([rate(at_s) - one.work for at_s, one in zip(times, told, strict=True)])))
    assert abs(float(np.mean(behind))) < 1.2


def test_a_climb_is_no_noise() -> None:
    """The dispersion stays near that of Poisson arrivals, which is 1; against means that lag it rose to 6."""
    assert np.median([walk(climb, 900.0, seed)[-1].dispersion for seed in range(20)]) < 3.5


def test_steady_traffic_has_no_drift_and_long_windows() -> None:
    told = [walk(lambda _: 6.0, 450.0, seed)[-1] for seed in range(200)]
    assert sum(one.drift != 0.0 for one in told) <= 10
    assert np.std([one.work for one in told]) < 0.35
    assert np.median([one.window_s for one in told]) >= 100.0


def test_after_a_step_the_demand_is_the_new_one() -> None:
    told = [walk(lambda at_s: 10.0 if at_s < 300.0 else 20.0, 330.0, seed)[-1].work for seed in range(20)]
    assert np.median(told) == pytest.approx(20.0, rel=0.05)
    assert min(told) > 15.0
