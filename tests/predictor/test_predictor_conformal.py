"""Statistical promises are checked where the truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from predictor.conformal import MIN_OWN, MOST, SETTLE, Errors, calibrate, rank_quantile, rough
from predictor.intervals import GROUPS, LEVELS

IDLE, QUEUED = GROUPS.index("idle"), GROUPS.index("queued")


def errors(ratios, members=None, keys=None) -> Errors[str]:
    count = len(ratios)
    return Errors(ratios=np.asarray(ratios, dtype=float), keys=["a"] * count if keys is None else list(keys),
                  members=np.full(count, IDLE) if members is None else np.asarray(members))  # fmt: skip


def inside(found, later: Errors[str]) -> np.ndarray:
    low, high = (found.ratios(later, level) for level in (0.05, 0.95))
    return (later.ratios >= low) & (later.ratios <= high)


@pytest.mark.parametrize(
    ("n", "level", "expected"),
    [
        pytest.param(99, 0.9, 90, id="rank-is-n-plus-1-times-level"),
        pytest.param(99, 0.05, 5, id="lower-tail-takes-the-lower-rank"),
        pytest.param(9, 0.9, 9, id="nine-rows-just-reach-90-percent"),
        pytest.param(8, 0.9, 8 + math.log(1.5), id="too-few-rows-stretch-the-widest"),
        pytest.param(8, 0.1, 1 - math.log(1.5), id="too-few-rows-stretch-the-lowest"),
    ],
)
def test_rank(n: int, level: float, expected: float) -> None:
    assert rank_quantile(np.arange(1.0, n + 1).tolist(), level) == pytest.approx(expected)


def test_coverage_is_what_is_asked_for_in_both_groups() -> None:
    rng = np.random.default_rng(5)
    hits = {False: [], True: []}
    for _ in range(60):
        queue = rng.random(800) < 0.3
        rows = errors(np.where(queue, rng.lognormal(0.2, 0.5, 800), rng.lognormal(0, 0.1, 800)),
                      np.where(queue, QUEUED, IDLE))  # fmt: skip
        hit = inside(calibrate(rows.between(0, 400)), rows.between(400, 800))
        for group, seen in hits.items():
            seen.append(hit[queue[400:] == group].mean())
    assert 0.88 <= np.mean(hits[False]) <= 0.93
    assert 0.88 <= np.mean(hits[True]) <= 0.94


def test_a_small_group_borrows_from_all() -> None:
    ratio = np.r_[np.full(40, 1.0), np.full(5, 9.0)]
    found = calibrate(errors(ratio, np.where(ratio > 5, QUEUED, IDLE)))
    assert found.quantiles[QUEUED].tolist() == calibrate(errors(ratio)).quantiles[IDLE].tolist()


def test_levels_rise() -> None:
    table = calibrate(errors(np.random.default_rng(1).lognormal(0, 1, 7))).quantiles
    assert table.shape == (len(GROUPS), len(LEVELS))
    assert (np.diff(table, axis=1) >= 0).all()


def test_the_level_adapts_where_errors_keep_growing() -> None:
    """Every error is larger than those before: a fixed rank would always be too low."""
    rng = np.random.default_rng(3)
    ratios = rng.lognormal(0, 0.2, 3000) * np.exp(np.linspace(0, 2, 3000))
    upper = {i: calibrate(errors(ratios[:i], keys=map(str, range(i)))).quantiles[IDLE, LEVELS.index(0.9)]
             for i in range(600, 2900, 50)}  # fmt: skip
    hits = [ratios[i + j] <= mark for i, mark in upper.items() for j in range(10)]
    fixed = [math.log(ratios[i + j]) <= rank_quantile(sorted(np.log(ratios[i - 400 : i])), 0.9) for i in upper
             for j in range(10)]  # fmt: skip
    assert np.mean(fixed) < 0.86
    assert 0.87 <= np.mean(hits) <= 0.95


SPREADS = {"sharp": 0.1, "usual": 0.2, "other": 0.2, "rough": 0.35}


def fleet(rng, count: int) -> Errors[str]:
    """Endpoints whose errors are not equally wide, in one group."""
    keys = rng.choice(list(SPREADS), count)
    return errors(np.exp([rng.normal(0, SPREADS[key]) for key in keys]), keys=keys)


def test_every_endpoint_is_covered_though_their_errors_differ_in_width() -> None:
    rng = np.random.default_rng(8)
    with_own, pooled = {key: [] for key in SPREADS}, {key: [] for key in SPREADS}
    for _ in range(3):
        rows = fleet(rng, 2000)
        for start in range(1000, 2000, 20):
            known, later = rows.between(start - 1000, start), rows.between(start, start + 20)
            of_all = calibrate(errors(known.ratios, known.members, map(str, range(1000))))
            for found, hits in ((calibrate(known), with_own), (of_all, pooled)):
                for key, hit in zip(later.keys, inside(found, later), strict=True):
                    hits[key].append(hit)
    assert np.mean(pooled["sharp"]) > 0.97
    assert np.mean(pooled["rough"]) < 0.8
    for key, seen in with_own.items():
        assert 0.86 <= np.mean(seen) <= 0.94, key


def test_an_endpoint_with_few_rows_is_as_wide_as_its_group() -> None:
    rng = np.random.default_rng(2)
    many = fleet(rng, 400)
    for count, own in ((MIN_OWN - 1, False), (MIN_OWN, True)):
        rows = errors(np.r_[many.ratios, rng.lognormal(0, 0.2, count)], keys=[*many.keys, *["new"] * count])
        assert ("new" in calibrate(rows).widths) is own


def test_endpoints_that_are_alike_stay_about_as_wide_as_their_group() -> None:
    rng = np.random.default_rng(4)
    rows = errors(rng.lognormal(0, 0.2, 1000), keys=rng.choice(list("abcd"), 1000))
    off = [abs(math.log(one)) for width in calibrate(rows).widths.values() for one in width]
    assert np.mean(off) < 0.25


def test_an_endpoint_that_lies_is_wide_within_bounds_and_no_other_is_wider_for_it() -> None:
    rng = np.random.default_rng(6)
    keys = rng.choice(list("abcdef"), 1000)
    honest = np.exp(rng.normal(0, 0.2, 1000))
    lying = np.where(keys == "f", rng.choice([1e-3, 1e3], 1000), honest)
    later = errors(np.exp(rng.normal(0, 0.2, 2000)), keys=["a"] * 2000)
    high = [calibrate(errors(ratios, keys=keys)) for ratios in (honest, lying)]
    assert high[0].widths["f"] < high[1].widths["f"] <= (math.exp(MOST) + 1e-9,) * 2
    usual, beside_a_liar = (float(np.log(found.ratios(later.between(0, 1), 0.95))[0]) for found in high)
    assert beside_a_liar == pytest.approx(usual, rel=0.25)
    assert 0.85 <= inside(high[1], later).mean() <= 0.95


def test_of_two_endpoints_nobody_can_say_which_one_lies() -> None:
    logs = np.r_[np.random.default_rng(3).normal(0, 0.1, 100), np.random.default_rng(4).normal(0, 1.0, 100)]
    assert rough(logs, ["a"] * 100 + ["b"] * 100) == frozenset()
    third = np.random.default_rng(5).normal(0, 0.1, 100)
    assert rough(np.r_[logs, third], ["a"] * 100 + ["b"] * 100 + ["c"] * 100) == {"b"}


def test_an_endpoint_that_changed_starts_anew_after_it_was_noticed() -> None:
    rng = np.random.default_rng(9)
    before, after = rng.normal(0, 0.5, 300), rng.normal(0, 0.1, 60)
    own = np.r_[before, rng.normal(0.6, 0.1, SETTLE), after]
    others = rng.normal(0, 0.2, 4 * len(own))
    ratios, keys = np.exp(np.r_[others, own]), ["other"] * len(others) + ["changed"] * len(own)
    order = np.argsort(np.r_[np.linspace(0, 1, len(others)), np.linspace(0, 1, len(own))], kind="stable")
    rows = errors(ratios[order], keys=[keys[row] for row in order])
    since = SETTLE + len(after)
    assert max(calibrate(rows).widths["changed"]) > 1.1
    assert max(calibrate(rows, changed={"changed": since}).widths["changed"]) < 1.0
    assert "changed" not in calibrate(rows, changed={"changed": SETTLE}).widths
    assert "changed" not in calibrate(rows, changed={"changed": SETTLE + MIN_OWN - 1}).widths
    assert calibrate(rows, changed={"changed": 10_000}).widths == calibrate(rows).widths
