"""Which runs of a file to fit to, and the fit in words and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from fleet.errors import ConfigError
from fleet.hardware import GPUS, MODELS, Precision, StepCoefficients
from simulator.calibrate import FACTORS, Errors, PairFit, Run
from simulator.config import engine_config
from simulator.refine import ConfigOf, fit_simulated
from simulator.roofline import coefficients_for
from simulator.runs import precision_of, read_runs

_DIGITS = 4
_Pair = tuple[str, str, int, Precision]
_Given = tuple[str | None, str | None, int | None, Precision | None]


def fit_files(
    files: Sequence[Path], *, model: str | None, gpu: str | None, tensor_parallel: int | None, precision: str | None,
    cached_share: float, doubt: float = 1.0,
) -> tuple[dict[str, Any], str]:  # fmt: skip
    """The fit of one pair of model and GPU to the runs of ``files``: as JSON, and as text.

    Raises: ConfigError, one line, for bad files or when it is not clear which pair is meant.
    """
    runs = [run for file in files for run in read_runs(file, cached_share=cached_share)]
    pair, chosen = _choose(runs, (model, gpu, tensor_parallel, precision_of(precision) if precision else None))
    prior, source = coefficients_for(*pair)
    found = fit_simulated(chosen, prior, MODELS[pair[0]].layers, _engine(pair, chosen), doubt=doubt)
    result = _result(found, pair, source)
    return result, _text(found, result)


def _engine(pair: _Pair, runs: Sequence[Run]) -> ConfigOf:
    """That pair's engine, with the runs' limit on a step's tokens where they name one.

    Raises: ConfigError when the weights do not fit the GPUs.
    """
    model, gpu, count, precision = pair
    limit = next((run.max_num_batched_tokens for run in runs if run.max_num_batched_tokens), None)
    config = engine_config(model, gpu, count, precision=precision, max_num_batched_tokens=limit)
    return lambda timer: replace(config, timer=timer)


def _choose(runs: Sequence[Run], given: _Given) -> tuple[_Pair, list[Run]]:
    """The one pair to fit, and its runs.

    Raises: ConfigError when it is not clear which, or there are none.
    """
    filled = [_fill(run, *given) for run in runs]
    kept = [run for run in filled if _agrees(run, given)]
    pairs = sorted({_pair(run) for run in kept})
    listed = "; ".join(" ".join(map(str, pair)) for pair in sorted({_pair(run) for run in filled}))
    if not pairs:
        raise ConfigError("no run of that model and GPU", limit=listed, next_step="Choose one of those.")
    if len(pairs) > 1:
        raise ConfigError(f"runs of {len(pairs)} pairs of model and GPU", limit=listed,
                          next_step="Choose one with --model, --gpu, --tp and --precision.")  # fmt: skip
    if not pairs[0][0] or not pairs[0][1]:
        lacking = "--model" if not pairs[0][0] else "--gpu"
        known = ", ".join(sorted(MODELS if lacking == "--model" else GPUS))
        raise ConfigError(f"the runs do not name their {lacking[2:]}", limit=known, next_step=f"Give {lacking}.")
    return pairs[0], kept


def _pair(run: Run) -> _Pair:
    return run.model, run.gpu, run.tensor_parallel, run.precision


def _fill(run: Run, model: str | None, gpu: str | None, tp: int | None, precision: Precision | None) -> Run:
    """What the file leaves open, as the options say."""
    if run.gpu:
        return run if run.model else replace(run, model=model or "")
    return replace(run, model=run.model or model or "", gpu=gpu or "", tensor_parallel=tp or run.tensor_parallel,
                   precision=precision or run.precision)  # fmt: skip


def _agrees(run: Run, given: _Given) -> bool:
    return all(wanted in (None, have) for wanted, have in zip(given, _pair(run), strict=True))


def _result(found: PairFit, pair: _Pair, prior_source: str) -> dict[str, Any]:
    model, gpu, count, precision = pair
    return {
        "model": model, "gpu": gpu, "tp": count, "precision": precision, "source": "fitted", "runs": found.runs,
        "coefficients": {name: _short(value) for name, value in asdict(found.coefficients).items()},
        "ingress": {"host_ms": _short(1000 * found.timer.host_s), "steps_ahead": _short(found.timer.steps_ahead),
                    "batch": _short(found.timer.nominal_batch), "context": _short(found.timer.nominal_context)},
        "prior": prior_source, "factors": {name: round(found.factors[name], _DIGITS) for name in FACTORS},
        "error_pct": {
            "prior": _rounded(found.prior), "in_sample": _rounded(found.in_sample),
            "leave_one_run_out": _rounded(found.left_out) if found.left_out else None,
        },
    }  # fmt: skip


def _short(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")


def _rounded(errors: Errors) -> dict[str, float]:
    return {name.removesuffix("_pct"): round(value, 2) for name, value in asdict(errors).items()}


def _text(found: PairFit, result: dict[str, Any]) -> str:
    lines = [
        f"{result['model']} on {result['tp']} x {result['gpu']}, {result['precision']}: {found.runs} runs, "
        f"prior from the {result['prior']}",
        "factors on the prior: " + ", ".join(f"{name} {found.factors[name]:.3g}" for name in FACTORS),
        "median error, %            E2E     ITL    TTFT",
        _errors_line("prior", found.prior),
        _errors_line("fitted, in sample", found.in_sample),
        _errors_line("fitted, run left out", found.left_out),
        f"before the scheduler: {1000 * found.timer.host_s:.3g} ms and {found.timer.steps_ahead:.3g} steps of "
        f"{found.timer.nominal_batch:.3g} sequences",
        "for COEFFICIENTS in fleet/hardware.py:",
        f'    ("{result["model"]}", "{result["gpu"]}", {result["tp"]}): {_line(found.coefficients)},',
    ]  # fmt: skip
    return "\n".join(lines)


def _errors_line(what: str, errors: Errors | None) -> str:
    if errors is None:
        return f"  {what:<21} -       -       -   (one run)"
    return f"  {what:<21}{errors.e2e_pct:7.1f} {errors.itl_pct:7.1f} {errors.ttft_pct:7.1f}"


def _line(coefficients: StepCoefficients) -> str:
    values = ", ".join(f"{name}={value:.{_DIGITS}g}" for name, value in asdict(coefficients).items())
    return f"StepCoefficients({values})"
