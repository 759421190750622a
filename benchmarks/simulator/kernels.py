"""The roofline against the calibrated kernel tables, each GPU and each model left out in turn. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from fleet.hardware import COEFFICIENTS, GPUS, MODELS, StepCoefficients
from simulator.calibrate import fit_kernels
from simulator.roofline import Efficiencies, estimate
from simulator.steptime import StepTimer

Key = tuple[str, str, int]
_BATCH, _CONTEXT, _CHUNK = 64, 2048, 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class Unseen:
    """Medians of absolute errors over the pairs of one GPU or model, per cent."""

    what: str
    pairs: int
    decode_pct: float
    """Of a step of 64 sequences with 2048 tokens each."""
    prefill_pct: float
    """Of a step with an 8192-token prompt alone."""
    seen_decode_pct: float
    """With the pairs in the fit."""
    seen_prefill_pct: float


def unseen() -> list[Unseen]:
    """Every GPU, then every model of the tables, predicted from the others."""
    gpus = sorted({gpu for _, gpu, _ in COEFFICIENTS})
    models = sorted({model for model, _, _ in COEFFICIENTS})
    groups = [(name, [key for key in COEFFICIENTS if name in key]) for name in (*gpus, *models)]
    everything = fit_kernels()
    return [_unseen(name, keys, everything) for name, keys in groups]


def _unseen(name: str, keys: Sequence[Key], everything: Efficiencies) -> Unseen:
    others = fit_kernels([key for key in COEFFICIENTS if key not in keys])
    return Unseen(
        what=name, pairs=len(keys), decode_pct=_error(keys, others, prefill=False),
        prefill_pct=_error(keys, others, prefill=True), seen_decode_pct=_error(keys, everything, prefill=False),
        seen_prefill_pct=_error(keys, everything, prefill=True),
    )  # fmt: skip


def _error(keys: Sequence[Key], by: Efficiencies, *, prefill: bool) -> float:
    found = []
    for model, gpu, count in keys:
        guess = estimate(MODELS[model], GPUS[gpu], count, by=by)
        known = COEFFICIENTS[model, gpu, count]
        layers = MODELS[model].layers
        found.append(abs(_step_s(guess, layers, prefill=prefill) / _step_s(known, layers, prefill=prefill) - 1) * 100)
    return median(found)


def _step_s(coefficients: StepCoefficients, layers: int, *, prefill: bool) -> float:
    timer = StepTimer(coefficients=coefficients, layers=layers)
    if prefill:
        return timer.step_s(decoding=0, context=0, prefill=_CHUNK, attention=_CHUNK * _CHUNK / 2)
    return timer.step_s(decoding=_BATCH, context=_BATCH * _CONTEXT)
