"""Which batch counts when: lost, doubled, reordered and replayed ones."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.kvevents.feed import Feed, Step, Verdict
from router.kvevents.wire import decode
from router.kvindex.index import KVIndex
from tests.router.kv_model import Publisher, apply_all, matches

POD = "10.0.0.1:8000"


class Line:
    """A publisher, a bad line, and a listener at its end."""

    def __init__(self, seed: int, *, replay: bool, keeps: int = 10_000) -> None:
        self.rng, self.engine = random.Random(seed), Publisher(seed)
        self.feed, self.index = Feed(), KVIndex()
        self.replay, self.keeps = replay, keeps
        self.steps: list[Step] = []

    def deliver(self, seq: int) -> None:
        self.follow(self.feed.take(seq, decode(self.engine.batches[seq])))

    def follow(self, verdict: Verdict) -> None:
        self.steps.append(verdict.step)
        if verdict.clear:
            self.index.clear(POD)
        apply_all(self.index, POD, verdict.apply)
        if verdict.ask_from is not None:
            self.play_back(verdict.ask_from)

    def play_back(self, first: int) -> None:
        if self.replay:
            for seq in range(max(first, len(self.engine.batches) - self.keeps), len(self.engine.batches)):
                self.follow(self.feed.take(seq, decode(self.engine.batches[seq]), replayed=True))
        self.follow(self.feed.played_back())

    def run(self, steps: int, *, lose: float, double: float, swap: float) -> None:
        late: list[int] = []
        for _ in range(steps):
            self.engine.step()
            seq = len(self.engine.batches) - 1
            if self.rng.random() < lose:
                continue
            if self.rng.random() < swap:
                late.append(seq)
                continue
            self.deliver(seq)
            if self.rng.random() < double:
                self.deliver(self.rng.randrange(max(0, seq - 3), seq + 1))
            while late and self.rng.random() < 0.7:
                self.deliver(late.pop())
        self.engine.step()
        self.deliver(len(self.engine.batches) - 1)


@given(st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_with_a_replay_nothing_is_lost(seed: int):
    line = Line(seed, replay=True)
    line.run(60, lose=0.2, double=0.2, swap=0.2)
    assert line.index.sizes() == {POD: len(line.engine.held)}
    for _ in range(20):
        lora, tokens = line.engine.prompt()
        assert matches(line.index, tokens, lora) == line.engine.truth(POD).match(tokens, lora)


@given(st.integers(0, 2**32), st.sampled_from([0, 3]))
@settings(max_examples=40, deadline=None)
def test_without_one_the_index_never_says_more_than_is_there(seed: int, keeps: int):
    line = Line(seed, replay=bool(keeps), keeps=keeps)
    line.run(60, lose=0.2, double=0.2, swap=0.2)
    for _ in range(20):
        lora, tokens = line.engine.prompt()
        said = matches(line.index, tokens, lora).get(POD, (0, 0.0))[0]
        assert said <= line.engine.truth(POD).match(tokens, lora).get(POD, (0, 0.0))[0]


@given(st.integers(0, 2**32))
@settings(max_examples=20, deadline=None)
def test_an_engine_that_restarts_is_followed(seed: int):
    line = Line(seed, replay=True)
    line.run(20, lose=0.1, double=0.1, swap=0.0)
    line.engine.restart()
    line.run(15, lose=0.3, double=0.1, swap=0.0)
    if Step.RESTARTED in line.steps:
        assert line.index.sizes() == {POD: len(line.engine.held)}


def batch(at_s: float):
    publisher = Publisher(1)
    publisher.now_s = at_s
    return decode(publisher.step())


@pytest.mark.parametrize(("seqs", "steps"), [
    pytest.param([0, 1, 2], ["applied"] * 3, id="in-order"),
    pytest.param([0, 0, 1], ["applied", "old", "applied"], id="twice"),
    pytest.param([0, 2, 3, 1], ["applied", "gap", "held", "applied"], id="late"),
    pytest.param([5], ["gap"], id="from-the-middle"),
])  # fmt: skip
def test_steps(seqs: list[int], steps: list[str]):
    feed = Feed()
    assert [feed.take(seq, batch(100.0 + seq)).step.value for seq in seqs] == steps


def test_a_gap_asks_once_and_closes_when_the_missing_come():
    feed = Feed()
    asked = [feed.take(seq, batch(10.0 + seq)).ask_from for seq in (0, 3, 4)]
    assert asked == [None, 1, None]
    assert feed.waiting
    applied = [len(feed.take(seq, batch(10.0 + seq), replayed=True).apply) for seq in (1, 2, 3, 4)]
    assert (applied, feed.waiting, feed.gaps, feed.lost) == ([1, 3, 0, 0], False, 1, 0)


def test_a_smaller_number_with_a_newer_time_is_a_restart():
    feed = Feed()
    for seq in range(3):
        feed.take(seq, batch(10.0 + seq))
    assert feed.take(0, batch(99.0)) == Verdict(Step.RESTARTED, clear=True, apply=[feed_batch(99.0)], ask_from=None)
    assert feed.next_seq == 1


def feed_batch(at_s: float):
    return batch(at_s)


def test_what_was_given_up_is_counted_and_empties_the_pod():
    feed = Feed()
    for seq in (0, 3, 4, 7):
        feed.take(seq, batch(10.0 + seq))
    verdict = feed.give_up()
    assert (verdict.clear, len(verdict.apply), feed.lost, feed.next_seq) == (True, 1, 4, 8)


def test_too_many_that_wait_give_the_missing_up():
    feed = Feed(held_limit=3)
    verdicts = [feed.take(seq, batch(10.0 + seq)) for seq in (5, 6, 7, 8)]
    assert [verdict.step for verdict in verdicts][-1] is Step.OVERFLOW
    assert len(verdicts[-1].apply) == 4


def test_a_batch_that_cannot_be_read_empties_the_pod():
    feed = Feed()
    feed.take(0, batch(1.0))
    assert feed.bad(1) == Verdict(Step.BAD, clear=True)
    assert feed.bad(0) == Verdict(Step.OLD)
    assert (feed.next_seq, feed.lost) == (2, 1)
