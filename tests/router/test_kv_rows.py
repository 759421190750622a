"""What a router writes into the shared store, and an index made of what it reads there."""

import pytest

from router.kvevents.window import PATIENCE_S, Step, Version, Window, read_version
from router.kvindex.index import KVIndex
from router.kvindex.rows import Row, restore, rows
from tests.router.kv_model import Publisher, apply_all, matches

POD = "10.0.0.9:8000"

# ---- what is written


NEW, OLD = Version(100.0, 7), Version(99.0, 6)


@pytest.mark.parametrize(("taken", "stored", "now_s", "step"), [
    pytest.param([], None, 0.0, Step.NOTHING, id="nothing-is-known"),
    pytest.param([OLD, NEW], None, 0.0, Step.ALL, id="the-store-is-empty"),
    pytest.param([OLD, NEW], NEW, 0.0, Step.NOTHING, id="it-knows-all"),
    pytest.param([OLD, NEW], OLD, 100.0, Step.CHANGES, id="it-is-one-batch-behind"),
    pytest.param([NEW], OLD, 100.0, Step.NOTHING, id="another-may-know-more"),
    pytest.param([NEW], OLD, 99.0 + PATIENCE_S, Step.ALL, id="nobody-wrote-for-long"),
    pytest.param([NEW], Version(98.0, 7), 200.0, Step.ALL, id="another-life-of-the-engine"),
    pytest.param([OLD, NEW], Version(101.0, 8), 200.0, Step.NOTHING, id="another-router-is-ahead"),
    pytest.param([OLD, NEW], Version(101.0, 6), 200.0, Step.NOTHING, id="the-engine-restarted-and-another-heard-it"),
])  # fmt: skip
def test_what_a_router_writes(taken: list[Version], stored: Version | None, now_s: float, step: Step):
    window = Window()
    for version in taken:
        window.took(version.seq, version.at_s, [version.seq], everything=False)
    assert window.plan(stored, now_s) is step


def test_changes_add_up_until_they_are_written():
    window = Window()
    window.begin(Version(1.0, 0))
    window.took(1, 2.0, [5, 1 << 64], everything=False)
    assert (window.names, window.plan(Version(1.0, 0), 2.0)) == ({5, 1}, Step.CHANGES)
    after = Window()
    after.begin(Version(2.0, 1))
    after.took(2, 3.0, [9], everything=True)
    after.merge(window)  # the write failed
    assert (after.names, after.plan(Version(1.0, 0), 3.0)) == ({5, 1, 9}, Step.ALL)
    after.broken()
    assert (after.version, after.names) == (None, set())


@pytest.mark.parametrize("text", [None, b"", b"1.0", b"x 1 16", b"1.0 y 16"])
def test_a_version_that_is_none(text: bytes | None):
    assert read_version(text) is None


# ---- the index as rows


@pytest.mark.parametrize("seed", range(4))
def test_an_index_made_of_rows_answers_alike(seed: int):
    engine, one, two = Publisher(seed), KVIndex(), KVIndex()
    for _ in range(60):
        apply_all(one, POD, [engine.step()])
    told = list(rows(one, POD))
    assert restore(two, POD, told, block_tokens=one.block_tokens(POD)) == len(told) == two.pairs == one.pairs
    assert sorted(told) == sorted(rows(two, POD)) == sorted(rows(one, POD, [row.name for row in told]))
    for _ in range(60):
        lora, tokens = engine.prompt()
        assert matches(two, tokens, lora) == engine.truth(POD).match(tokens, lora)
        batch = engine.step()
        apply_all(one, POD, [batch])
        apply_all(two, POD, [batch])
    assert sorted(rows(two, POD)) == sorted(rows(one, POD))


def test_rows_that_are_none_and_rows_without_room_are_left_out():
    index = KVIndex(capacity=1)
    assert restore(index, POD, [Row(0, 1, 1), Row(1, 0, 1), Row(1, 1, 0), Row(1, 1, 8)], block_tokens=4) == 0
    assert restore(index, POD, [Row(1, 1, 1), Row(2, 2, 1)], block_tokens=4) == 1
    assert list(rows(index, POD, [7])) == [Row(7, 0, 0)]
    assert list(rows(index, "nobody")) == []
