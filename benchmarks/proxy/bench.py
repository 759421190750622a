"""The proxy bench: all proxies stand before the same engines, and each setting is run on all of them in turn."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final

from benchmarks.options import BenchOptions
from benchmarks.proxy import tools
from benchmarks.proxy.arms import OURS, Arm, Start, arms
from benchmarks.proxy.tools import Load
from benchmarks.result import Bar, Outcome, Table
from fleet.errors import ConfigError
from router import compiled

BARS: Final = (
    "rps_ratio_vs_best_peer", "rps_ratio_vs_vllm_router_cache_aware", "added_p50_ms", "added_p99_ms",
    "stream_first_chunk_rank",
)  # fmt: skip
DIRECT: Final = "direct"
CONNECTIONS: Final = (1, 16, 64)
ENGINES: Final = 4
_SECONDS: Final = 1.2
"""One run without a proxy."""
_CACHE_AWARE = "vllm-router cache_aware"

Key = tuple[str, int, bool]
"""Arm, connections, streaming."""


def run(options: BenchOptions) -> Outcome:
    """The bench; each seed is one round over all settings, and figures are medians over the rounds.

    Raises: ConfigError for a workload, or where our own proxy does not start.
    """
    if options.workload or options.scale != 1.0:
        raise ConfigError("the proxy bench has its own load", limit="no --workload, no --scale",
                          next_step="Use fleet bench routing for workloads.")  # fmt: skip
    known = arms()
    there = [arm for arm in known if arm.program.exists()]
    missing = [arm.name for arm in known if arm not in there]
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        engines, load = tools.compiled(folder)
        ports = tools.free_ports(ENGINES)
        backend = stack.enter_context(tools.running([str(engines), *map(str, ports)], log=folder / "engines.log"))
        started: dict[str, tuple[int, int]] = {DIRECT: (ports[0], backend)}
        for arm in there:
            options.progress(0.0, f"starting {arm.name}")
            found = _start(stack, arm, ports, folder)
            if found is not None:
                started[arm.name] = found
            elif arm.name == OURS:
                raise ConfigError("our own proxy did not start", where="fleet bench proxy",
                                  next_step=(folder / f"{arm.name}.log").read_text()[-500:])  # fmt: skip
            else:
                missing.append(f"{arm.name} (did not answer)")
        runs = _rounds(options, load, started, {arm.name: arm.seconds for arm in there})
        memory = {arm: tools.rss_mb(pid) for arm, (_, pid) in started.items()}
    return judged(runs, memory, missing, {arm.name for arm in known if arm.rival})


def _start(
    stack: contextlib.ExitStack, arm: Arm, engines: Sequence[int], folder: Path
) -> tuple[int, int] | None:  # fmt: skip
    port, spare = tools.free_ports(2)
    own = folder / arm.name.replace(" ", "-")
    own.mkdir()
    command = arm.command(Start(port=port, spare=spare, engines=engines, folder=own), arm.program)
    pid = stack.enter_context(tools.running(command, log=folder / f"{arm.name}.log", env=arm.env))
    return (port, pid) if tools.answers(port, within_s=arm.ready_s) else None


def _rounds(
    options: BenchOptions, tool: Path, started: Mapping[str, tuple[int, int]], lengths_s: Mapping[str, float]
) -> dict[Key, list[Load]]:  # fmt: skip
    """Every setting on every arm, as often as there are seeds; who goes first changes."""
    runs: dict[Key, list[Load]] = {}
    names = list(started)
    total = len(options.seeds) * 2 * len(CONNECTIONS) * len(names)
    for turn in range(len(options.seeds)):
        order = names[turn % len(names) :] + names[: turn % len(names)]
        for stream in (False, True):
            for connections in CONNECTIONS:
                for name in order:
                    port, pid = started[name]
                    options.progress(sum(map(len, runs.values())) / total, f"{name}, {connections} connections")
                    length_s = lengths_s.get(name, _SECONDS)
                    seen = tools.load(tool, port, connections=connections, seconds=length_s, stream=stream, pid=pid)
                    runs.setdefault((name, connections, stream), []).append(seen)
    return runs


def judged(
    runs: Mapping[Key, Sequence[Load]], memory: Mapping[str, float], missing: Sequence[str], rivals: set[str]
) -> Outcome:
    """Bars and tables of what was run."""
    seen = {key: _middle(loads) for key, loads in runs.items()}
    names = [name for name, connections, stream in seen if (connections, stream) == (1, False)]
    peers = [name for name in names if name in rivals]
    best = [_ratio(seen, peers, connections) for connections in CONNECTIONS[1:]]
    against = (
        [_ratio(seen, [_CACHE_AWARE], connections) for connections in CONNECTIONS[1:]] if _CACHE_AWARE in names else []
    )
    ours, direct = seen[OURS, 1, False], seen[DIRECT, 1, False]
    ranks = [_rank(seen, peers, connections) for connections in CONNECTIONS]
    bars = {
        "rps_ratio_vs_best_peer": Bar(value=_worst(best), unit="ratio", limit=">= 1.0"),
        "rps_ratio_vs_vllm_router_cache_aware": Bar(value=_worst(against), unit="ratio", limit=">= 2.0"),
        "added_p50_ms": Bar(value=round(ours["p50_ms"] - direct["p50_ms"], 4), unit="ms", limit="< 0.1"),
        "added_p99_ms": Bar(value=round(ours["p99_ms"] - direct["p99_ms"], 4), unit="ms", limit="< 0.5"),
        "stream_first_chunk_rank": Bar(value=float(max(ranks)) if peers else None, unit="place", limit="<= 1"),
    }
    results: dict[str, Any] = {
        "arms": {f"{name}/{c}/{'stream' if s else 'plain'}": seen[name, c, s] for name, c, s in seen},
        "rss_mb": {name: round(value, 1) for name, value in memory.items()},
        "rps_ratio_vs_best_peer_stream": _worst([_ratio(seen, peers, c, stream=True) for c in CONNECTIONS[1:]]),
        "first_chunk_ranks": dict(zip(map(str, CONNECTIONS), ranks, strict=True)),
        "missing": list(missing),
    }
    return Outcome(results=results, bars=bars, tables=_tables(seen, names, memory), notes=_notes(missing))


def _middle(loads: Sequence[Load]) -> dict[str, float]:
    """Medians over the rounds; errors add up."""
    middle = {
        name: median(getattr(one, name) for one in loads)
        for name in ("rps", "first_p50_ms", "first_p99_ms", "p50_ms", "p99_ms", "cpu_us")
    }
    return {**{name: round(value, 4) for name, value in middle.items()}, "errors": sum(one.errors for one in loads)}


Seen = Mapping[Key, Mapping[str, float]]


def _ratio(seen: Seen, peers: Sequence[str], connections: int, *, stream: bool = False) -> float | None:
    """Our requests/s over those of the best of ``peers``."""
    best = max((seen[name, connections, stream]["rps"] for name in peers), default=0.0)
    return seen[OURS, connections, stream]["rps"] / best if best else None


def _worst(ratios: Sequence[float | None]) -> float | None:
    known = [ratio for ratio in ratios if ratio is not None]
    return round(min(known), 3) if known else None


def _rank(seen: Seen, peers: Sequence[str], connections: int) -> int:
    """Our place by the median time to the first chunk, 1 is the shortest."""
    ours = seen[OURS, connections, True]["first_p50_ms"]
    return 1 + sum(seen[name, connections, True]["first_p50_ms"] < ours for name in peers)


def _tables(seen: Seen, names: Sequence[str], memory: Mapping[str, float]) -> list[Table]:
    tables = []
    for stream in (False, True):
        title = "Streaming" if stream else "Not streaming"
        columns = ["proxy", "rps 1", "rps 16", "rps 64", "P50 ms 1", "P99 ms 1", "P50 ms 64", "CPU us 64", "MB"]
        if stream:
            columns[4:7] = ["first ms 1", "first ms 16", "first ms 64"]
        rows = []
        for name in names:
            one, some, many = (seen[name, connections, stream] for connections in CONNECTIONS)
            rates = [round(found["rps"]) for found in (one, some, many)]
            times = (
                [found["first_p50_ms"] for found in (one, some, many)]
                if stream
                else [one["p50_ms"], one["p99_ms"], many["p50_ms"]]
            )
            rows.append([name, *rates, *times, round(many["cpu_us"], 1), round(memory[name])])
        tables.append(Table(title=title, columns=columns, rows=rows))
    return tables


def _notes(missing: Sequence[str]) -> list[str]:
    notes = [
        "All on one machine: proxies, engines and load share its cores, so read ratios. Every proxy runs as its "
        "authors start it (Envoy and the Rust routers with a thread a core), ours with a worker a core and all default "
        "scorers and safeties on.",
        "Latencies above 200 ms are shown as 200 ms.",
        "The best peer is the best of Envoy and the Rust routers, at 16 and at 64 connections; the rank is the worst "
        "of the three numbers of connections, by the median time to the first byte of a streamed body.",
        "Our hot path ran as native code (make compile)." if compiled.check() else "Our hot path ran as plain Python.",
    ]
    if missing:
        notes.append(f"Missing: {', '.join(missing)}. Run make bench-peers.")
    return notes
