"""``fleet bench picker``: requests/s and latency behind Envoy, beside a minimal picker and Envoy alone."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any, Final

from benchmarks.options import Bench, BenchOptions
from benchmarks.picker import stage
from benchmarks.proxy.tools import compiled, free_ports
from benchmarks.result import Bar, Outcome, Table
from fleet.errors import ConfigError

ARMS: Final = ("envoy", "minimal", "ours")
CONNECTIONS: Final = (1, 16, 64)
SHAPES: Final = {"plain": False, "stream": True}
_RUN_S = 2.0
Cell = tuple[str, str, int]
"""Arm, shape, connections."""


def run(options: BenchOptions) -> Outcome:
    """The bench: each seed is a round in which all arms take turns.

    Raises: ConfigError for a workload, without Envoy or without a C compiler.
    """
    if options.workload or options.scale != 1.0:
        raise ConfigError("the picker bench has its own load", limit="no --workload, no --scale",
                          next_step="Run fleet bench picker.")  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        return judged(_measure(Path(name), options))


def _measure(folder: Path, options: BenchOptions) -> dict[Cell, list[dict[str, float]]]:
    backend, load = compiled(folder)
    found: dict[Cell, list[dict[str, float]]] = {}
    engines = free_ports(stage.ENGINES)
    pickers = dict(zip(("minimal", "ours"), free_ports(2), strict=True))
    (admin,) = free_ports(1)
    with contextlib.ExitStack() as stack:
        command = [str(backend), *map(str, engines)]
        stack.enter_context(stage.process(command, folder / "backend.log", port=engines[0]))
        commands = {"minimal": stage.minimal(pickers["minimal"], engines),
                    "ours": stage.ours(pickers["ours"], admin, engines, folder)}  # fmt: skip
        pids: dict[str, int] = {}
        for name, words in commands.items():
            made = stack.enter_context(stage.process(words, folder / f"{name}.log", port=pickers[name]))
            pids[name] = made.pid
        proxies = {arm: stack.enter_context(stage.envoy(folder, arm, engines=engines, picker=pickers.get(arm)))
                   for arm in ARMS}  # fmt: skip
        cells = [(arm, shape, count) for shape in SHAPES for count in CONNECTIONS for arm in ARMS]
        for number in range(len(options.seeds)):
            for place, cell in enumerate(cells):
                share = (number * len(cells) + place) / (len(cells) * len(options.seeds))
                options.progress(share, f"{cell[1]}, {cell[2]} connections, {cell[0]}")
                port, proxy = proxies[cell[0]]
                before = stage.cpu_s(proxy), stage.cpu_s(pids.get(cell[0]))
                one = stage.load(load, port, connections=cell[2], warm_s=0.0, run_s=_RUN_S, stream=SHAPES[cell[1]])
                served = max(1.0, one["requests"])
                one["proxy_cpu_us"] = (stage.cpu_s(proxy) - before[0]) * 1e6 / served
                one["picker_cpu_us"] = (stage.cpu_s(pids.get(cell[0])) - before[1]) * 1e6 / served
                found.setdefault(cell, []).append(one)
    return found


def judged(found: Mapping[Cell, list[dict[str, float]]]) -> Outcome:
    """Bars and table: medians over the rounds, ratios within a round."""
    ratios = {count: _ratio(found, "plain", count) for count in CONNECTIONS}
    added = median((ours["p50_us"] - alone["p50_us"]) / 1e3 for ours, alone in _pairs(found, "envoy", 1))
    bars = {
        "rps_ratio_vs_minimal_picker": Bar(value=min(ratios[16], ratios[64]), unit="ratio", limit=">= 1.0"),
        "added_p50_ms": Bar(value=added, unit="ms", limit="< 1.0"),
    }
    rows = [[shape, count, arm, *_row(found[arm, shape, count])] for arm, shape, count in found]
    errors = sum(one["errors"] for runs in found.values() for one in runs)
    notes = [
        f"{stage.ENGINES} canned engines in C, Envoy with one worker and the configuration of deploy/envoy, bodies of "
        "700 bytes, every arm in every round; the machine is shared by all of them, so read ratios",
        "the bar for requests/s is the worse of 16 and 64 connections, non-streaming; the goal is 2.0",
        "the minimal picker: grpc.aio, round robin, the same protocol (duplex bodies both ways), no scheduling",
        "CPU is that of the process for one request: what a busy machine cannot distort",
        f"answers that were no 200: {errors:.0f}",
    ]
    results: dict[str, Any] = {
        "ratio_by_connections": {str(count): ratio for count, ratio in ratios.items()},
        "stream_ratio_by_connections": {str(count): _ratio(found, "stream", count) for count in CONNECTIONS},
        "cells": [{"arm": arm, "shape": shape, "connections": count, "rounds": runs}
                  for (arm, shape, count), runs in found.items()],
    }  # fmt: skip
    columns = [
        "answers",
        "connections",
        "arm",
        "requests/s",
        "P50 us",
        "P99 us",
        "first byte P50 us",
        "Envoy CPU us",
        "picker CPU us",
    ]
    return Outcome(results=results, bars=bars, notes=notes,
                   tables=[Table(title="Medians over the rounds", columns=columns, rows=rows)])  # fmt: skip


def _pairs(
    found: Mapping[Cell, list[dict[str, float]]], other: str, count: int, shape: str = "plain"
) -> list[tuple[dict[str, float], dict[str, float]]]:
    return list(zip(found["ours", shape, count], found[other, shape, count], strict=True))


def _ratio(found: Mapping[Cell, list[dict[str, float]]], shape: str, count: int) -> float:
    return median(_rps(ours) / _rps(other) for ours, other in _pairs(found, "minimal", count, shape))


def _rps(one: Mapping[str, float]) -> float:
    return one["requests"] / one["seconds"]


def _row(runs: list[dict[str, float]]) -> list[float]:
    names = ("p50_us", "p99_us", "first_p50_us", "proxy_cpu_us", "picker_cpu_us")
    return [round(median(map(_rps, runs))), *(round(median(one[name] for one in runs), 1) for name in names)]


BENCH: Final = Bench(name="picker", what="picker behind Envoy: requests/s and added latency beside a minimal one",
                     bars=("rps_ratio_vs_minimal_picker", "added_p50_ms"), run=run)  # fmt: skip
