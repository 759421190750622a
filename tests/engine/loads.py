"""Loads by ``vllm bench serve``, the predictor judged on what the router recorded, and the simulator calibrated."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, median
from typing import Any, Final

from fleet.hardware import MODELS, StepCoefficients
from simulator.calibrate import Run
from simulator.cluster import Arrival, Cluster, round_robin
from simulator.config import engine_config
from simulator.engine import Engine
from simulator.runs import read_runs
from simulator.sequence import EngineRequest
from simulator.steptime import StepTimer
from simulator.tokens import BLOCK_TOKENS
from tests.engine.checks import Check
from tests.engine.servers import BLOCK, BLOCKS, CONTEXT, ENVIRONMENT, MODEL

SHAPE, GPU = "Llama-3.1-8B", "h100_sxm"
"""The calibration's starting point: there is none for a random model on a CPU."""
BARS: Final = {"ttft": 15.0, "e2e": 10.0}
"""Largest median errors that the project promises, per cent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Poisson arrivals of requests that all look alike."""

    prompt: int
    output: int
    rate: float
    seconds: float = 30.0

    @property
    def name(self) -> str:
        return f"{self.prompt}+{self.output} tokens, {self.rate:g} a second"

    @property
    def requests(self) -> int:
        return max(30, round(self.rate * self.seconds))


CALIBRATION: Final = tuple(Load(prompt=prompt, output=output, rate=rate)
                           for prompt, output in ((128, 128), (1024, 64)) for rate in (2.0, 4.0, 8.0))  # fmt: skip
"""What the simulator is fitted to."""
PREDICTION: Final = tuple(Load(prompt=512, output=96, rate=rate) for rate in (3.0, 5.0, 7.0))
"""What it then predicts: other lengths, other rates."""


def serve(vllm: Path, url: str, model: Path, loads: Sequence[Load], folder: Path) -> list[Path]:
    """Each load by ``vllm bench serve``, one after another; their detailed results, in a folder that is made."""
    folder.mkdir()
    results = [folder / f"{load.name}.json" for load in loads]
    runs = [
        ["--backend", "openai", "--base-url", url, "--model", MODEL, "--served-model-name", MODEL, "--tokenizer",
         str(model), "--dataset-name", "random", "--random-input-len", str(load.prompt), "--random-output-len",
         str(load.output), "--random-range-ratio", "0", "--num-prompts", str(load.requests), "--request-rate",
         f"{load.rate:g}", "--seed", str(seed), "--ignore-eos", "--disable-tqdm", "--num-warmups", "3", "--save-result",
         "--save-detailed", "--result-filename", str(out)]
        for seed, (load, out) in enumerate(zip(loads, results, strict=True), 1)
    ]  # fmt: skip
    script = Path(__file__).parent / "bench_serve.py"
    with (folder / "log").open("wb") as log:
        subprocess.run([str(vllm.parent / "python"), str(script)], input=json.dumps(runs).encode(), check=True,
                       stdout=log, stderr=log, cwd=folder, timeout=1800, env={**os.environ, **ENVIRONMENT})  # fmt: skip
    return results


# ---- (f) the predictor


def predictor_error(history_url: str) -> Check:
    """The error of our predictor on the newest 40 % of what the router recorded of real requests."""
    done = subprocess.run([sys.executable, "-m", "fleet.cli", "predictor", "evaluate", "--history-url", history_url,
                           "--json"], capture_output=True, text=True, check=True, timeout=300)  # fmt: skip
    points = [one for one in json.loads(done.stdout)["curve"] if one["method"] == "ours" and one["regime"] == "all"]
    largest = max(one["n"] for one in points)
    scores = {one["target"]: one["score"] for one in points if one["n"] == largest}
    figures = {"trained_on": largest, "judged_on": scores["ttft"]["n"]} | {
        f"{target}_{name}": round(100 * score[key], 1)
        for target, score in scores.items()
        for name, key in (("mape_pct", "mape"), ("median_pct", "median_ape"), ("coverage_of_90_pct", "coverage"))
    }  # fmt: skip
    return Check(
        name="predictor_error", promise="stated: TTFT and TPOT error on real latencies", ok=True, figures=figures
    )


# ---- (g) the simulator


def simulator_error(results: Sequence[Path], predicted: Sequence[Path], folder: Path) -> Check:
    """Calibrated on some loads by ``fleet sim calibrate``, it predicts others."""
    fit = folder / "fit.json"
    command = [sys.executable, "-m", "fleet.cli", "sim", "calibrate", *map(str, results), "--model", SHAPE,
               "--gpu", GPU, "--tp", "1", "--out", str(fit)]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    found = json.loads(fit.read_text(encoding="utf-8"))
    timer = StepTimer(coefficients=StepCoefficients(**found["coefficients"]), layers=MODELS[SHAPE].layers,
                      source="fitted")  # fmt: skip
    rows = []
    for path in predicted:
        (run,) = read_runs(path)
        ttft_s, e2e_s = simulated(run, timer, seeds=range(5))
        rows.append({
            "load": path.stem, "ttft_ms": round(1000 * run.ttft_s, 2), "ttft_simulated_ms": round(1000 * ttft_s, 2),
            "e2e_ms": round(1000 * run.e2e_s, 1), "e2e_simulated_ms": round(1000 * e2e_s, 1),
            "ttft_error_pct": round(100 * (ttft_s / run.ttft_s - 1), 1),
            "e2e_error_pct": round(100 * (e2e_s / run.e2e_s - 1), 1)})  # fmt: skip
    errors = {name: median(abs(row[f"{name}_error_pct"]) for row in rows) for name in BARS}
    return Check(
        name="simulator_error", ok=all(errors[name] <= limit for name, limit in BARS.items()),
        promise="calibrated on one set of loads it predicts another within 15 % (TTFT) and 10 % (E2E), medians",
        figures={"median_error_pct": errors, "limit_pct": BARS, "calibration": found["error_pct"],
                 "factors": found["factors"], "predicted": rows},
    )  # fmt: skip


def simulated(run: Run, timer: StepTimer, *, seeds: Sequence[int]) -> tuple[float, float]:
    """Mean TTFT and E2E of one engine in virtual time under a measured run's load."""
    config = replace(engine_config(SHAPE, GPU), timer=timer, blocks=BLOCKS * BLOCK // BLOCK_TOKENS, max_num_seqs=32,
                     max_num_batched_tokens=2048, max_model_len=CONTEXT)  # fmt: skip
    load, outcomes = run.load, []
    for seed in seeds:
        rng, at_s, arrivals = random.Random(seed), 0.0, []
        for number in range(200):
            at_s += rng.expovariate(load.rate_rps)
            request = EngineRequest(
                request_id=f"{seed}-{number}", prompt_tokens=round(load.prompt_tokens),
                output_tokens=round(load.output_tokens), block_hashes=_hashes(number, load.prompt_tokens))  # fmt: skip
            arrivals.append(Arrival(at_s=at_s, request=request))
        outcomes += Cluster([Engine(config, ingress_s=timer.ingress_s)], round_robin()).run(arrivals)
    return fmean(one.ttft_s for one in outcomes), fmean(one.e2e_s for one in outcomes)


def _hashes(number: int, prompt_tokens: float) -> tuple[int, ...]:
    """Blocks that no other prompt has."""
    return tuple((number + 1 << 20) + block for block in range(int(prompt_tokens) // BLOCK_TOKENS))


# ---- (h) flags of rendered manifests


def rendered_flags(vllm: Path, lines: dict[str, list[str]]) -> Check:
    """vLLM's own parser takes every command line that the planner renders."""
    script = Path(__file__).parent / "parse_flags.py"
    done = subprocess.run([str(vllm.parent / "python"), str(script)], input=json.dumps(lines), capture_output=True,
                          text=True, check=True, timeout=300, env={**os.environ, **ENVIRONMENT})  # fmt: skip
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    refused = {name: what for name, what in found.items() if what}
    flags = sorted({word for words in lines.values() for word in words if word.startswith("--")})
    return Check(name="rendered_flags", promise="vLLM's own parser accepts every rendered command line", ok=not refused,
                 figures={"command_lines": len(lines), "flags": flags, "refused": refused})  # fmt: skip


Tell = Callable[[str], object]
