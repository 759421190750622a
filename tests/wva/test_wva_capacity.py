"""What is learned, from what, and how it is forgotten."""

from __future__ import annotations

import pytest

from tests.wva.wva_builders import NOW, seen, spec
from wva import capacity, saturation
from wva.types import Learned, Policy

HOUR = 3600.0
POLICY = Policy(window_s=30.0, forget_half_life_s=6 * HOUR)
LLAMA = {"model": "meta-llama/Llama-3.1-8B-Instruct"}


def after(
    steps: list[tuple[float, float]], *, waiting: float = 0.0, every_s: float = 15.0, known: Learned | None = None,
    **of_spec: object,
) -> Learned:  # fmt: skip
    """What is known after passes with (running, tokens per second)."""
    learned = known or Learned()
    start = learned.at_s or NOW
    for index, (running, tps) in enumerate(steps):
        fresh = [seen(0, 0.5, waiting, running=running, tps=tps)]
        learned = capacity.learn(spec(**of_spec), learned, fresh, now_s=start + (index + 1) * every_s, policy=POLICY)
    return learned


def test_the_first_speed_is_the_best() -> None:
    assert after([(4.0, 400.0)]).best_speed_tps == 100.0


def test_a_slower_speed_is_degradation_and_not_learned() -> None:
    learned = after([(4.0, 400.0), (20.0, 1000.0), (20.0, 1000.0), (20.0, 1000.0)])
    assert learned.best_speed_tps == pytest.approx(100.0, rel=0.01)
    assert capacity.degradation(learned, [seen(0, running=20.0, tps=1000.0)]) == pytest.approx(0.5, abs=0.01)


def test_a_better_speed_is_learned_over_a_window_not_from_one_reading() -> None:
    once = after([(10.0, 400.0), (10.0, 800.0)])
    often = after([(10.0, 400.0)] + [(10.0, 800.0)] * 20)
    assert once.best_speed_tps is not None and 40.0 < once.best_speed_tps < 60.0
    assert often.best_speed_tps == pytest.approx(80.0, rel=0.02)


def test_the_best_is_forgotten_by_half_in_its_half_life() -> None:
    known = Learned(at_s=NOW, best_speed_tps=100.0, capacity_tps=2000.0)
    learned = after([(10.0, 10.0)], every_s=6 * HOUR, known=known)
    assert learned.best_speed_tps == pytest.approx(50.0)
    assert learned.capacity_tps == pytest.approx(1000.0)


def test_an_idle_replica_teaches_nothing_and_is_not_degraded() -> None:
    learned = after([(0.1, 30.0)])
    assert learned.best_speed_tps is None
    known = Learned(at_s=NOW, best_speed_tps=100.0)
    assert capacity.degradation(after([(0.0, 0.0)], known=known), [seen(0, running=0.0, tps=0.0)]) == 0.0


@pytest.mark.parametrize("blind", [{"tps": None}, {"running": None}], ids=["no rate yet", "no running count"])
def test_what_is_not_known_is_not_degradation(blind: dict[str, None]) -> None:
    fresh = [seen(0, **blind)]
    learned = capacity.learn(spec(), Learned(at_s=NOW, best_speed_tps=100.0), fresh, now_s=NOW + 15, policy=POLICY)
    assert capacity.degradation(learned, fresh) == 0.0


def test_a_rising_load_does_not_look_slow() -> None:
    """Running requests jump at once, the rate over 30 s follows: only means over the same window compare."""
    ramp = [(20.0, 200.0 + 1800.0 * (index + 1) / 16) for index in range(15)]
    for index, (_, tps) in enumerate(ramp):
        learned = after([(2.0, 200.0)] * 15 + ramp[: index + 1], every_s=2.0)
        assert capacity.degradation(learned, [seen(0, running=20.0, tps=tps)]) < 0.01


def test_capacity_is_learned_only_from_a_full_window_of_waiting() -> None:
    steps = [(20.0, 900.0)]
    assert after(steps * 2, waiting=3.0).capacity_tps is None
    assert after(steps * 3, waiting=3.0).capacity_tps == 900.0
    assert after(steps * 9, waiting=0.5).capacity_tps is None


def test_a_known_model_on_a_known_gpu_starts_from_its_coefficients() -> None:
    """Else a controller that starts in the middle of an overload would take that for normal."""
    learned = after([(20.0, 200.0)], accelerator="h100_sxm", **LLAMA)
    assert learned.best_speed_tps == pytest.approx(1000 / (0.13 + 0.032 * 32 + 6.01 + 0.01 + 4.199e-5 * 1000), rel=0.01)
    assert capacity.degradation(learned, [seen(0, running=20.0, tps=200.0)]) > 0.9


def test_capacities_compare_like_with_like() -> None:
    h100, a100 = spec("h", accelerator="h100_sxm", **LLAMA), spec("a", accelerator="a100_sxm", **LLAMA)
    unknown_model = [spec("h", accelerator="h100_sxm"), spec("a", accelerator="a100_sxm")]
    learned, nothing = Learned(capacity_tps=700.0), Learned()
    by_step = capacity.comparable([h100, a100], {"h": learned, "a": nothing})
    assert by_step["h"] > by_step["a"] > 2000, "one learned capacity alone is not compared with a figure from a table"
    assert capacity.comparable([h100, a100], {"h": learned, "a": learned}) == {"h": 700.0, "a": 700.0}
    assert capacity.comparable(unknown_model, {"h": nothing, "a": nothing}) == {"h": 3.35, "a": 2.039}
    assert capacity.comparable([h100, spec("x")], {"h": nothing, "x": nothing}) == {"h": 1.0, "x": 1.0}


@pytest.mark.parametrize(
    ("terms", "saturated"),
    [
        pytest.param((1.0, 0.0, 0.0), 0.5, id="a full KV cache weighs half"),
        pytest.param((0.0, 1.0, 0.0), 0.3, id="a full queue weighs 0.3"),
        pytest.param((0.0, 0.0, 1.0), 0.2, id="full degradation weighs 0.2"),
        pytest.param((2.0, 9.0, 5.0), 1.0, id="each term is clipped above"),
        pytest.param((-1.0, -1.0, float("nan")), 0.0, id="and below, and NaN counts as nothing"),
        pytest.param((0.9, 0.5, 0.25), 0.65, id="the sum is weighted"),
    ],
)
def test_the_formula(terms: tuple[float, float, float], saturated: float) -> None:
    assert saturation.saturation(*terms) == pytest.approx(saturated)


def test_a_group_is_the_mean_over_its_replicas() -> None:
    one = saturation.analyse([seen(0, 0.9, 6.0)], router_waiting=1.0, degradation=0.6, queue_full=10.0)
    two = saturation.analyse([seen(0, 0.3, 0.0)] * 2, router_waiting=1.0, degradation=0.0, queue_full=10.0)
    assert one is not None and two is not None
    both = saturation.combine([one, two], queue_full=10.0)
    assert both is not None
    assert both.kv_utilisation == pytest.approx(0.5)
    assert both.waiting == pytest.approx(3.0)
    assert both.queue_ratio == pytest.approx(0.3)
    assert both.throughput_degradation == pytest.approx(0.2)
    assert both.saturation == pytest.approx(0.25 + 0.09 + 0.04)
