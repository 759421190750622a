"""Block hashes and the approximate prefix index."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.prefix import PrefixIndex, block_hashes, model_seed

SEED = model_seed("llama")
prompts = st.lists(st.sampled_from([b"aaaa", b"bbbb", b"cccc"]), max_size=12).map(b"".join)


def hashes(data: bytes) -> list[int]:
    return block_hashes(data, block_bytes=4, seed=SEED)


@pytest.mark.parametrize(
    ("size", "blocks"),
    [
        pytest.param(0, 0, id="an empty prompt has no block"),
        pytest.param(255, 0, id="one byte short of a block is no block"),
        pytest.param(256, 1, id="exactly one block"),
        pytest.param(300, 1, id="the tail is not hashed"),
        pytest.param(400_000, 1562, id="a prompt of 100k tokens"),
        pytest.param(600_000, 2048, id="hashing stops at the limit"),
    ],
)
def test_one_hash_a_full_block(size, blocks):
    assert len(block_hashes(b"x" * size, seed=SEED)) == blocks


def test_equal_blocks_at_different_places_differ():
    assert len(set(hashes(b"aaaa" * 5))) == 5


def test_models_do_not_share_blocks():
    one = block_hashes(b"a" * 512, seed=model_seed("llama"))
    two = block_hashes(b"a" * 512, seed=model_seed("qwen"))
    assert not set(one) & set(two)


@pytest.mark.parametrize("size", [0, -1])
def test_a_block_needs_a_byte(size):
    with pytest.raises(ValueError, match="block_bytes"):
        block_hashes(b"abc", block_bytes=size, seed=1)


@given(prompts, prompts)
def test_hashes_agree_exactly_as_far_as_the_prompts_do(one, two):
    blocks = zip(*[[data[at : at + 4] for at in range(0, len(data), 4)] for data in (one, two)], strict=False)
    shared = 0
    for left, right in blocks:
        if left != right:
            break
        shared += 1
    pairs = list(zip(hashes(one), hashes(two), strict=False))
    assert [left == right for left, right in pairs] == [index < shared for index in range(len(pairs))]


def test_a_stranger_matches_nothing_and_an_empty_prompt_matches_nowhere():
    index = PrefixIndex()
    index.record("http://a", [1, 2])
    assert index.match([1, 2], ["http://b"]) == {"http://b": 0}
    assert index.match([], ["http://a", "http://b"]) == {"http://a": 0, "http://b": 0}


def test_the_longest_beginning_counts_for_each_endpoint():
    index = PrefixIndex()
    index.record("http://a", [1, 2, 3, 4, 5])
    index.record("http://b", [1, 2, 10])
    assert index.match([1, 2, 3, 4, 8, 9], ["http://a", "http://b", "http://c"]) == {
        "http://a": 4,
        "http://b": 2,
        "http://c": 0,
    }


def test_the_prompt_used_longest_ago_goes_first_and_from_its_end():
    index = PrefixIndex(6)
    index.record("u", [1, 2, 3])
    index.record("u", [11, 12, 13])
    index.record("u", [1, 2, 3])
    index.record("u", [21, 22])
    assert index.match([11, 12, 13], ["u"]) == {"u": 1}
    assert index.match([1, 2, 3], ["u"]) == {"u": 3}
    assert len(index) == 6


def test_a_prompt_longer_than_the_memory_keeps_its_beginning():
    index = PrefixIndex(3)
    index.record("u", [1, 2, 3, 4, 5])
    assert index.match([1, 2, 3, 4, 5], ["u"]) == {"u": 3}


def test_resizing_evicts_and_holds_for_later_records():
    index = PrefixIndex(10)
    index.record("u", [1, 2, 3, 4])
    index.resize("u", 2)
    assert index.match([1, 2, 3, 4], ["u"]) == {"u": 2}
    index.record("u", [5, 6, 7])
    assert index.sizes() == {"u": 2}


def test_a_forgotten_endpoint_matches_nothing_and_has_its_default_size_again():
    index = PrefixIndex(4)
    index.resize("u", 1)
    index.record("u", [1])
    index.forget("u")
    assert (len(index), index.match([1], ["u"])) == (0, {"u": 0})
    index.record("u", [1, 2, 3, 4])
    assert len(index) == 4
    index.forget("never seen")


@pytest.mark.parametrize("capacity", [0, -5])
def test_an_index_needs_room(capacity):
    with pytest.raises(ValueError, match="max_blocks_per_endpoint"):
        PrefixIndex(capacity)


@given(st.lists(st.tuples(st.sampled_from("ab"), prompts, st.integers(0, 9)), max_size=25), prompts, st.integers(1, 8))
def test_memory_is_bounded_and_the_match_is_exact(history, probe, capacity):
    """What bisection finds is what looking at every block finds, whatever was recorded, evicted and resized."""
    index = PrefixIndex(capacity)
    limits = dict.fromkeys("ab", capacity)
    for url, prompt, size in history:
        index.record(url, hashes(prompt))
        if size:
            index.resize(url, size)
            limits[url] = size
        assert all(count <= limits[name] for name, count in index.sizes().items())
    wanted = hashes(probe)
    found = index.match(wanted, "ab")
    for url in "ab":
        known = index._blocks.get(url, {})
        plain = next((at for at, block in enumerate(wanted) if block not in known), len(wanted))
        assert found[url] == plain
