"""A brute-force model of what engines hold, and an engine that publishes what it does."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import msgspec

from router.kvevents.wire import Batch, apply, decode
from router.kvindex.index import WEIGHTS, KVIndex
from router.kvindex.keys import Tier, pack, prompt_keys

BLOCK = 4


class Model:
    """Pod -> engine's hash -> (all tokens up to its end, adapter, tiers); everything is found by comparing tokens."""

    def __init__(self) -> None:
        self.pods: dict[str, dict[int, tuple[tuple[int, ...], Any, set[Tier]]]] = {}

    def store(self, pod: str, name: int, prefix: tuple[int, ...], lora: Any, tier: Tier) -> None:
        self.pods.setdefault(pod, {}).setdefault(name, (prefix, lora, set()))[2].add(tier)

    def remove(self, pod: str, name: int, tier: Tier) -> None:
        held = self.pods.get(pod, {})
        if name in held:
            held[name][2].discard(tier)
            if not held[name][2]:
                del held[name]

    def match(self, tokens: Sequence[int], lora: Any) -> dict[str, tuple[int, float]]:
        found = {}
        for pod, held in self.pods.items():
            best = {(prefix, adapter): min(tiers) for prefix, adapter, tiers in held.values()}
            blocks, weighted = 0, 0.0
            while (tier := best.get((tuple(tokens[: (blocks + 1) * BLOCK]), lora))) is not None:
                if (blocks + 1) * BLOCK > len(tokens):
                    break
                blocks, weighted = blocks + 1, weighted + WEIGHTS[tier]
            if blocks:
                found[pod] = (blocks, round(weighted, 6))
        return found


def matches(index: KVIndex, tokens: Sequence[int], lora: Any = None) -> dict[str, tuple[int, float]]:
    keys = prompt_keys(pack(tokens), block_tokens=BLOCK, lora=lora)
    return {pod: (found.blocks, round(found.weighted, 6)) for pod, found in index.match(keys).items()}


class Publisher:
    """An engine with a cache of a few blocks: prompts come, the oldest leaves go; each step gives one batch."""

    def __init__(self, seed: int, *, capacity: int = 24, maps: bool = True) -> None:
        self.rng, self.capacity, self.maps = random.Random(seed), capacity, maps
        self.held: dict[tuple[Any, tuple[int, ...]], int] = {}
        self.names: dict[tuple[Any, tuple[int, ...]], int] = {}
        self.now_s = 1000.0
        self.batches: list[bytes] = []

    def prompt(self) -> tuple[Any, list[int]]:
        tokens: list[int] = []
        for _ in range(self.rng.randrange(1, 6)):
            tokens += [self.rng.randrange(2)] * BLOCK
        return self.rng.choice([None, None, "ada"]), tokens

    def step(self) -> bytes:
        if self.rng.random() < 0.02:
            self.held.clear()
            events: list[Any] = [self._cleared()]
        else:
            lora, tokens = self.prompt()
            events = [*self._evict(), *self._store(lora, tokens)]
        return self._publish(events)

    def restart(self) -> None:
        self.held.clear()
        self.batches.clear()
        self.names = {}
        self.now_s += 100

    def _publish(self, events: list[Any]) -> bytes:
        self.now_s += 1.0
        self.batches.append(msgspec.msgpack.encode([self.now_s, events, 0]))
        return self.batches[-1]

    def _name(self, key: tuple[Any, tuple[int, ...]]) -> int:
        return self.names.setdefault(key, self.rng.getrandbits(64))

    def _store(self, lora: Any, tokens: list[int]) -> list[Any]:
        prefixes = [tuple(tokens[: end * BLOCK]) for end in range(1, len(tokens) // BLOCK + 1)]
        fresh = [prefix for prefix in prefixes if (lora, prefix) not in self.held]
        if not fresh:
            return []
        for prefix in prefixes:
            self.held.pop((lora, prefix), None)
        for prefix in reversed(prefixes):  # the end of a prompt is the oldest
            self.held[lora, prefix] = self._name((lora, prefix))
        first = prefixes.index(fresh[0])
        parent = self._name((lora, prefixes[first - 1])) if first else None
        names = [self._name((lora, prefix)) for prefix in prefixes[first:]]
        return [self._stored(names, parent, tokens[first * BLOCK :], lora)]

    def _evict(self) -> list[Any]:
        gone = []
        while len(self.held) > self.capacity - 6:
            key = next(key for key in self.held if self._is_leaf(key))
            gone.append(self._removed(self.held.pop(key)))
        return gone

    def _is_leaf(self, key: tuple[Any, tuple[int, ...]]) -> bool:
        lora, prefix = key
        return not any(adapter == lora and len(other) > len(prefix) and other[: len(prefix)] == prefix
                       for adapter, other in self.held)  # fmt: skip

    def _stored(self, names: list[int], parent: int | None, tokens: list[int], lora: Any) -> Any:
        if self.maps:
            return {"type": "BlockStored", "block_hashes": names, "parent_block_hash": parent, "token_ids": tokens,
                    "block_size": BLOCK, "lora_name": lora, "medium": "GPU", "new_field": 1}  # fmt: skip
        return ["BlockStored", names, parent, tokens, BLOCK, None, "GPU", lora, None, 0, "full_attention", None, "new"]

    def _removed(self, name: int) -> Any:
        if self.maps:
            return {"type": "BlockRemoved", "block_hashes": [name], "medium": "GPU"}
        return ["BlockRemoved", [name], "GPU", 0]

    def _cleared(self) -> Any:
        return {"type": "AllBlocksCleared"} if self.maps else ["AllBlocksCleared"]

    def truth(self, pod: str) -> Model:
        model = Model()
        for (lora, prefix), name in self.held.items():
            model.store(pod, name, prefix, lora, Tier.GPU)
        return model


def apply_all(index: KVIndex, pod: str, batches: Sequence[Batch | bytes]) -> None:
    for batch in batches:
        apply(index, pod, decode(batch) if isinstance(batch, bytes) else batch)
