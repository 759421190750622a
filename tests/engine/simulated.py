"""The simulator, calibrated on some loads of a real engine, predicts others."""

from __future__ import annotations

import csv
import json
import math
import random
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, Final

from fleet.hardware import MODELS, StepCoefficients
from simulator.config import EngineConfig, engine_config
from simulator.refine import simulate
from simulator.runs import read_runs
from simulator.steady import Load as Steady
from simulator.steptime import StepTimer
from simulator.tokens import BLOCK_TOKENS
from tests.engine.checks import Check
from tests.engine.loads import Load
from tests.engine.servers import BLOCK, BLOCKS, CONTEXT

SHAPE, GPU = "Llama-3.1-8B", "h100_sxm"
"""The calibration's starting point: there is none for a random model on a CPU."""
DOUBT: Final = 5.0
"""Hence how little it is believed."""
ROUNDS: Final = 3
"""Each load is measured so often, and the median taken: a machine's hiccup is in one of them."""
CALIBRATION: Final = tuple(
    Load(prompt=prompt, output=output, rate=rate)
    for prompt, output, rates in ((128, 128, (2.0, 5.0, 8.0)), (384, 64, (2.0, 5.0, 8.0)), (1024, 64, (1.5, 3.0, 5.0)))
    for rate in rates
)
"""What the simulator is fitted to: three lengths of prompts, for their cost is no straight line."""
PREDICTION: Final = tuple(Load(prompt=512, output=96, rate=rate) for rate in (3.0, 5.0, 7.0))
"""What it then predicts: other lengths, other rates."""
REFERENCE: Final = Load(prompt=256, output=64, rate=0.0, requests=12, alone=True)
"""Runs before and after each load and tells how fast the machine is just then: nothing waits in it."""
BARS: Final = {"ttft": 15.0, "e2e": 10.0}
"""Largest median errors that the project promises, per cent."""

_NOTE: Final = (
    "A shared machine is now faster, now slower, so a reference (256+64 tokens, one by one) runs before and after each "
    "load. A load met on a machine slower by a factor is the same as that load times the factor on the usual one, with "
    "latencies divided by it: so each is stated, rate and all. Figures are medians over the rounds; the spread is half "
    "of what lies between the highest round and the lowest. The engine has a core of its own."
)
UNEVEN: Final = (
    " **The rounds of the same load differ by more than the limit: this machine was too uneven to tell an error of the "
    "simulator from its own.**"
)
"""Said where the measurement itself is less certain than what is promised; the verdict stays."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Of one load in one round, seconds."""

    ttft: float
    e2e: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """Every load once, in an order of its own."""

    order: Sequence[int]
    """Indices of the loads as they were run."""
    loads: Sequence[Latency]
    """In that order."""
    references: Sequence[Latency]
    """One more: before, between and after them."""


def read_round(order: Sequence[int], results: Sequence[Path]) -> Round:
    """Args:
    order: of the loads.
    results: of ``vllm bench serve``, as :func:`with_references` arranges them.
    """
    found = [median_latency(path) for path in results]
    return Round(order=order, loads=found[1::2], references=found[::2])


def shuffled(count: int, number: int) -> list[int]:
    """The order of the loads in a round: another one each time, so that none always runs on a warm machine."""
    order = list(range(count))
    random.Random(number).shuffle(order)
    return order


def with_references(loads: Sequence[Load]) -> list[Load]:
    """The reference before, between and after them."""
    return [REFERENCE, *(each for load in loads for each in (load, REFERENCE))]


def simulator_error(rounds: Sequence[Round], folder: Path) -> Check:
    """Calibrated on some loads by ``fleet sim calibrate``, it predicts the others."""
    loads = (*CALIBRATION, *PREDICTION)
    rows = measured_rows(loads, rounds)
    paces = [pace for one in paces_of(rounds) for pace in one]
    measured, wanted = rows[: len(CALIBRATION)], rows[len(CALIBRATION) :]
    found = calibrated(measured, folder)
    predicted = [_predicted(load, row, config(timer_of(found))) for load, row in zip(PREDICTION, wanted, strict=True)]
    errors = {name: median(abs(row[f"{name}_error_pct"]) for row in predicted) for name in BARS}
    spread = {name: round(median(row[f"{name}_spread_pct"] for row in rows), 1) for name in BARS}
    return Check(
        name="simulator_error", ok=all(errors[name] <= limit for name, limit in BARS.items()),
        promise="calibrated on one set of loads it predicts another within 15 % (TTFT) and 10 % (E2E), medians",
        figures={"median_error_pct": errors, "limit_pct": BARS, "rounds": len(rounds), "spread_of_rounds_pct": spread,
                 "machine_pace": {"least": round(min(paces), 2), "most": round(max(paces), 2)},
                 "calibration": found["error_pct"], "factors": found["factors"], "ingress": found["ingress"],
                 "calibrated_on": measured, "predicted": predicted},
        note=_NOTE + ("" if all(spread[name] <= limit for name, limit in BARS.items()) else UNEVEN),
    )  # fmt: skip


def calibrated(rows: Sequence[Mapping[str, Any]], folder: Path) -> dict[str, Any]:
    """What ``fleet sim calibrate`` makes of those runs."""
    runs, fit = folder / "runs.csv", folder / "fit.json"
    columns = ("rate_rps", "prompt_tokens", "output_tokens", "ttft_ms", "e2e_ms")
    with runs.open("w", encoding="utf-8", newline="") as out:
        writer = csv.DictWriter(out, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    command = [sys.executable, "-m", "fleet.cli", "sim", "calibrate", str(runs), "--model", SHAPE, "--gpu", GPU, "--tp",
               "1", "--doubt", str(DOUBT), "--out", str(fit)]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    found: dict[str, Any] = json.loads(fit.read_text(encoding="utf-8"))
    return found


def timer_of(found: Mapping[str, Any]) -> StepTimer:
    """The step times of a calibration's result."""
    way = found["ingress"]
    return StepTimer(
        coefficients=StepCoefficients(**found["coefficients"]), layers=MODELS[SHAPE].layers, source="fitted",
        host_s=way["host_ms"] / 1000, steps_ahead=way["steps_ahead"], nominal_batch=way["batch"],
        nominal_context=way["context"],
    )  # fmt: skip


def config(timer: StepTimer) -> EngineConfig:
    """The servers' limits."""
    return replace(engine_config(SHAPE, GPU), timer=timer, blocks=BLOCKS * BLOCK // BLOCK_TOKENS, max_num_seqs=32,
                   max_num_batched_tokens=2048, max_model_len=CONTEXT)  # fmt: skip


def median_latency(result: Path) -> Latency:
    """Medians of one run's requests, seconds."""
    runs = read_runs(result)
    return Latency(ttft=median(run.ttft_s for run in runs), e2e=median(run.e2e_s for run in runs))


def paces_of(rounds: Sequence[Round]) -> list[list[float]]:
    """How many times longer than usual the machine took, for each round and load in the order of loads."""
    usual = median(one.e2e for each in rounds for one in each.references)
    found = []
    for each in rounds:
        around = [math.sqrt(one.e2e * other.e2e) / usual for one, other in pairwise(each.references)]
        found.append([pace for _, pace in sorted(zip(each.order, around, strict=True))])
    return found


def measured_rows(loads: Sequence[Load], rounds: Sequence[Round]) -> list[dict[str, Any]]:
    """One row a load: medians over the rounds, each stated for the machine at its usual pace.

    On a machine that takes ``pace`` times longer for everything, requests that come at a rate are to it what requests
    at ``rate * pace`` are to the usual one, and all its latencies are ``pace`` times longer.
    """
    paces, rows = paces_of(rounds), []
    for index, load in enumerate(loads):
        pace = [each[index] for each in paces]
        row: dict[str, Any] = {"load": load.name, "rate_rps": round(load.rate * median(pace), 3),
                               "prompt_tokens": load.prompt, "output_tokens": load.output}  # fmt: skip
        for name in BARS:
            raw = [float(getattr(each.loads[list(each.order).index(index)], name)) for each in rounds]
            values = [one / slow for one, slow in zip(raw, pace, strict=True)]
            middle = median(values)
            row[f"{name}_ms"] = round(1000 * middle, 2)
            row[f"{name}_spread_pct"] = round(100 * (max(values) - min(values)) / 2 / middle, 1)
            row[f"{name}_rounds_ms"] = [round(1000 * one, 2) for one in raw]
        rows.append(row | {"pace_rounds": [round(one, 3) for one in pace]})
    return rows


def _predicted(load: Load, row: Mapping[str, Any], engine: EngineConfig) -> dict[str, Any]:
    steady = Steady(rate_rps=row["rate_rps"], prompt_tokens=load.prompt, output_tokens=load.output)
    found = {"load": row["load"]}
    for name, seconds in zip(BARS, simulate(steady, engine), strict=True):
        found |= {
            f"{name}_ms": row[f"{name}_ms"], f"{name}_simulated_ms": round(1000 * seconds, 2),
            f"{name}_error_pct": round(100 * (1000 * seconds / row[f"{name}_ms"] - 1), 1),
        }  # fmt: skip
    return found
