"""``fleet bench index``: look-ups, ingest and memory of the KV-cache index, on one core.

Two fleets of 100 pods, each with a million distinct blocks: in ``apart`` every prompt is in one pod's cache (most
bytes a block), in ``shared`` each is in four pods chosen at random (most distinct sets of pods). What is timed is what
runs in production: payloads as vLLM sends them are decoded, put in order and applied; a look-up gives every pod's
longest match of a prompt of 512 blocks.
"""

from __future__ import annotations

import gc
import resource
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter, process_time
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from benchmarks.options import Bench, BenchOptions
from benchmarks.result import Bar, Outcome, Table
from fleet.errors import ConfigError
from router.kvevents.feed import Feed
from router.kvevents.wire import apply, decode
from router.kvindex.index import KVIndex
from router.kvindex.keys import pack, prompt_keys

PODS: Final = 100
BLOCKS: Final = 1_000_000
PROMPT_BLOCKS: Final = 512
BLOCK_TOKENS: Final = 16
_VOCABULARY: Final = 128_000
_PROMPTS: Final = 1_000
"""Looked up, in so many passes:"""
_PASSES: Final = 7
_CHURN: Final = 40
"""Prompts that come and go after the fleet is full."""
_PER_EVENT: Final = 32
"""Blocks of one BlockStored: a step of 512 prompt tokens."""
SHAPES: Final = {"apart": 1, "shared": 4}
"""Pods that hold each prompt."""
Make = Callable[[], KVIndex]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One fleet of one seed."""

    ingest_events_per_s: float
    churn_events_per_s: float
    lookup_p50_us: float
    lookup_p99_us: float
    miss_p99_us: float
    hash_p50_us: float
    bytes_per_block_pod: float
    rss_bytes_per_block_pod: float
    pairs: int
    sets: int


class Load:
    """Prompts of random tokens, and the payloads that say so."""

    def __init__(self, seed: int, holders: int) -> None:
        self._rng = np.random.default_rng(seed)
        self.holders = holders

    def tokens(self) -> list[int]:
        """One prompt."""
        found: list[int] = self._rng.integers(0, _VOCABULARY, PROMPT_BLOCKS * BLOCK_TOKENS).tolist()
        return found

    def names(self) -> list[int]:
        """An engine's names of its blocks."""
        found: list[int] = self._rng.integers(1, 2**63, PROMPT_BLOCKS).tolist()
        return found

    def pods(self) -> list[int]:
        """Who holds it."""
        found: list[int] = self._rng.choice(PODS, self.holders, replace=False).tolist()
        return found


def _stored(tokens: Sequence[int], names: Sequence[int]) -> list[bytes]:
    """Payloads of a prefill, one a step."""
    payloads = []
    for start in range(0, PROMPT_BLOCKS, _PER_EVENT):
        event = {"type": "BlockStored", "block_hashes": names[start : start + _PER_EVENT],
                 "parent_block_hash": names[start - 1] if start else None,
                 "token_ids": tokens[start * BLOCK_TOKENS : (start + _PER_EVENT) * BLOCK_TOKENS],
                 "block_size": BLOCK_TOKENS, "lora_id": None, "medium": "GPU", "lora_name": None,
                 "extra_keys": [None] * _PER_EVENT, "group_idx": 0, "kv_cache_spec_kind": "full_attention"}  # fmt: skip
        payloads.append(msgspec.msgpack.encode([1.0, [event], 0]))
    return payloads


def _removed(names: Sequence[int]) -> bytes:
    """One payload that removes a prompt, an event a block as vLLM writes it."""
    events = [{"type": "BlockRemoved", "block_hashes": [name], "medium": "GPU", "group_idx": 0}
              for name in reversed(names)]  # fmt: skip
    return msgspec.msgpack.encode([1.0, events, 0])


class Fleet:
    """An index fed by a hundred publishers."""

    def __init__(self, load: Load) -> None:
        self.load, self.index = load, KVIndex()
        self._feeds = [Feed() for _ in range(PODS)]
        self.prompts: list[list[int]] = []
        self.held: list[tuple[int, list[int]]] = []
        self.busy_s = 0.0

    def take(self, pod: int, payloads: Sequence[bytes]) -> None:
        """Decode, order, apply: timed, in CPU seconds."""
        feed, name, index = self._feeds[pod], f"10.0.0.{pod}:8000", self.index
        start_s = process_time()
        for payload in payloads:
            for batch in feed.take(feed.next_seq, decode(payload)).apply:
                apply(index, name, batch)
        self.busy_s += process_time() - start_s

    def prefill(self) -> None:
        """One prompt comes to all who will hold it."""
        tokens = self.load.tokens()
        if len(self.prompts) < _PROMPTS:
            self.prompts.append(tokens)
        for pod in self.load.pods():
            names = self.load.names()
            self.held.append((pod, names))
            self.take(pod, _stored(tokens, names))

    def churn(self) -> int:
        """Old prompts go, new ones come; how many block events that was."""
        for _ in range(_CHURN):
            place = int(self.load._rng.integers(len(self.held)))
            pod, names = self.held.pop(place)
            self.take(pod, [_removed(names)])
            self.prefill()
        return _CHURN * PROMPT_BLOCKS * (1 + self.load.holders)


def measure(seed: int, holders: int, tell: Callable[[float], None]) -> Measured:
    """Fill, churn, look up."""
    gc.collect()
    before = _rss()
    fleet = Fleet(Load(seed, holders))
    prompts = BLOCKS // PROMPT_BLOCKS + 1
    for number in range(prompts):
        fleet.prefill()
        if not number % 50:
            tell(number / prompts)
    pairs = fleet.index.pairs
    ingest = pairs / fleet.busy_s
    grown = max(0.0, _rss() - before - _names_bytes(fleet))
    size = fleet.index.nbytes / pairs
    fleet.busy_s = 0.0
    churned = fleet.churn()
    churn = churned / fleet.busy_s
    found, missed, hashed = _lookups(fleet)
    return Measured(
        ingest_events_per_s=ingest, churn_events_per_s=churn, bytes_per_block_pod=size,
        rss_bytes_per_block_pod=grown / pairs, pairs=pairs, sets=len(fleet.index._sets),
        lookup_p50_us=_quantile(found, 50), lookup_p99_us=_quantile(found, 99), miss_p99_us=_quantile(missed, 99),
        hash_p50_us=_quantile(hashed, 50),
    )  # fmt: skip


def _names_bytes(fleet: Fleet) -> float:
    """What the bench itself keeps: engine names to remove later, and prompts to look up."""
    return 40.0 * PROMPT_BLOCKS * len(fleet.held) + 36.0 * PROMPT_BLOCKS * BLOCK_TOKENS * len(fleet.prompts)


def _lookups(fleet: Fleet) -> tuple[list[float], list[float], list[float]]:
    """Seconds of look-ups that match a whole prompt, of ones that match nothing, and of hashing; one a prompt.

    Each is the median over passes through all prompts: a pass disturbs the processor's caches between two look-ups of
    one prompt, and what else the machine did during one of them does not count.
    """
    match, hashed = fleet.index.match, []
    keys = []
    for tokens in fleet.prompts:
        packed = pack(tokens)
        start_s = perf_counter()
        keys.append(prompt_keys(packed, block_tokens=BLOCK_TOKENS))
        hashed.append(perf_counter() - start_s)
    strange = [prompt_keys(pack(fleet.load.tokens()), block_tokens=BLOCK_TOKENS) for _ in range(200)]
    return _medians(match, keys), _medians(match, strange), hashed


def _medians(match: Callable[[Sequence[int]], object], prompts: Sequence[list[int]]) -> list[float]:
    passes = []
    for _ in range(_PASSES):
        times = []
        for keys in prompts:
            start_s = perf_counter()
            match(keys)
            times.append(perf_counter() - start_s)
        passes.append(times)
    found: list[float] = np.median(np.asarray(passes), axis=0).tolist()
    return found


def _quantile(times_s: Sequence[float] | npt.NDArray[np.float64], percent: float) -> float:
    return float(np.percentile(times_s, percent)) * 1e6


def _rss() -> float:
    """Peak resident bytes of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0


def run(options: BenchOptions) -> Outcome:
    """The bench.

    Raises: ConfigError for a workload: this bench has its own.
    """
    if options.workload or options.scale != 1.0:
        raise ConfigError("the index bench makes its own blocks", limit="no --workload, no --scale",
                          next_step="Run fleet bench index.")  # fmt: skip
    found: dict[str, list[Measured]] = {name: [] for name in SHAPES}
    total = len(SHAPES) * len(options.seeds)
    for done, (shape, seed) in enumerate((shape, seed) for shape in SHAPES for seed in options.seeds):
        what = f"{shape}, seed {seed}"
        found[shape].append(measure(seed, SHAPES[shape], _teller(options, done, total, what)))
    return judged(found)


def _teller(options: BenchOptions, done: int, total: int, what: str) -> Callable[[float], None]:
    return lambda share: options.progress((done + share) / total, what)


def judged(found: dict[str, list[Measured]]) -> Outcome:
    """The worst fleet and seed against each limit."""
    every = [one for runs in found.values() for one in runs]
    ingest = min(min(one.ingest_events_per_s, one.churn_events_per_s) for one in every)
    bars = {
        "lookup_p99_us": Bar(value=max(one.lookup_p99_us for one in every), unit="us", limit="< 100"),
        "ingest_events_per_s": Bar(value=round(ingest), unit="block events/s", limit=">= 100000"),
        "bytes_per_block_pod": Bar(value=max(one.bytes_per_block_pod for one in every), unit="bytes", limit="<= 100"),
    }
    results = {name: [_plain(one) for one in runs] for name, runs in found.items()}
    rows = [[name, seed + 1, *_plain(one).values()] for name, runs in found.items() for seed, one in enumerate(runs)]
    columns = ["fleet", "run", *_plain(every[0])]
    notes = [
        f"{PODS} pods, {BLOCKS:,} distinct blocks of {BLOCK_TOKENS} tokens, prompts of {PROMPT_BLOCKS} blocks; "
        "every bar is the worst of all fleets and seeds",
        "ingest counts one event a block and includes decoding and ordering; churn is removals and new prompts at "
        "full size",
        f"P99 over {_PROMPTS} prompts, each the median of {_PASSES} passes through all of them; ingest is by the "
        "CPU time of the process, one core",
        "a look-up takes the prompt's keys; hashing 512 blocks of tokens into keys is the column hash_p50_us",
        "bytes are the arrays, the overflow and the sets as the index counts them; rss is the growth of the process, "
        "without what the bench keeps itself (first run of a process only means something)",
    ]
    return Outcome(results=results, bars=bars, notes=notes,
                   tables=[Table(title="Runs", columns=columns, rows=rows)])  # fmt: skip


def _plain(one: Measured) -> dict[str, Any]:
    return {name: round(getattr(one, name), 1) for name in Measured.__slots__}


BENCH: Final = Bench(name="index", what="KV-cache index: look-ups, ingest, bytes, a million blocks on 100 pods",
                     bars=("lookup_p99_us", "ingest_events_per_s", "bytes_per_block_pod"), run=run)  # fmt: skip
