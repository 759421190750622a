"""What workers tell each other through shared memory."""

from __future__ import annotations

import multiprocessing
from contextlib import contextmanager

from hypothesis import given
from hypothesis import strategies as st

from router.ledger import Ledger
from router.shared import ENGINES, RING, Board, size_bytes

URLS = [f"http://10.0.0.{number}:8000" for number in range(4)]


@contextmanager
def boards(folder, workers=2):
    path = folder / "board"
    with path.open("wb") as file:
        file.truncate(size_bytes(workers))
    made = [Board(path, worker=index, workers=workers) for index in range(workers)]
    try:
        yield made
    finally:
        for board in made:
            board.close()


def test_a_worker_sees_what_the_others_have_in_flight_and_not_its_own(tmp_path):
    with boards(tmp_path, 3) as (one, two, three):
        ledger = Ledger()
        ledger.dispatch(URLS[0], "r", 10, 40)
        one.put(URLS[0], ledger.total(URLS[0]))
        two.put(URLS[0], ledger.total(URLS[0]))
        assert one.peers(URLS[0]) == (1, 10, 40)
        assert three.peers(URLS[0]) == (2, 20, 80)
        assert three.peers(URLS[1]) == (0, 0, 0)
        ledger.finish("r")
        one.put(URLS[0], ledger.total(URLS[0]))
        assert two.peers(URLS[0]) == (0, 0, 0)


def test_a_worker_that_comes_back_has_nothing_in_flight(tmp_path):
    with boards(tmp_path) as (one, two):
        ledger = Ledger()
        ledger.dispatch(URLS[0], "r", 10, 40)
        one.put(URLS[0], ledger.total(URLS[0]))
        again = Board(tmp_path / "board", worker=0, workers=2)
        assert two.peers(URLS[0]) == (0, 0, 0)
        again.close()


def test_prompts_placed_by_one_are_news_to_the_other_once(tmp_path):
    with boards(tmp_path) as (one, two):
        two.peers(URLS[0])
        one.placed(URLS[0], [1, 2**64 - 1])
        one.placed(URLS[1], [3])
        assert list(two.news()) == [(URLS[0], [1, 2**64 - 1])], "an engine it does not know yet says nothing"
        assert list(two.news()) == []
        assert list(one.news()) == []


@given(st.lists(st.integers(1, 60), max_size=60))
def test_what_is_read_was_written(counts):
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder, boards(Path(folder)) as (one, two):
        two.peers(URLS[0])
        for start, count in enumerate(counts):
            one.placed(URLS[0], list(range(start, start + count)))
        assert [hashes for _, hashes in two.news()] == [list(range(i, i + n)) for i, n in enumerate(counts)]


def test_prompts_are_whole_where_the_ring_begins_anew(tmp_path):
    with boards(tmp_path) as (one, two):
        two.peers(URLS[0])
        for turn in range(3 * RING // 700):
            one.placed(URLS[0], list(range(turn, turn + 700)))
            assert list(two.news()) == [(URLS[0], list(range(turn, turn + 700)))]


def test_a_ring_left_unread_is_skipped_never_misread(tmp_path):
    with boards(tmp_path) as (one, two):
        two.peers(URLS[0])
        for _ in range(RING // 1000):
            one.placed(URLS[0], [7] * 1000)
        assert all(set(hashes) == {7} for _, hashes in two.news())
        one.placed(URLS[0], [9])
        assert list(two.news()) == [(URLS[0], [9])]


def _claims(path, worker, out):
    board = Board(path, worker=worker, workers=2)
    out.put([board._number(f"http://engine-{number}") for number in range(50)])
    board.close()


def test_workers_that_start_at_once_number_engines_alike(tmp_path):
    with boards(tmp_path):
        context = multiprocessing.get_context("spawn")
        out = context.Queue()
        started = [context.Process(target=_claims, args=(tmp_path / "board", worker, out)) for worker in range(2)]
        for process in started:
            process.start()
        numbers = [out.get(timeout=120) for _ in started]
        for process in started:
            process.join(120)
        assert numbers[0] == numbers[1]
        assert len(set(numbers[0])) == 50


def test_engines_beyond_the_table_are_not_shared(tmp_path):
    with boards(tmp_path) as (one, two):
        for cell in range(16, 16 + ENGINES):
            one.cells[cell] = 5
        ledger = Ledger()
        ledger.dispatch(URLS[0], "r", 10, 40)
        one.put(URLS[0], ledger.total(URLS[0]))
        one.placed(URLS[0], [1])
        assert two.peers(URLS[0]) == (0, 0, 0)
