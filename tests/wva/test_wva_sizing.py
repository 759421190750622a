"""What sizing believes of a pool between now and a correction, and at which load misses are booked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields, replace

import numpy as np
import pytest
from numpy.typing import NDArray

from fleet.types import Direction, VariantObservation
from tests.wva.slo_fleet import SPEC, ToyFleet
from wva.decide import decide
from wva.slo import misses, sizing
from wva.slo.demand import Reading, passage
from wva.slo.law import Correction, first, law, shown, unsure, updated
from wva.slo.mix import Mix, cost
from wva.slo.observe import _lived_level
from wva.slo.plan import _stays
from wva.types import WvaState

Array = NDArray[np.float64]
MIX = Mix(prompt=4000.0, output=1000.0)
LAW = law(cost(SPEC, MIX), first(True), MIX, ttft_s=3.0, tpot_s=0.1, max_running=None, kv_tokens=307_328.0)


def batch(
    *,
    in_flight: float,
    serving: float,
    demand: float,
    ahead: float,
    warm: float = 0.0,
    refill_s: float = math.inf,
    dispersion: float = 0.0,
    unsure: float = 0.0,
    shown: float = 0.0,
) -> sizing.Batch:
    """One group whose forecast is ``ahead`` in its upper three parts, the present demand in the others."""
    one = np.array([1.0])
    parts = np.array([[demand] * 4 + [ahead] * 3])
    return sizing.Batch(
        stay_s=_stays([LAW]), full=one * LAW.full, level=one * LAW.level,
        misses=misses.expected(misses.prior(LAW.spread))[None, :], demand=one * demand, ahead=parts,
        in_flight=one * in_flight, serving=one * serving, standing=one * serving, coming=one * 0.0, coming_s=one * 50.0,
        lead_s=one * 100.0, react_s=one * 30.0, ttft_s=one * 3.0, budget=one * 0.01, price=one * 7.0,
        warm=one * warm, hit_ratio=one * min(warm, 0.5), refill_s=one * refill_s,
        dispersion=one * dispersion, unsure=one * unsure, shown=one * shown, noise=one * 0.5, sight_s=one * 30.0,
    )  # fmt: skip


def steady(replicas: float, rps: float) -> float:
    """In flight on so many replicas at a steady rate."""
    levels = np.linspace(1.0, LAW.full, 400)
    rates = np.array([LAW.rate(level) for level in levels])
    return float(np.interp(rps / replicas, rates, levels)) * replicas


def test_a_pool_that_fills_answers_fewer_requests_at_first() -> None:
    """Who is there is slowed by who comes: after a step from 5 to 8 requests/s fewer than 5 are answered."""
    inside = np.array([[steady(5.0, 5.0)]])
    flow = sizing._Flow(batch(in_flight=0.0, serving=5.0, demand=5.0, ahead=5.0), inside, np.array([[5.0]]))
    before, step_s = inside, np.array([[5.0]])
    for index in range(4):
        after = flow.after(before, np.array([[8.0]]), step_s)
        answered = 8.0 - float((after - before)[0, 0]) / 5.0
        assert answered <= 5.0 + 1e-6
        assert index == 0 or answered < 5.0
        before = after


def test_a_steady_pool_stays_as_it_is() -> None:
    inside = np.array([[steady(5.0, 5.0)]])
    flow = sizing._Flow(batch(in_flight=0.0, serving=5.0, demand=5.0, ahead=5.0), inside, np.array([[5.0]]))
    after = inside
    for _ in range(10):
        after = flow.after(after, np.array([[5.0]]), np.array([[20.0]]))
    assert float(after[0, 0]) == pytest.approx(float(inside[0, 0]), rel=0.03)


def test_what_a_decrease_gives_up_it_gives_up_now() -> None:
    """Four of eight replicas kept: the same misses as if four had served all along."""
    four = np.array([[4.0]])
    many = sizing.outlook(batch(in_flight=150.0, serving=8.0, demand=5.0, ahead=7.0), four).missed
    few = sizing.outlook(batch(in_flight=150.0, serving=4.0, demand=5.0, ahead=7.0), four).missed
    assert many == pytest.approx(few)


def test_more_replicas_never_miss_more() -> None:
    found = sizing.outlook(batch(in_flight=190.0, serving=5.0, demand=6.0, ahead=8.0), np.arange(2.0, 12.0)[None, :])
    assert np.all(np.diff(found.missed[0]) <= 1e-9)


# ---- warm caches


MANY = np.arange(2.0, 12.0)[None, :]


def missed(warm: float, refill_s: float = math.inf) -> Array:
    """Expected misses of 2 to 11 replicas, of which six serve."""
    found = batch(in_flight=150.0, serving=6.0, demand=6.0, ahead=6.5, warm=warm, refill_s=refill_s)
    return np.asarray(sizing.outlook(found, MANY).missed[0])


@pytest.mark.parametrize("refill_s", [0.1, 60.0, math.inf])
def test_without_cache_hits_nothing_is_priced_to_the_last_digit(refill_s: float) -> None:
    assert cost(SPEC, MIX).saved_s == 0.0
    found = batch(in_flight=150.0, serving=6.0, demand=6.0, ahead=6.5, refill_s=refill_s)
    stretch = np.array([[[30.0]]])
    assert sizing._Colder(found, MANY).factor(stretch, stretch) == 1.0
    beside = replace(found, **{field.name: np.concatenate([getattr(found, field.name)] * 2) for field in fields(found)})
    beside = replace(beside, warm=np.array([0.0, 0.5]), hit_ratio=np.array([0.0, 0.5]))
    both = sizing.outlook(beside, np.concatenate([MANY] * 2)).missed
    assert np.array_equal(both[0], missed(0.0)), "beside a group that has hits, too"
    assert not np.array_equal(both[1], missed(0.0))
    assert np.array_equal(missed(0.0, refill_s), missed(0.0))


@pytest.mark.parametrize("refill_s", [20.0, 200.0, math.inf])
def test_who_goes_takes_a_warm_cache_along(refill_s: float) -> None:
    """Fewer replicas than serve are expected to miss more than without caches, the others as much."""
    with_caches, without = missed(0.5, refill_s), missed(0.0)
    fewer = MANY[0] < 6.0
    assert np.all(with_caches[fewer] >= without[fewer])
    assert np.any(with_caches[fewer] > without[fewer] + 1e-4)
    assert np.array_equal(with_caches[~fewer], without[~fewer])


def test_caches_that_fill_quickly_are_cheaper_to_lose() -> None:
    quick, slow, never = missed(0.5, 5.0), missed(0.5, 100.0), missed(0.5)
    assert np.all(quick <= slow + 1e-12) and np.all(slow <= never + 1e-12)
    assert quick[3] < never[3]


def test_a_decrease_says_what_its_caches_cost() -> None:
    """Half of each prompt is cached: what a decrease loses is an input of every decision, and in its sentence."""
    fleet = ToyFleet(replicas=8, hit_ratio=0.5)
    decisions = fleet.run(1800, 4.0)
    downs = [each for each in decisions if each.direction is Direction.DOWN]
    assert downs and all("the warm caches that go add" in each.detail for each in downs)
    loss = decisions[-1].signals["warm_cache_loss"]
    own = cost(SPEC, replace(MIX, hit_ratio=0.5))
    assert loss == pytest.approx(own.saved_s / own.work_s / fleet.replicas, rel=0.01)
    cold = ToyFleet(replicas=8).run(1800, 4.0)
    assert all(not each.signals["warm_cache_loss"] and "warm" not in each.detail for each in cold)


# ---- what chance and an unsure law make of a level


def test_chance_and_an_unsure_law_miss_more_where_the_limit_is_near() -> None:
    """Four replicas that bear 5.5 requests/s: at 5.4 an even load keeps its targets best."""
    inside, four = steady(4.0, 5.4), np.array([[4.0]])
    even = batch(in_flight=inside, serving=4.0, demand=5.4, ahead=5.4)
    by_chance = replace(even, dispersion=np.array([1.0]))
    unsure = replace(even, unsure=np.array([0.1]))
    missed = [float(sizing.outlook(one, four).missed[0, 0]) for one in (even, by_chance, unsure)]
    assert missed[1] > 1.1 * missed[0]
    assert missed[2] > 2 * missed[0]


@pytest.mark.parametrize(
    ("what", "ratio"),
    [
        pytest.param({"dispersion": 1.0}, 0.5, id="chance evens out in a larger pool"),
        pytest.param({"unsure": 0.1}, 1.0, id="a law is as wrong for many replicas as for few"),
    ],
)
def test_swing_by_pool_size(what: dict[str, float], ratio: float) -> None:
    def relative(replicas: float) -> float:
        inside = steady(replicas, replicas)
        one = batch(in_flight=inside, serving=replicas, demand=replicas, ahead=replicas, **what)
        shape = np.full((1, 1, 1), inside)
        return float(sizing._swing(one, shape, shape * 0 + replicas, shape * 0 + 200.0)[0, 0, 0]) / inside

    assert relative(20.0) / relative(5.0) == pytest.approx(ratio, rel=0.01)


def test_a_pool_near_its_limit_forgets_chance_slowly() -> None:
    """Chance moves a pool further the more a stay grows with what is in flight, and the longer it has for it."""
    count = np.full((1, 1, 1), 5.0)
    swings = []
    for rps, after_s in ((3.0, 600.0), (6.0, 600.0), (6.0, 60.0)):
        inside = steady(5.0, rps)
        one = batch(in_flight=inside, serving=5.0, demand=rps, ahead=rps, dispersion=1.0)
        swings.append(
            float(sizing._swing(one, count * inside / 5.0, count, count * 0 + after_s)[0, 0, 0]) / inside**0.5
        )
    assert swings[0] < 0.8 * swings[1]
    assert swings[2] < 0.8 * swings[1]


# ---- doubt that the present load settles


@pytest.mark.parametrize(
    ("replicas", "settles"),
    [
        pytest.param(5.0, True, id="what is asked for too late is asked for soon"),
        pytest.param(4.0, False, id="what is given up now is not corrected in time"),
    ],
)
def test_doubt_that_the_present_load_settles_costs_less(replicas: float, settles: bool) -> None:
    """Load rose to where the law was not seen yet, on what serves now: it is seen before a new replica is there."""
    serving, rps = 4.5, 1.35 * replicas
    one = batch(in_flight=steady(serving, rps), serving=serving, demand=rps, ahead=rps, unsure=0.1)
    missed = [float(sizing.outlook(each, np.array([[replicas]])).missed[0, 0])
              for each in (one, replace(one, shown=np.array([0.9])), replace(one, unsure=np.array([0.0])))]  # fmt: skip
    in_doubt, settled, sure = missed
    assert sure < in_doubt
    assert settled == pytest.approx(in_doubt) if not settles else sure < settled < 0.8 * in_doubt


@pytest.mark.parametrize("seen_before", [0, 1, 12])
@pytest.mark.parametrize("level", [0.1, 0.5, 1.0])
def test_sights_of_the_law_take_from_the_doubt_what_the_filter_takes(level: float, seen_before: int) -> None:
    """Told ahead in one go, or seen one by one."""
    own, running = cost(SPEC, MIX), level * LAW.level
    known = first(True)

    def sight(known: Correction, running: float) -> Correction:
        return updated(known, own, running=running, rps=LAW.rate(running), samples=80.0, now_s=0.0)

    for _ in range(seen_before):
        known = sight(known, 0.3 * LAW.level)
    before = unsure(known, LAW)
    share, noise = shown(known, LAW, running=running, samples=80.0)
    for sights in range(1, 6):
        known = sight(known, running)
        assert unsure(known, LAW) == pytest.approx(before * math.sqrt(1.0 - share * sights / (sights + noise)))


def test_a_light_load_shows_little_of_a_heavy_one() -> None:
    shares = [shown(first(True), LAW, running=level * LAW.level, samples=80.0)[0] for level in (0.02, 0.3, 1.0)]
    assert shares == sorted(shares)
    assert shares[0] < 0.5
    assert shares[2] == pytest.approx(1.0)


# ---- how long requests stay while the load changes


def changing(*, stay_s: float, rates: Sequence[float], ready: int = 1) -> list[Reading]:
    """Requests that come at a rate for a minute each and stay for ``stay_s``, read every 15 s."""

    def arrived(at_s: float) -> float:
        return sum(rate * min(max(at_s - 60.0 * index, 0.0), 60.0) for index, rate in enumerate(rates))

    return [Reading(at_s=at_s, arrived=arrived(at_s), prompt_tokens=0.0, finished=arrived(at_s - stay_s),
                    generation_tokens=0.0, in_flight=arrived(at_s) - arrived(at_s - stay_s), ready=ready)
            for at_s in np.arange(0.0, 60.0 * len(rates) + 1.0, 15.0)]  # fmt: skip


@pytest.mark.parametrize(
    "rates",
    [
        pytest.param([2.0, 2.0, 2.0, 2.0], id="steady"),
        pytest.param([2.0, 2.0, 6.0, 6.0], id="a pool that fills"),
        pytest.param([6.0, 6.0, 2.0, 2.0], id="a pool that empties"),
    ],
)
def test_stays_are_told_right_while_the_load_changes(rates: list[float]) -> None:
    told = changing(stay_s=37.0, rates=rates, ready=2)
    for last in range(8, len(told) + 1):
        seen = passage(told[:last])
        assert seen is not None
        assert seen.stay_s == pytest.approx(37.0, rel=0.03)
        assert min(rates) * 37.0 / 2 * 0.95 <= seen.level <= max(rates) * 37.0 / 2 * 1.05


def test_by_littles_law_a_pool_that_fills_seems_slower_than_it_is() -> None:
    """What :func:`passage` is for: in flight over ended a second is twice the stay here."""
    told = changing(stay_s=37.0, rates=[2.0, 2.0, 6.0, 6.0])[:11]
    ended_s = (told[-1].finished - told[-3].finished) / 30.0
    assert told[-1].in_flight / ended_s > 2 * 37.0
    seen = passage(told)
    assert seen is not None
    assert seen.stay_s == pytest.approx(37.0, rel=0.03)


def test_nothing_is_told_of_a_pool_that_changed_or_is_empty_or_new() -> None:
    told = changing(stay_s=37.0, rates=[2.0, 2.0])
    assert passage(told) is not None
    assert passage([*told[:-1], replace(told[-1], ready=2)]) is None
    assert passage([*told[:-1], replace(told[-1], in_flight=0.0)]) is None
    assert passage(told[-2:]) is None
    assert passage(told[-1:]) is None


# ---- where misses are booked


def readings(levels: Sequence[float], *, ready: int = 2, every_s: float = 5.0) -> list[Reading]:
    return [Reading(at_s=every_s * index, arrived=0.0, prompt_tokens=0.0, finished=0.0, generation_tokens=0.0,
                    in_flight=level * ready, ready=ready) for index, level in enumerate(levels)]  # fmt: skip


@pytest.mark.parametrize(
    ("levels", "lived"),
    [
        pytest.param([10.0, 12.0, 14.0, 12.0, 12.0], 12.0, id="the mean while nobody waits"),
        pytest.param([90.0, 70.0, 40.0, 20.0, 10.0], 90.0, id="the queue's height after one"),
        pytest.param([90.0, 10.0, 10.0, 10.0, 10.0, 10.0, 10.0], 10.0, id="a queue that is long over is over"),
    ],
)
def test_answers_after_a_queue_lived_at_its_height(levels: list[float], lived: float) -> None:
    assert _lived_level(readings(levels), 5.0, 60.0) == pytest.approx(lived)


def test_nothing_is_booked_while_the_number_of_replicas_changes() -> None:
    before, after = readings([20.0] * 3), readings([20.0] * 5, ready=3)
    assert _lived_level([*before, *after[3:]], 5.0, 60.0) is None


# ---- several variants


def test_a_mixed_fleet_at_rest_wants_no_replica_more() -> None:
    """Replicas of another GPU are a fraction of the reference's: where nothing is to change, none rounds up."""
    fleet = ToyFleet(replicas=6, follow=False)
    own = replace(SPEC, min_replicas=3, max_replicas=3)
    other = replace(SPEC, name="slow", accelerator="a100_sxm", cost_per_hour=5.0)
    state, asked = WvaState(), set[int]()
    for index in range(80):
        for _ in range(15):
            fleet._second(6.0)
        seen = fleet.snapshot()
        entry = seen.variants[0]
        fast, slow = entry.replicas[:3], entry.replicas[3:]
        slow = tuple(replace(one, replica=replace(one.replica, variant="slow")) for one in slow)
        mixed = replace(seen, variants=(
            VariantObservation(spec=own, requested=3, replicas=fast),
            VariantObservation(spec=other, requested=3, replicas=slow),
        ))  # fmt: skip
        made, state = decide(mixed, [own, other], state, fleet.now_s, fleet.rules)
        if index > 20:
            asked.add(made[1].desired)
    assert max(asked) <= 3
