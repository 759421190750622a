"""What one decision costs, from a parsed body to an engine: hashing, look-ups, prediction, scores, pick, books.

The very :class:`router.director.Director` of production is driven, with endpoints whose samples, loads and caches
differ. Bars: 100 endpoints, every scorer there is at once. Beside them the default profile on small fleets, and what
the prefix index costs in memory.
"""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import numpy as np

from benchmarks.decision.fleet import DecisionFleet, every_scorer
from benchmarks.options import BenchOptions
from benchmarks.result import Bar, Outcome, Table
from router import compiled
from router.prefix import PrefixIndex
from router.profile import DEFAULT, Profile

BARS: Final = ("p99_us_8k", "p99_us_100k")
ENDPOINTS: Final = 100
PROMPTS: Final = {"8k": (8_000, 1_500), "100k": (100_000, 300)}
"""Tokens of a prompt, and decisions timed for each seed."""
SMALL: Final = (1, 2, 4, 8, 32, 100)
"""Fleets on which the default profile is timed, with short prompts."""
_SHORT: Final = 150
_IN_FLIGHT: Final = 20
"""Requests an endpoint has in flight, on average."""
_SCRAPE_EVERY: Final = 100
_INDEX_BLOCKS: Final = 2_000
_GC_THRESHOLD: Final = (10_000, 20, 50)
"""As ``fleet router serve`` sets it."""

Times = Sequence[float]


def run(options: BenchOptions) -> Outcome:
    """All of it."""
    times: dict[str, list[float]] = {name: [] for name in PROMPTS}
    small: dict[tuple[str, int], list[float]] = {}
    steps = len(options.seeds) * (len(PROMPTS) + 2 * len(SMALL))
    done = 0
    for seed in options.seeds:
        for name, (tokens, count) in PROMPTS.items():
            options.progress(done / steps, f"{ENDPOINTS} endpoints, {name} tokens, seed {seed}")
            times[name] += measure(ENDPOINTS, every_scorer(), tokens, count, seed=seed)
            done += 1
        for predicts in (False, True):
            for endpoints in SMALL:
                options.progress(done / steps, f"{endpoints} endpoints, default profile, seed {seed}")
                kind = "default, latency model" if predicts else "default"
                found = small.setdefault((kind, endpoints), [])
                found += measure(endpoints, DEFAULT, _SHORT, 1_000, seed=seed, predicts=predicts)
                done += 1
    options.progress(1.0, "memory of the index")
    return _outcome(times, small, index_bytes())


def measure(
    endpoints: int, profile: Profile, tokens: int, count: int, *, seed: int, predicts: bool = True
) -> list[float]:
    """``count`` decisions in seconds, after as many requests as fill the books."""
    fleet = DecisionFleet(endpoints, profile, seed=seed, predicts=predicts)
    for _ in range(_IN_FLIGHT * endpoints):
        fleet.decide(fleet.prompt(_SHORT))
    for _ in range(20):
        fleet.decide(fleet.prompt(tokens))
    found = []
    with _collected():
        for index in range(count):
            if not index % _SCRAPE_EVERY:
                fleet.scrape()
            parsed = fleet.prompt(tokens)
            fleet.finish(_IN_FLIGHT * endpoints)
            found.append(fleet.decide(parsed))
    return found


@contextmanager
def _collected() -> Iterator[None]:
    """The collector as the router's process sets it."""
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLD)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


def index_bytes() -> dict[str, float]:
    """Bytes that one remembered block of one endpoint takes: every block new, or each at every endpoint."""
    return {"apart": _filled(lambda index, block: index * _INDEX_BLOCKS + block), "shared": _filled(lambda _, b: b)}


def _filled(name: Callable[[int, int], int]) -> float:
    """Fill an index of 100 endpoints; hashes are as large as real ones."""
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        index = PrefixIndex(_INDEX_BLOCKS)
        made: dict[int, int] = {}
        for endpoint in range(ENDPOINTS):
            ids = [name(endpoint, block) for block in range(_INDEX_BLOCKS)]
            index.record(
                f"http://{endpoint}", [made.setdefault(each, each * 0x9E3779B97F4A7C15 % 2**64) for each in ids]
            )
        made.clear()
        after, _ = tracemalloc.get_traced_memory()
        return (after - before) / len(index)
    finally:
        tracemalloc.stop()


def _us(times: Times, percentile: float) -> float:
    return float(np.percentile(times, percentile)) * 1e6


def _figures(times: Times) -> dict[str, float]:
    return {name: round(_us(times, at), 1) for name, at in (("p50_us", 50), ("p90_us", 90), ("p99_us", 99))}


def _outcome(
    times: dict[str, list[float]], small: dict[tuple[str, int], list[float]], memory: dict[str, float]
) -> Outcome:
    results: dict[str, Any] = {
        "every_scorer": {name: _figures(found) for name, found in times.items()},
        "default_profile": {f"{kind}, {count} endpoints": _figures(found) for (kind, count), found in small.items()},
        "index_bytes_per_block": {name: round(value, 1) for name, value in memory.items()},
        "scorers": [entry.name for entry in every_scorer().scorers],
    }
    tables = [
        Table(title=f"{ENDPOINTS} endpoints, every scorer, latency model",
              columns=("prompt tokens", "P50 µs", "P90 µs", "P99 µs"),
              rows=[(name, *_figures(found).values()) for name, found in times.items()]),
        Table(title=f"Default profile, {_SHORT}-token prompts",
              columns=("profile", "endpoints", "P50 µs", "P90 µs", "P99 µs"),
              rows=[(kind, count, *_figures(found).values()) for (kind, count), found in small.items()]),
        Table(title="Memory of the prefix index", columns=("blocks", "bytes a block and endpoint"),
              rows=list(memory.items())),
    ]  # fmt: skip
    bars = {
        "p99_us_8k": Bar(value=_us(times["8k"], 99), unit="µs", limit="< 1000"),
        "p99_us_100k": Bar(value=_us(times["100k"], 99), unit="µs", limit="< 5000"),
    }
    return Outcome(results=results, bars=bars, tables=tables, notes=[
        "Timed: Director.open and Director.route, that is from the parsed body to the engine's URL with the request in "
        "the ledger, the prefix index and the recent decisions. Scrapes come every 100 decisions.",
        f"Every scorer: {', '.join(entry.name for entry in every_scorer().scorers)}.",
        "Measured as native code (make compile)." if compiled.check() else "Measured in plain Python.",
        "The index is bounded: 31 250 blocks of 64 tokens an endpoint, or what its KV cache holds once it said so.",
    ])  # fmt: skip
