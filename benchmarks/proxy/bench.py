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
from benchmarks.proxy.arms import COMPILED, OURS, Arm, Start, arms
from benchmarks.proxy.tools import Load
from benchmarks.result import Bar, Outcome, Table
from fleet.errors import ConfigError

LIMITS: Final = {
    "rps_ratio_vs_best_peer": ("ratio", ">= 1.0"),
    "rps_ratio_vs_vllm_router_cache_aware": ("ratio", ">= 2.0"),
    "added_p50_ms": ("ms", "< 0.1"),
    "added_p99_ms": ("ms", "< 0.5"),
    "stream_first_chunk_rank": ("place", "<= 1"),
}
"""Of what is shipped."""
PLAIN: Final = "plain_"
"""Before the names of the same figures of plain Python."""
BARS: Final = (*LIMITS, *(PLAIN + name for name in LIMITS))
DIRECT: Final = "direct"
CONNECTIONS: Final = (1, 16, 64)
ENGINES: Final = 4
_SECONDS: Final = 1.2
"""One run without a proxy."""
_CACHE_AWARE = "vllm-router cache_aware"

Key = tuple[str, int, bool]
"""Arm, connections, streaming."""
Seen = Mapping[Key, Mapping[str, float]]


def run(options: BenchOptions) -> Outcome:
    """The bench; each seed is one round over all settings, and figures are medians over the rounds.

    Raises: ConfigError for a workload, or where our own proxy does not start.
    """
    if options.workload or options.scale != 1.0:
        raise ConfigError("the proxy bench has its own load", limit="no --workload, no --scale",
                          next_step="Use fleet bench routing for workloads.")  # fmt: skip
    known = arms()
    there = [arm for arm in known if not arm.missing]
    missing = [arm.missing for arm in known if arm.missing]
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
            elif arm.name in (OURS, COMPILED):
                raise ConfigError("our own proxy did not start", where="fleet bench proxy",
                                  next_step=(folder / f"{arm.name}.log").read_text()[-500:])  # fmt: skip
            else:
                missing.append(f"{arm.name} (did not answer)")
        runs = _rounds(options, load, started, {arm.name: arm.seconds for arm in there})
        memory = {arm: tools.rss_mb(pid) for arm, (_, pid) in started.items()}
    pythons = {arm.name: tools.python_version(arm.program) for arm in there if arm.name in (OURS, COMPILED)}
    return judged(runs, memory, missing, {arm.name for arm in known if arm.rival}, pythons)


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
    runs: Mapping[Key, Sequence[Load]], memory: Mapping[str, float], missing: Sequence[str], rivals: set[str],
    pythons: Mapping[str, str],
) -> Outcome:  # fmt: skip
    """Bars and tables of what was run."""
    seen = {key: _middle(loads) for key, loads in runs.items()}
    names = [name for name, connections, stream in seen if (connections, stream) == (1, False)]
    peers = [name for name in names if name in rivals]
    shipped = COMPILED if COMPILED in names else OURS
    found: dict[str, Mapping[str, float | None]] = {
        ours: _figures(seen, ours, peers) for ours in (OURS, COMPILED) if ours in names
    }
    bars = {name: Bar(value=found[shipped][name], unit=unit, limit=limit) for name, (unit, limit) in LIMITS.items()}
    plain: Mapping[str, float | None] = found.get(OURS, dict.fromkeys(LIMITS))
    bars |= {PLAIN + name: Bar(value=plain[name], unit=unit, limit="report") for name, (unit, _) in LIMITS.items()}
    results: dict[str, Any] = {
        "arms": {f"{name}/{c}/{'stream' if s else 'plain'}": seen[name, c, s] for name, c, s in seen},
        "rss_mb": {name: round(value, 1) for name, value in memory.items()},
        "bars_of": shipped,
        "pythons": dict(pythons),
        "rps_ratio_vs_best_peer_stream": {ours: _behind(seen, ours, peers, stream=True) for ours in found},
        "first_chunk_ranks": {ours: {str(c): _rank(seen, ours, peers, c) for c in CONNECTIONS} for ours in found},
        "missing": list(missing),
    }
    return Outcome(
        results=results, bars=bars, tables=_tables(seen, names, memory), notes=_notes(shipped, pythons, missing)
    )


def _figures(seen: Seen, ours: str, peers: Sequence[str]) -> dict[str, float | None]:
    """The figures of one of our own arms, by their names in :data:`LIMITS`."""
    one, direct = seen[ours, 1, False], seen[DIRECT, 1, False]
    ranks = [_rank(seen, ours, peers, connections) for connections in CONNECTIONS]
    return {
        "rps_ratio_vs_best_peer": _behind(seen, ours, peers),
        "rps_ratio_vs_vllm_router_cache_aware": _behind(seen, ours, [one for one in peers if one == _CACHE_AWARE]),
        "added_p50_ms": round(one["p50_ms"] - direct["p50_ms"], 4),
        "added_p99_ms": round(one["p99_ms"] - direct["p99_ms"], 4),
        "stream_first_chunk_rank": float(max(ranks)) if peers else None,
    }


def _middle(loads: Sequence[Load]) -> dict[str, float]:
    """Medians over the rounds; errors add up."""
    middle = {
        name: median(getattr(one, name) for one in loads)
        for name in ("rps", "first_p50_ms", "first_p99_ms", "p50_ms", "p99_ms", "cpu_us")
    }
    return {**{name: round(value, 4) for name, value in middle.items()}, "errors": sum(one.errors for one in loads)}


def _behind(seen: Seen, ours: str, peers: Sequence[str], *, stream: bool = False) -> float | None:
    """Our requests/s over those of the best of ``peers``, at the worse number of connections; ``None``: no peers."""
    if not peers:
        return None
    return round(min(
        seen[ours, connections, stream]["rps"] / max(seen[name, connections, stream]["rps"] for name in peers)
        for connections in CONNECTIONS[1:]
    ), 3)  # fmt: skip


def _rank(seen: Seen, ours: str, peers: Sequence[str], connections: int) -> int:
    """Our place by the median time to the first chunk, 1 is the shortest."""
    first_ms = seen[ours, connections, True]["first_p50_ms"]
    return 1 + sum(seen[name, connections, True]["first_p50_ms"] < first_ms for name in peers)


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


def _notes(shipped: str, pythons: Mapping[str, str], missing: Sequence[str]) -> list[str]:
    of = (
        f"The bars are of {COMPILED}, which is what the container's image and the wheel with native code hold; those "
        f"that begin with {PLAIN} are of {OURS}, plain Python, from the same source in the same run."
        if shipped == COMPILED
        else f"The bars are of {OURS}, plain Python: {COMPILED}, which is shipped, was not measured."
    )
    notes = [
        "All on one machine: proxies, engines and load share its cores, so read ratios. Every proxy runs as its "
        "authors start it (Envoy and the Rust routers with a thread a core), ours with a worker a core and all default "
        "scorers and safeties on.",
        of,
        *(f"{name} ran on Python {version}." for name, version in pythons.items()),
        "Latencies above 200 ms are shown as 200 ms.",
        "The best peer is the best of Envoy and the Rust routers, at 16 and at 64 connections; the rank is the worst "
        "of the three numbers of connections, by the median time to the first byte of a streamed body.",
    ]
    if missing:
        notes.append(f"Missing: {', '.join(missing)}. Run make bench-peers.")
    return notes
