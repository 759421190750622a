"""Prompt text has the stated length and shares exactly the stated prefix."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from simulator.prompt_text import parts, text
from simulator.tokens import chain, count, encode
from simulator.workload import TimedRequest


def request(size: int, **fields: object) -> TimedRequest:
    return TimedRequest(arrival_s=0.0, input_tokens=size, output_tokens=1, **fields)  # type: ignore[arg-type]


def blocks(item: TimedRequest, label: str) -> list[int]:
    return chain(encode("".join(parts(item, label))))


def shared(one: list[int], two: list[int]) -> int:
    """Leading blocks that both have."""
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one, two, strict=False)))


@given(st.integers(1, 40_000), st.data())
def test_text_is_exactly_four_bytes_a_token(size: int, data: st.DataObject) -> None:
    prefix = data.draw(st.integers(0, size - 1))
    item = request(size, prefix_id=1, prefix_tokens=prefix)
    whole = "".join(parts(item, "9 run"))
    assert len(whole.encode()) == size * 4
    assert count(encode(whole)) == size


@given(st.text(st.characters(codec="ascii"), max_size=12), st.integers(0, 3000), st.integers(0, 3000))
def test_a_shorter_text_begins_a_longer_one(label: str, one: int, two: int) -> None:
    assert text(label, max(one, two)).startswith(text(label, min(one, two)))


def test_equal_prefix_ids_share_exactly_the_prefix_blocks() -> None:
    one, two = (blocks(request(1000, prefix_id=3, prefix_tokens=304), label) for label in ("1 run", "2 run"))
    assert shared(one, two) == 304 // 16
    assert not set(one[19:]) & set(two[19:])


def test_different_prefix_ids_share_nothing() -> None:
    one, two = (blocks(request(1000, prefix_id=prompt, prefix_tokens=304), "1 run") for prompt in (3, 4))
    assert not set(one) & set(two)


def test_a_second_run_meets_no_warm_cache_without_a_prefix() -> None:
    assert not set(blocks(request(500), "1 monday")) & set(blocks(request(500), "1 tuesday"))


def test_hash_ids_share_their_leading_blocks() -> None:
    one = blocks(request(1500, hash_ids=(5, 6, 7)), "1 run")
    two = blocks(request(1200, hash_ids=(5, 6, 9)), "2 run")
    assert shared(one, two) == 1024 // 16


def test_a_prompt_longer_than_its_hash_ids_is_filled_with_text_of_its_own() -> None:
    one, two = (blocks(request(1024, hash_ids=(5,)), label) for label in ("1 run", "2 run"))
    assert len(one) == len(two) == 64
    assert shared(one, two) == 32
