"""Loads by ``vllm bench serve``, and vLLM's own view of rendered flags."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.engine.checks import Check
from tests.engine.servers import ENVIRONMENT, MODEL


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Poisson arrivals of requests, lengths alike or drawn evenly around the given ones."""

    prompt: int
    output: int
    rate: float
    requests: int = 0
    """0: fifteen seconds, and 60 at least."""
    spread: float = 0.0
    """Lengths differ by up to this share either way."""
    alone: bool = False
    """Each is sent when the one before is answered; the rate means nothing then."""

    @property
    def name(self) -> str:
        """In words."""
        how = "one by one" if self.alone else f"{self.rate:g} a second"
        return f"{self.prompt}+{self.output} tokens, {how}"

    @property
    def count(self) -> int:
        """Of requests."""
        return self.requests or max(60, round(self.rate * 15))


MIXED: Final = 4 * tuple(Load(prompt=512, output=64, rate=rate, requests=round(12 * rate), spread=0.9)
                         for rate in (2.0, 4.0, 6.0))  # fmt: skip
"""For the predictor: short and long prompts, idle and busy, over and over, so that a split by time has all of it on
both sides."""


def serve(vllm: Path, url: str, model: Path, loads: Sequence[Load], folder: Path, *, first_seed: int = 1) -> list[Path]:
    """Each load by ``vllm bench serve``, one after another; their detailed results, in a folder that is made."""
    folder.mkdir(parents=True)
    results = [folder / f"{number} {load.name}.json" for number, load in enumerate(loads)]
    runs = [
        ["--backend", "openai", "--base-url", url, "--model", MODEL, "--served-model-name", MODEL, "--tokenizer",
         str(model), "--dataset-name", "random", "--random-input-len", str(load.prompt), "--random-output-len",
         str(load.output), "--random-range-ratio", f"{load.spread:g}", "--num-prompts", str(load.count),
         *_pacing(load), "--seed", str(seed), "--ignore-eos", "--disable-tqdm", "--num-warmups", "3", "--save-result",
         "--save-detailed", "--result-filename", str(out)]
        for seed, (load, out) in enumerate(zip(loads, results, strict=True), first_seed)
    ]  # fmt: skip
    script = Path(__file__).parent / "bench_serve.py"
    with (folder / "log").open("wb") as log:
        subprocess.run([str(vllm.parent / "python"), str(script)], input=json.dumps(runs).encode(), check=True,
                       stdout=log, stderr=log, cwd=folder, timeout=1800, env={**os.environ, **ENVIRONMENT})  # fmt: skip
    return results


def _pacing(load: Load) -> Sequence[str]:
    if load.alone:
        return "--request-rate", "inf", "--max-concurrency", "1"
    return "--request-rate", f"{load.rate:g}"


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
