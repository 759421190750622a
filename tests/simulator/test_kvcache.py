"""The KV cache: shared blocks count once, pinned ones stay, the oldest free ones go first."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from simulator.kvcache import KVCache


def held(cache: KVCache, hashes: list[int]) -> None:
    """Compute and keep the blocks ``hashes``, as one sequence does."""
    cache.allocate(len(hashes))
    for value in hashes:
        assert cache.commit(value)


def test_shared_blocks_count_once() -> None:
    cache = KVCache(10)
    held(cache, [1, 2, 3])
    cache.pin([1, 2])
    assert (cache.free, cache.pinned, cache.usage) == (7, 3, 0.3)


def test_a_shared_block_stays_until_its_last_user_leaves() -> None:
    cache = KVCache(10)
    held(cache, [1, 2])
    cache.pin([1])
    cache.release([1, 2], 0)
    assert (cache.pinned, cache.cached) == (1, 1)
    cache.release([1], 0)
    assert (cache.pinned, cache.cached, cache.usage) == (0, 2, 0.0)


def test_match_stops_at_the_first_gap() -> None:
    cache = KVCache(10)
    held(cache, [1, 2, 4])
    assert cache.match([1, 2, 3, 4], 10) == 2
    assert cache.match([1, 2, 4], 1) == 1
    assert cache.match([9, 1], 10) == 0


def test_eviction_takes_the_oldest_and_of_one_sequence_the_deepest_block_first() -> None:
    cache = KVCache(4)
    held(cache, [1, 2])
    cache.release([1, 2], 0)
    held(cache, [3, 4])
    cache.release([3, 4], 0)
    cache.allocate(1)
    assert (cache.match([1], 1), cache.match([2], 1), cache.evictions) == (1, 0, 1)
    cache.allocate(2)
    assert (cache.match([1], 1), cache.match([3, 4], 2)) == (0, 1)


def test_using_a_cached_block_makes_it_young_again() -> None:
    cache = KVCache(2)
    held(cache, [1])
    cache.release([1], 0)
    held(cache, [2])
    cache.release([2], 0)
    cache.pin([1])
    cache.release([1], 0)
    cache.allocate(1)
    assert (cache.match([1], 1), cache.match([2], 1)) == (1, 0)


def test_pinned_blocks_are_never_evicted() -> None:
    cache = KVCache(3)
    held(cache, [1, 2])
    cache.allocate(1)
    with pytest.raises(ValueError, match="0 free"):
        cache.allocate(1)
    assert cache.match([1, 2], 2) == 2


def test_content_that_is_here_already_stays_a_private_copy() -> None:
    cache = KVCache(4)
    held(cache, [1])
    cache.allocate(1)
    assert not cache.commit(1)
    assert (cache.pinned, cache.private) == (1, 1)


def test_a_cache_without_blocks_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        KVCache(0)


@given(st.lists(st.integers(0, 5), max_size=30), st.integers(1, 40))
def test_unpinned_counts_what_pinning_takes_from_free(values: list[int], capacity: int) -> None:
    cache = KVCache(capacity)
    unique = list(dict.fromkeys(values))[:capacity]
    held(cache, unique)
    cache.release(unique, 0)
    before, taken = cache.free, cache.unpinned(unique)
    cache.pin(unique)
    assert cache.free == before - taken


class CacheMachine(RuleBasedStateMachine):
    """Any order of operations keeps the books."""

    def __init__(self) -> None:
        super().__init__()
        self.cache = KVCache(8)
        self.sequences: list[tuple[list[int], int]] = []

    @rule(hashes=st.lists(st.integers(1, 6), unique=True, max_size=5), extra=st.integers(0, 3))
    def admit(self, hashes: list[int], extra: int) -> None:
        hits = self.cache.match(hashes, len(hashes))
        need = len(hashes) - hits + extra
        if need > self.cache.free - self.cache.unpinned(hashes[:hits]):
            return
        self.cache.pin(hashes[:hits])
        self.cache.allocate(need)
        new = [value for value in hashes[hits:] if self.cache.commit(value)]
        self.sequences.append((hashes[:hits] + new, need - len(new)))

    @precondition(lambda self: self.sequences)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        hashes, private = self.sequences.pop(data.draw(st.integers(0, len(self.sequences) - 1)))
        self.cache.release(hashes, private)

    @invariant()
    def books_balance(self) -> None:
        cache = self.cache
        assert cache.private == sum(private for _, private in self.sequences)
        assert cache.pinned == len({value for hashes, _ in self.sequences for value in hashes})
        assert min(cache.private, cache.pinned, cache.cached, cache.free) >= 0
        assert cache.private + cache.pinned + cache.cached <= cache.capacity
        assert 0.0 <= cache.usage <= 1.0


TestCacheMachine = CacheMachine.TestCase
