"""The KV cache: shared blocks count once, pinned ones stay, the oldest free ones go first."""

from collections import OrderedDict
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from simulator.kvcache import KVCache, Run


def chained(text: str) -> list[int]:
    """One block a letter; a hash stands for all letters up to its own."""
    return [int.from_bytes(text[: end + 1].encode(), "big") for end in range(len(text))]


def held(cache: KVCache, text: str) -> Run:
    """Compute and keep the blocks of ``text``, as one sequence does."""
    hashes = chained(text)
    found, hits, _ = cache.find(hashes, len(hashes), cache.root)
    run = cache.pin(found, hits)
    cache.allocate(len(hashes) - hits)
    run, hashed = cache.commit(run, hashes, len(hashes))
    assert hashed == len(hashes) - hits
    return run


def left(cache: KVCache, text: str) -> None:
    """Compute the blocks of ``text`` and go."""
    cache.release(held(cache, text), 0)


def matches(cache: KVCache, text: str, limit: int = 99) -> int:
    return cache.match(chained(text), limit)


def test_shared_blocks_count_once() -> None:
    cache = KVCache(10)
    held(cache, "abc")
    held(cache, "abd")
    assert (cache.free, cache.pinned, cache.usage) == (6, 4, 0.4)


def test_a_shared_block_stays_until_its_last_user_leaves() -> None:
    cache = KVCache(10)
    two, one = held(cache, "ab"), held(cache, "a")
    cache.release(two, 0)
    assert (cache.pinned, cache.cached) == (1, 1)
    cache.release(one, 0)
    assert (cache.pinned, cache.cached, cache.usage) == (0, 2, 0.0)


@pytest.mark.parametrize(
    ("text", "limit", "blocks"),
    [
        pytest.param("abcd", 10, 4, id="all-of-it"),
        pytest.param("abcdef", 10, 4, id="longer-than-what-is-here"),
        pytest.param("ab", 10, 2, id="shorter-than-what-is-here"),
        pytest.param("abxd", 10, 2, id="parting-inside"),
        pytest.param("xbcd", 10, 0, id="another-beginning"),
        pytest.param("abcd", 3, 3, id="no-more-than-asked-for"),
    ],
)
def test_match_ends_where_the_content_parts(text: str, limit: int, blocks: int) -> None:
    cache = KVCache(10)
    held(cache, "abcd")
    assert matches(cache, text, limit) == blocks


def test_eviction_takes_the_oldest_and_of_one_sequence_the_deepest_block_first() -> None:
    cache = KVCache(4)
    left(cache, "ab")
    left(cache, "cd")
    cache.allocate(1)
    assert (matches(cache, "ab"), matches(cache, "cd"), cache.evictions) == (1, 2, 1)
    cache.allocate(2)
    assert (matches(cache, "ab"), matches(cache, "cd")) == (0, 1)


def test_using_a_cached_block_makes_it_young_again() -> None:
    cache = KVCache(2)
    left(cache, "a")
    left(cache, "b")
    left(cache, "a")
    cache.allocate(1)
    assert (matches(cache, "a"), matches(cache, "b")) == (1, 0)


def test_pinned_blocks_are_never_evicted() -> None:
    cache = KVCache(3)
    held(cache, "ab")
    cache.allocate(1)
    with pytest.raises(ValueError, match="0 free"):
        cache.allocate(1)
    assert matches(cache, "ab") == 2


def test_content_that_is_here_already_is_pinned_and_the_copy_stays_private() -> None:
    cache = KVCache(4)
    left(cache, "a")
    cache.allocate(2)
    run, hashed = cache.commit(cache.root, chained("ab"), 2)
    assert (cache.pinned, cache.private, hashed) == (2, 1, 1)
    cache.release(run, 1)
    assert (cache.cached, cache.private, matches(cache, "ab")) == (2, 0, 2)


def test_forgetting_evicts_what_nothing_uses() -> None:
    cache = KVCache(8)
    held(cache, "ab")
    left(cache, "abcd")
    assert cache.forget() == 2
    assert (matches(cache, "abcd"), cache.cached, cache.pinned) == (2, 0, 2)


def test_unused_blocks_of_a_match_are_counted() -> None:
    cache = KVCache(8)
    held(cache, "ab")
    left(cache, "abcd")
    _, depth, unused = cache.find(chained("abcx"), 4, cache.root)
    assert (depth, unused) == (3, 1)


def test_a_cache_without_blocks_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        KVCache(0)


@given(st.text("ab", min_size=1, max_size=30), st.text("ab", min_size=1, max_size=30), st.integers(0, 31))
def test_a_match_is_the_common_prefix(here: str, asked: str, limit: int) -> None:
    cache = KVCache(40)
    held(cache, here)
    common = next((i for i, (a, b) in enumerate(zip(here, asked, strict=False)) if a != b), min(len(here), len(asked)))
    assert matches(cache, asked, limit) == min(common, limit)


# ---- against a cache that treats each block by itself


@dataclass
class BlockCache:
    """What :class:`KVCache` does, block by block."""

    capacity: int
    private: int = 0
    refs: dict[int, int] = field(default_factory=dict)
    idle: OrderedDict[int, None] = field(default_factory=OrderedDict)

    @property
    def free(self) -> int:
        return self.capacity - self.private - len(self.refs)

    def match(self, hashes: list[int]) -> int:
        return next((i for i, one in enumerate(hashes) if one not in self.refs and one not in self.idle), len(hashes))

    def pin(self, hashes: list[int]) -> None:
        for one in hashes:
            self.idle.pop(one, None)
            self.refs[one] = self.refs.get(one, 0) + 1

    def allocate(self, blocks: int) -> None:
        self.private += blocks
        while self.private + len(self.refs) + len(self.idle) > self.capacity:
            self.idle.popitem(last=False)

    def commit(self, hashes: list[int]) -> int:
        """Hold ``hashes``; how many are no longer private."""
        new = [one for one in hashes if one not in self.refs and one not in self.idle]
        self.pin(hashes)
        self.private -= len(new)
        return len(new)

    def release(self, hashes: list[int], private: int) -> None:
        self.private -= private
        for one in reversed(hashes):
            self.refs[one] -= 1
            if not self.refs[one]:
                del self.refs[one]
                self.idle[one] = None


class Told:
    """What a listener believes is here."""

    def __init__(self) -> None:
        self.here: set[int] = set()

    def stored(self, hashes: list[int], start: int, end: int) -> None:
        assert not self.here & set(hashes[start:end])
        self.here.update(hashes[start:end])

    def removed(self, hashes: list[int], start: int, end: int) -> None:
        assert self.here >= set(hashes[start:end])
        self.here.difference_update(hashes[start:end])


@dataclass
class Holder:
    text: str
    run: Run
    private: int
    depth: int
    """Blocks that are committed."""


class CacheMachine(RuleBasedStateMachine):
    """Any order of operations: the tree and the blocks one by one agree."""

    def __init__(self) -> None:
        super().__init__()
        self.cache, self.blocks = KVCache(14), BlockCache(14)
        self.told = self.cache.listener = Told()
        self.holders: list[Holder] = []

    @rule(text=st.text("ab", min_size=1, max_size=9), extra=st.integers(0, 2), cut=st.integers(0, 3))
    def admit(self, text: str, extra: int, cut: int) -> None:
        """One more sequence; of its prompt, at most all but ``cut`` blocks may be hits."""
        hashes = chained(text)
        found, hits, unused = self.cache.find(hashes, max(0, len(text) - cut), self.cache.root)
        need = len(text) - hits + extra
        if need > self.cache.free - unused:
            return
        run = self.cache.pin(found, hits)
        self.blocks.pin(hashes[:hits])
        self.cache.allocate(need)
        self.blocks.allocate(need)
        self.holders.append(Holder(text, run, need, hits))

    @precondition(lambda self: self.holders)
    @rule(data=st.data())
    def compute(self, data: st.DataObject) -> None:
        holder = data.draw(st.sampled_from(self.holders))
        if holder.depth == len(holder.text):
            return
        end = data.draw(st.integers(holder.depth + 1, len(holder.text)))
        holder.run, hashed = self.cache.commit(holder.run, chained(holder.text), end)
        assert hashed == self.blocks.commit(chained(holder.text)[holder.depth : end])
        holder.private -= hashed
        holder.depth = end

    @precondition(lambda self: self.holders)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        holder = self.holders.pop(data.draw(st.integers(0, len(self.holders) - 1)))
        self.cache.release(holder.run, holder.private)
        self.blocks.release(chained(holder.text)[: holder.depth], holder.private)

    @rule(text=st.text("ab", min_size=1, max_size=9))
    def ask(self, text: str) -> None:
        assert matches(self.cache, text) == self.blocks.match(chained(text))

    @invariant()
    def both_agree(self) -> None:
        cache, blocks = self.cache, self.blocks
        assert (cache.private, cache.pinned, cache.cached) == (blocks.private, len(blocks.refs), len(blocks.idle))
        assert cache.private == sum(holder.private for holder in self.holders)
        assert cache.repeated == sum(users - 1 for users in blocks.refs.values())
        assert self.told.here == {*blocks.refs, *blocks.idle}
        assert min(cache.private, cache.pinned, cache.cached, cache.free, cache.empty) >= 0
        assert [hash_ for run in cache._idle for hash_ in reversed(run.source[run.start : run.end])] == [*blocks.idle]


TestCacheMachine = CacheMachine.TestCase
