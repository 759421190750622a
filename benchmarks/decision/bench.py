"""What one decision costs, from a parsed body to an engine: hashing, look-ups, prediction, scores, pick, books.

The very :class:`router.director.Director` of production is driven, with endpoints whose samples, loads and caches
differ. Bars: 100 endpoints, every scorer there is at once. Beside them the default profile on small fleets, and what
the prefix index costs in memory. Where ``make bench-compiled`` has built native code of this very source, the same is
measured on it, and the bars are its: it is what is shipped.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import numpy as np

from benchmarks.decision.fleet import DecisionFleet, every_scorer
from benchmarks.options import BenchOptions
from benchmarks.proxy.arms import Arm, our_arms
from benchmarks.result import Bar, Outcome, Table
from router import compiled
from router.prefix import PrefixIndex
from router.profile import DEFAULT, Profile

_LIMITS: Final = {"8k": "< 1000", "100k": "< 5000"}
BARS: Final = (*(f"p99_us_{name}" for name in _LIMITS), *(f"plain_p99_us_{name}" for name in _LIMITS))
PLAIN: Final = "plain Python"
NATIVE: Final = "native code"
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


Figures = Mapping[str, Any]


def run(options: BenchOptions) -> Outcome:
    """All of it, as plain Python and as native code, as far as they are there."""
    if compiled.check():
        return outcome({NATIVE: _measured(options)})
    _, native = our_arms()
    forms = {PLAIN: _measured(options)}
    if not native.missing:
        options.progress(1.0, "the same as native code")
        forms[NATIVE] = _beside(native, options)
    return outcome(forms, missing=native.missing)


def _beside(native: Arm, options: BenchOptions) -> Figures:
    """The figures of native code, from a process of its own."""
    words = ["-m", "fleet.cli", "bench", "decision", "--json", "--seeds", str(len(options.seeds))]
    env = {**os.environ, **native.env}
    done = subprocess.run([str(native.program), *words], env=env, check=True, stdout=subprocess.PIPE)
    found: Figures = json.loads(done.stdout)["results"][NATIVE]
    return found


def _measured(options: BenchOptions) -> Figures:
    """The figures of what runs in this process."""
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
    return {
        "every_scorer": {name: _figures(found) for name, found in times.items()},
        "default_profile": {f"{kind}, {count} endpoints": _figures(found) for (kind, count), found in small.items()},
        "index_bytes_per_block": {name: round(value, 1) for name, value in index_bytes().items()},
        "python": " ".join(sys.version.split()),
    }


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


def outcome(forms: Mapping[str, Figures], *, missing: str = "") -> Outcome:
    """Bars, of native code where it was measured, and tables of each form."""
    shipped = NATIVE if NATIVE in forms else PLAIN
    bars = {f"p99_us_{name}": _p99(forms[shipped], name, limit) for name, limit in _LIMITS.items()}
    bars |= {f"plain_p99_us_{name}": _p99(forms.get(PLAIN), name, "report") for name in _LIMITS}
    scorers = [entry.name for entry in every_scorer().scorers]
    return Outcome(results={**forms, "scorers": scorers}, bars=bars, tables=[*_tables(forms)], notes=[
        "Timed: Director.open and Director.route, that is from the parsed body to the engine's URL with the request in "
        "the ledger, the prefix index and the recent decisions. Scrapes come every 100 decisions.",
        f"Every scorer: {', '.join(scorers)}.",
        f"The bars are of {shipped}" + ("; those that begin with plain_ are of plain Python, from the same run."
                                        if len(forms) > 1 else "."),
        *(f"{form[0].upper()}{form[1:]} ran on Python {found['python']}." for form, found in forms.items()),
        *([f"Missing: {missing}. Run make bench-compiled."] if missing else []),
        "The index is bounded: 31 250 blocks of 64 tokens an endpoint, or what its KV cache holds once it said so.",
    ])  # fmt: skip


def _p99(found: Figures | None, prompt: str, limit: str) -> Bar:
    return Bar(value=None if found is None else found["every_scorer"][prompt]["p99_us"], unit="µs", limit=limit)


def _tables(forms: Mapping[str, Figures]) -> Iterator[Table]:
    for form, found in forms.items():
        yield Table(title=f"{ENDPOINTS} endpoints, every scorer, latency model, {form}",
                    columns=("prompt tokens", "P50 µs", "P90 µs", "P99 µs"),
                    rows=[(name, *one.values()) for name, one in found["every_scorer"].items()])  # fmt: skip
        yield Table(title=f"Default profile, {_SHORT}-token prompts, {form}",
                    columns=("profile and endpoints", "P50 µs", "P90 µs", "P99 µs"),
                    rows=[(name, *one.values()) for name, one in found["default_profile"].items()])  # fmt: skip
    memory = next(iter(forms.values()))["index_bytes_per_block"]
    yield Table(title="Memory of the prefix index", columns=("blocks", "bytes a block and endpoint"),
                rows=list(memory.items()))  # fmt: skip
