"""How fast an engine works, by its own counters: slow ones are found, equal ones are not told apart."""

from __future__ import annotations

import itertools
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.types import EngineSample
from router.pace import CONTEXT_TOKENS, REQUEST_TOKENS, STEP_TOKENS, Pace

CONTEXT = 1000.0


class Engine:
    """Works at a speed in prompt tokens a second, with a batch and prompts of its own."""

    def __init__(self, speed=15_000.0, batch=20.0, prompt_share=0.3):
        self.speed, self.batch, self.share = speed, batch, prompt_share
        self.generated = self.prompts = self.hits = 0.0

    def work(self, seconds):
        done = self.speed * seconds
        computed = self.share * done
        step = STEP_TOKENS + self.batch * (REQUEST_TOKENS + CONTEXT_TOKENS * CONTEXT)
        self.generated += (done - computed) / step * self.batch
        self.prompts += 5 * computed
        self.hits += 4 * computed
        return self

    def sample(self, **changes):
        return EngineSample(**{
            "at_s": 0.0, "running": self.batch, "generation_tokens_total": self.generated,
            "prompt_tokens_total": self.prompts, "prefix_hits_total": self.hits, **changes,
        })  # fmt: skip


def watched(*engines, seconds=12, every=1.0, **changes):
    pace = Pace()
    for tick in range(int(seconds / every) + 1):
        for name, engine in zip("abcdefgh", engines, strict=False):
            pace.seen(name, engine.work(every).sample(**changes), tick * every, CONTEXT)
    return pace


def slowness(pace, names="abcdefgh"):
    return [pace.slowness(name) for name in names]


def test_a_slow_engine_is_found_whatever_its_load():
    fast = [Engine(batch=30), Engine(batch=60, prompt_share=0.0), Engine(batch=10, prompt_share=0.8)]
    pace = watched(*fast, Engine(speed=15_000 / 1.8, batch=15))
    assert slowness(pace, "abc") == [1.0, 1.0, 1.0]
    assert pace.slowness("d") == pytest.approx(1.8, rel=0.02)


def test_two_of_four_slow_engines_differ_by_their_ratio():
    pace = watched(Engine(), Engine(), Engine(speed=15_000 / 1.8), Engine(speed=15_000 / 1.8))
    one, _, other, _ = slowness(pace, "abcd")
    assert other / one == pytest.approx(1.8, rel=0.02)


def test_engines_within_a_tenth_are_equal():
    assert slowness(watched(Engine(), Engine(speed=14_000), Engine(speed=16_000)), "abc") == [1.0, 1.0, 1.0]


def test_an_engine_that_is_throttled_is_found_within_seconds():
    engines = [Engine() for _ in range(4)]
    pace = watched(*engines, seconds=60)
    engines[0].speed /= 2.0
    for tick, (name, engine) in itertools.product(range(61, 76), zip("abcd", engines, strict=True)):
        pace.seen(name, engine.work(1.0).sample(), float(tick), CONTEXT)
    assert pace.slowness("a") > 1.7


@pytest.mark.parametrize("seed", range(20))
def test_long_prompts_that_are_counted_when_done_make_no_engine_slow(seed):
    """Prompts of 4 s to 8 s of work count at their end: seconds of nothing, then a leap, at equal engines."""
    random = Random(seed)
    engines = [Engine(prompt_share=0.0) for _ in range(8)]
    speed, left, sizes = 15_000.0, [0.0] * 8, [0.0] * 8
    pace = Pace()
    for tick in range(60):
        for index, (name, engine) in enumerate(zip("abcdefgh", engines, strict=True)):
            if left[index] <= 0.0:
                engine.prompts += sizes[index]
                left[index] = sizes[index] = speed * random.uniform(4.0, 8.0) * 0.7
            left[index] -= 0.7 * speed
            engine.speed = 0.3 * speed
            pace.seen(name, engine.work(1.0).sample(), float(tick), CONTEXT)
    assert all(0.85 <= slow <= 1.2 for slow in slowness(pace))


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"running": 2.0}, id="it may have idled"),
        pytest.param({"running": None}, id="its batch is not known"),
        pytest.param({"generation_tokens_total": None}, id="it counts no tokens"),
    ],
)
def test_what_cannot_be_told_is_not_known(changes):
    assert slowness(watched(Engine(), Engine(speed=5_000), **changes), "ab") == [None, None]


def test_one_engine_alone_is_neither_fast_nor_slow():
    assert watched(Engine()).slowness("a") is None


def test_a_restart_is_no_work():
    engines = [Engine(), Engine()]
    pace = watched(*engines)
    engines[0].generated = engines[0].prompts = engines[0].hits = 0.0
    pace.seen("a", engines[0].work(1.0).sample(), 13.0, CONTEXT)
    assert slowness(pace, "ab") == [1.0, 1.0]


def test_scrapes_close_to_each_other_are_taken_together():
    pace = watched(Engine(), Engine(speed=5_000), every=0.05, seconds=8)
    assert pace.slowness("b") / pace.slowness("a") == pytest.approx(3.0, rel=0.05)


def test_an_engine_that_is_gone_is_forgotten():
    pace = watched(Engine(), Engine(speed=5_000))
    pace.forget("b")
    assert pace.slowness("b") is None


numbers = st.none() | st.floats(0, 1e12)


@given(st.lists(st.tuples(st.sampled_from("ab"), numbers, numbers, numbers, numbers, st.floats(0, 60)), max_size=40))
def test_whatever_engines_say_slowness_stays_in_bounds(samples):
    pace, now_s = Pace(), 0.0
    for name, running, generated, prompts, hits, gap_s in samples:
        now_s += gap_s
        sample = EngineSample(at_s=0.0, running=running, generation_tokens_total=generated,
                              prompt_tokens_total=prompts, prefix_hits_total=hits)  # fmt: skip
        pace.seen(name, sample, now_s, CONTEXT)
        for found in slowness(pace, "ab"):
            assert found is None or 0.25 <= found <= 4.0
