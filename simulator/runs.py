"""Reads measured runs: CSV, inference-sim's table of measurements, or results of ``vllm bench serve``.

CSV columns (``#`` begins a comment line): ``rate_rps``, ``prompt_tokens``, ``output_tokens``, ``ttft_ms`` and
``e2e_ms`` (or ``itl_ms``), all means over one steady run; optional ``run``, ``model``, ``gpu``, ``tp``, ``precision``
and ``cached_tokens`` (of the prompt, found in the prefix cache; default 0).
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fleet.errors import ConfigError
from fleet.hardware import PRECISIONS, Precision, shape_of
from simulator.calibrate import Run
from simulator.published import GPU_NAMES, WORKLOADS
from simulator.steady import Load

COLUMNS = ("rate_rps", "prompt_tokens", "output_tokens", "ttft_ms")
MEASUREMENTS = ("exp_id", "workload", "hardware", "stage_index", "e2e_mean", "itl_mean", "ttft_mean")
"""Columns by which inference-sim's table is told."""
DETAILED = ("input_lens", "output_lens", "ttfts", "itls", "duration")
"""Keys that ``vllm bench serve --save-result --save-detailed`` writes and that are needed here."""


def read_runs(path: Path, *, cached_share: float = 0.0) -> list[Run]:
    """All runs of a file; its format is told by its content.

    Args:
        path: CSV or JSON.
        cached_share: of the prompts of a vLLM benchmark, in the prefix cache (its result does not say).

    Raises: ConfigError, one line, for a file that cannot be read or holds no runs.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        what = error.strerror if isinstance(error, OSError) else "is no text"
        raise ConfigError(f"cannot be read: {what}", where=str(path), next_step="Check the path.") from None
    if text.lstrip().startswith(("{", "[")):
        return [_benchmark(path, text, cached_share)]
    return _rows(path, text)


def _rows(path: Path, text: str) -> list[Run]:
    lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip() and line[0] != "#"]
    reader = csv.DictReader(line for _, line in lines)
    header = tuple(reader.fieldnames or ())
    measurements = set(MEASUREMENTS) <= set(header)
    missing = [] if measurements else _missing(header)
    if missing:
        raise ConfigError(f"has no column {', '.join(missing)}", where=str(path),
                          limit=f"{', '.join((*COLUMNS, 'e2e_ms or itl_ms'))}",
                          next_step="See fleet sim calibrate --help.")  # fmt: skip
    runs: list[Run] = []
    for (number, _), row in zip(lines[1:], reader, strict=False):
        try:
            run = _measured(row) if measurements else _plain(row)
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"bad row: {error}", where=f"{path} line {number}") from None
        runs += [run] if run else []
    if not runs:
        raise ConfigError("holds no runs", where=str(path))
    return runs


def _missing(header: Sequence[str]) -> list[str]:
    found = [name for name in COLUMNS if name not in header]
    return found if {"e2e_ms", "itl_ms"} & set(header) else [*found, "e2e_ms"]


def _plain(row: Mapping[str, str]) -> Run:
    output, ttft_s = _number(row, "output_tokens"), _number(row, "ttft_ms") / 1000
    e2e_s = (
        _number(row, "e2e_ms") / 1000 if row.get("e2e_ms") else ttft_s + (output - 1) * _number(row, "itl_ms") / 1000
    )
    load = Load(rate_rps=_number(row, "rate_rps"), prompt_tokens=_number(row, "prompt_tokens"), output_tokens=output,
                cached_tokens=_number(row, "cached_tokens", 0.0))  # fmt: skip
    if load.cached_tokens >= load.prompt_tokens:
        raise ValueError(f"cached_tokens {load.cached_tokens:g} of a prompt of {load.prompt_tokens:g}")
    return Run(
        name=row.get("run") or f"{load.rate_rps:g}/s", load=load, ttft_s=ttft_s, e2e_s=e2e_s,
        model=_shape(row["model"]) if row.get("model") else "", gpu=row.get("gpu") or "",
        tensor_parallel=int(row.get("tp") or 1), precision=precision_of(row.get("precision") or "bf16"),
    )  # fmt: skip


def _measured(row: Mapping[str, str]) -> Run | None:
    """A stage of one of inference-sim's experiments; ``None`` for the row that sums one up."""
    stage = int(row["stage_index"])
    return measurement(row, stage) if stage >= 0 else None


def measurement(row: Mapping[str, str], stage: int) -> Run:
    """A row of inference-sim's table as a run; stage -1 is the whole experiment, its rate the mean of the stages'.

    Raises: ValueError, KeyError for a row that is none.
    """
    workload, ttft, e2e = WORKLOADS[row["workload"]], _number(row, "ttft_mean"), _number(row, "e2e_mean")
    rates = workload.stages_rps
    return Run(
        name=f"{row['exp_id']}/{stage}", load=workload.load(rates[stage] if stage >= 0 else sum(rates) / len(rates)),
        ttft_s=ttft / 1000, e2e_s=e2e / 1000, output_counted=(e2e - ttft) / _number(row, "itl_mean") + 1,
        model=_shape(row["model"]), gpu=GPU_NAMES[row["hardware"]], tensor_parallel=int(row["tp"]),
        precision="fp8" if row["precision"] == "FP8" else "bf16",
        max_num_batched_tokens=int(row["max_num_batched_tokens"]),
    )  # fmt: skip


def _number(row: Mapping[str, str], name: str, default: float | None = None) -> float:
    given = row.get(name)
    if not given and default is not None:
        return default
    try:
        value = float(given or "")
    except ValueError:
        raise ValueError(f"{name} is {given!r}, no number") from None
    if not math.isfinite(value) or value < 0:
        raise ValueError(f"{name} is {value:g}, not 0 or more")
    return value


def _shape(model: str) -> str:
    shape = shape_of(model)
    if shape is None:
        raise ValueError(f"unknown model {model!r}")
    return shape.name


def precision_of(name: str) -> Precision:
    """The precision of that name.

    Raises: ValueError for another name.
    """
    for precision in PRECISIONS:
        if precision == name.lower():
            return precision
    raise ValueError(f"precision is {name!r}, not one of {', '.join(PRECISIONS)}")


# ---- vllm bench serve


def _benchmark(path: Path, text: str, cached_share: float) -> Run:
    try:
        result = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"is no JSON: {error.msg}", where=f"{path} line {error.lineno}") from None
    missing = [key for key in DETAILED if not isinstance(result, dict) or key not in result]
    if missing:
        raise ConfigError(f"has no {', '.join(missing)}", where=str(path),
                          limit="a detailed result of vllm bench serve",
                          next_step="Run it with --save-result --save-detailed.")  # fmt: skip
    if _all_at_once(result):
        raise ConfigError("all requests were sent at once, so nothing was steady", where=str(path),
                          limit="a finite --request-rate or a --max-concurrency",
                          next_step="Run the benchmark again with one.")  # fmt: skip
    try:
        return _summed(path.stem, result, cached_share)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"is no detailed result: {error}", where=str(path)) from None


def _all_at_once(result: Mapping[str, Any]) -> bool:
    return str(result.get("request_rate", "")).lower() in {"inf", "infinity"} and not result.get("max_concurrency")


def _offered(result: Mapping[str, Any], share: float) -> float:
    """Requests a second that were sent and succeeded; 0 where the client waited for answers.

    The duration ends with the last answer, not with the last request; and sending is spread over count / rate exactly.
    """
    rate = float(result.get("request_rate") or 0.0)
    return 0.0 if result.get("max_concurrency") or math.isinf(rate) else rate * share


def _summed(name: str, result: Mapping[str, Any], cached_share: float) -> Run:
    each = list(zip(result["input_lens"], result["output_lens"], result["ttfts"], result["itls"], strict=True))
    done = [(int(i), int(o), float(ttft), math.fsum(itl)) for i, o, ttft, itl in each if o and ttft]
    seconds = float(result["duration"])
    if not done or seconds <= 0:
        raise ValueError("no request succeeded")
    prompt, output, ttft_s, rest_s = (math.fsum(column) / len(done) for column in zip(*done, strict=True))
    shape = shape_of(str(result.get("model_id") or ""))
    rate_rps = _offered(result, len(done) / len(each)) or len(done) / seconds
    load = Load(
        rate_rps=rate_rps, prompt_tokens=prompt, output_tokens=output, cached_tokens=prompt * cached_share
    )  # fmt: skip
    return Run(name=name, load=load, ttft_s=ttft_s, e2e_s=ttft_s + rest_s, model=shape.name if shape else "")
