"""Fits step times to measured runs. Pure.

A run is one engine under one steady load; its mean latencies are compared with :func:`simulator.steady.steady`. The
prior (calibrated table or roofline) is kept where the runs say nothing: each parameter is a factor on its prior, its
logarithm pulled towards 0 as strongly as the prior deserves, so that nothing becomes negative and two runs are not
taken for six facts. ``fit_pair`` gives the step times of one model on one kind of GPU, and the host's part of a
request's way to the scheduler; ``fit_efficiencies`` the roofline's efficiencies from runs of several models.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares, nnls

from fleet.errors import ConfigError
from fleet.hardware import COEFFICIENTS, GPUS, MODELS, Precision, StepCoefficients
from simulator.roofline import Efficiencies, Terms, estimate, terms
from simulator.steady import Load, Steady, steady
from simulator.steptime import StepTimer

ERROR_E2E, ERROR_TTFT = 0.03, 0.06
"""Relative error expected of a measured mean."""
_FARTHEST: Final = 5.0
"""Largest logarithm of a factor."""
FACTORS = ("d0", "decode", "d_kv", "prefill", "attention", "host")
_SPREAD = np.array([0.3, 0.7, 0.3, 0.5, 0.5, 0.3])
"""Spread of each factor's logarithm around the prior."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One measured run: means over its requests."""

    name: str
    load: Load
    ttft_s: float
    e2e_s: float
    output_counted: float | None = None
    """Output tokens as the client counted them, where it counted others than the engine generated."""
    model: str = ""
    """Shape in :data:`fleet.hardware.MODELS`; may be empty where the caller knows it."""
    gpu: str = ""
    tensor_parallel: int = 1
    precision: Precision = "bf16"
    max_num_batched_tokens: int | None = None

    @property
    def itl_s(self) -> float:
        """Between tokens, of those that the engine generated."""
        return (self.e2e_s - self.ttft_s) / max(self.load.output_tokens - 1, 1.0)

    @property
    def in_flight(self) -> float:
        """Requests in the engine at a time, by Little's law."""
        return self.load.rate_rps * self.e2e_s

    @property
    def decoding(self) -> float:
        """Of those, the ones that have their first token."""
        return self.load.rate_rps * (self.e2e_s - self.ttft_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Errors:
    """Medians of absolute errors over runs, per cent."""

    e2e_pct: float
    itl_pct: float
    ttft_pct: float


@dataclass(frozen=True, slots=True)
class Beyond:
    """What a simulated engine's means are of the closed form's: queues and bursts are not in the latter."""

    ttft: float = 1.0
    e2e: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PairFit:
    """Fitted step times and how far to trust them."""

    timer: StepTimer
    factors: dict[str, float]
    """On the prior."""
    runs: int
    prior: Errors
    in_sample: Errors
    left_out: Errors | None
    """Each run predicted from the others; ``None`` with a single run."""

    @property
    def coefficients(self) -> StepCoefficients:
        """The step's."""
        return self.timer.coefficients


def fit_pair(
    runs: Sequence[Run], prior: StepCoefficients, layers: int, *, doubt: float = 1.0,
    beyond: Sequence[Beyond] | None = None,
) -> PairFit:  # fmt: skip
    """Step times of one model on one kind of GPU, and a request's way to the scheduler there.

    Args:
        runs: at least one.
        prior: where the runs say nothing.
        layers: of the model.
        doubt: the prior is believed this many times less: above 1 for hardware that it was not made for.
        beyond: by run, what :mod:`simulator.refine` found that the closed form leaves out; default: nothing.

    Raises: ConfigError without runs, or when one is no steady state.
    """
    if not runs:
        raise ConfigError("no run to fit to", next_step="Give a file with at least one row or benchmark.")
    _check(runs)
    cases = list(zip(runs, beyond or [Beyond()] * len(runs), strict=True))
    base = _nominal(StepTimer(coefficients=prior, layers=layers, source="fitted"), runs)
    factors = _factors(cases, base, doubt)
    left_out = None
    if len(runs) > 1:
        others = [_scaled(base, _factors([*cases[:index], *cases[index + 1 :]], base, doubt))
                  for index in range(len(cases))]  # fmt: skip
        pairs = zip(cases, others, strict=True)
        left_out = _errors([(run, _predict(run, timer, more)) for (run, more), timer in pairs])
    fitted = _scaled(base, factors)
    return PairFit(
        timer=fitted, factors=dict(zip(FACTORS, map(float, factors), strict=True)), runs=len(runs),
        prior=_errors([(run, _predict(run, base, more)) for run, more in cases]),
        in_sample=_errors([(run, _predict(run, fitted, more)) for run, more in cases]), left_out=left_out,
    )  # fmt: skip


def _check(runs: Sequence[Run]) -> None:
    for run in runs:
        if not 0 < run.ttft_s < run.e2e_s < math.inf or run.load.rate_rps <= 0 or run.load.output_tokens < 2:
            raise ConfigError(f"run {run.name}: {run.load.rate_rps:g} requests/s, TTFT {run.ttft_s:g} s, E2E "
                              f"{run.e2e_s:g} s, {run.load.output_tokens:g} output tokens are no steady state",
                              limit="rate above 0, 0 < TTFT < E2E, 2 output tokens or more")  # fmt: skip


def _nominal(timer: StepTimer, runs: Sequence[Run]) -> StepTimer:
    """The batch that a request finds on its way to the scheduler is that of the runs, and not one of a busy GPU."""
    return replace(
        timer,
        nominal_batch=float(np.mean([run.decoding for run in runs])),
        nominal_context=float(np.mean([run.load.prompt_tokens + run.load.output_tokens / 2 for run in runs])),
    )


def _scaled(base: StepTimer, factors: NDArray[np.float64]) -> StepTimer:
    d0, decode, kv, prefill, attention, host = map(float, factors)
    c = base.coefficients
    scaled = replace(c, d0=c.d0 * d0, d_s=c.d_s * decode, d_kv=c.d_kv * kv, p0=c.p0 * prefill, p1=c.p1 * prefill,
                     p2=c.p2 * attention)  # fmt: skip
    return replace(base, coefficients=scaled, host_s=base.host_s * host)


def _predict(run: Run, timer: StepTimer, beyond: Beyond) -> Steady:
    found = steady(timer, run.load)
    ttft_s, e2e_s = found.ttft_s * beyond.ttft, found.e2e_s * beyond.e2e
    return replace(found, ttft_s=ttft_s, e2e_s=e2e_s, itl_s=(e2e_s - ttft_s) / max(run.load.output_tokens - 1, 1.0))


_Case = tuple[Run, Beyond]


def _factors(cases: Sequence[_Case], base: StepTimer, doubt: float) -> NDArray[np.float64]:
    def residuals(logs: NDArray[np.float64]) -> list[float]:
        scaled = _scaled(base, np.exp(logs))
        found = list(logs / (doubt * _SPREAD))
        for run, beyond in cases:
            found += _residuals(run, _predict(run, scaled, beyond))
        return found

    return np.asarray(np.exp(least_squares(residuals, np.zeros(len(FACTORS)), bounds=(-_FARTHEST, _FARTHEST)).x))


def _residuals(run: Run, predicted: Steady) -> list[float]:
    return [math.log(predicted.e2e_s / run.e2e_s) / ERROR_E2E, math.log(predicted.ttft_s / run.ttft_s) / ERROR_TTFT]


def _errors(pairs: Sequence[tuple[Run, Steady]]) -> Errors:
    def median(of: Callable[[Run, Steady], float]) -> float:
        return float(np.median([abs(of(run, found)) * 100 for run, found in pairs]))

    return Errors(
        e2e_pct=median(lambda run, found: found.e2e_s / run.e2e_s - 1),
        itl_pct=median(lambda run, found: found.itl_s / run.itl_s - 1),
        ttft_pct=median(lambda run, found: found.ttft_s / run.ttft_s - 1),
    )


# ---- the roofline's efficiencies: kernel tables first, then whole engines


def fit_kernels(pairs: Sequence[tuple[str, str, int]] | None = None) -> Efficiencies:
    """Efficiencies that explain the calibrated coefficients, by least squares of the relative error.

    Args:
        pairs: keys of :data:`fleet.hardware.COEFFICIENTS` to fit to; default: all of them.
    """
    keys = list(pairs or COEFFICIENTS)
    table = [COEFFICIENTS[key] for key in keys]
    each = [terms(MODELS[model], GPUS[gpu], count) for model, gpu, count in keys]
    layers = np.array([MODELS[model].layers for model, _, _ in keys], dtype=float)
    split = np.array([count > 1 for _, _, count in keys], dtype=float)
    linear, link, weights = (_column(each, name) for name in ("linear_token", "link_token", "weights"))
    read, layer, parallel = _relative([weights, layers, layers * split], [c.d0 for c in table])
    compute, reduce = _relative([linear, link], [c.p1 for c in table])
    decode, sequence = _relative([linear, layers], [c.d_s for c in table])
    return Efficiencies(
        weights=1 / read, layer_ms=layer, parallel_layer_ms=parallel, mixture_layer_ms=0.0,
        compute=1 / compute, link=1 / max(reduce, 1e-9), decode_compute=decode, sequence_layer_ms=sequence,
        kv=float(np.median(_column(each, "kv_token") / [c.d_kv for c in table])),
        attention=float(np.median(_column(each, "attention_token") / [c.p2 for c in table])),
        prefill_layer_ms=float(np.median(np.array([c.p0 for c in table]) / layers)),
    )  # fmt: skip


def _column(each: Sequence[Terms], name: str) -> NDArray[np.float64]:
    return np.array([getattr(t, name) for t in each])


def _relative(columns: Sequence[NDArray[np.float64]], wanted: Sequence[float]) -> list[float]:
    """Non-negative weights of ``columns`` with the least squared relative error."""
    target = np.array(wanted)
    found, _ = nnls(np.column_stack(columns) / target[:, None], np.ones_like(target))
    return [float(value) for value in found]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFit:
    """Efficiencies, and the host's part of a request's way to the scheduler."""

    efficiencies: Efficiencies
    host_s: float
    steps_ahead: float


_MIXTURE_MS = 0.1
"""Where the search for a mixture's cost per layer begins: no kernel table has one."""
_ENGINE_SPREAD = np.array([0.3, 1.0, 1.0, 1.5, 0.7, 0.7, 0.5])


def fit_efficiencies(runs: Sequence[Run], kernels: Efficiencies) -> EngineFit:
    """Efficiencies that explain whole engines, starting from those of the kernels.

    Weights are read at the peak bandwidth at best. What the runs do not show (prefill, attention) stays as it was.
    """

    def made(logs: NDArray[np.float64]) -> EngineFit:
        weights, layer, parallel, mixture, decode, host, ahead = map(float, np.exp(logs))
        found = replace(kernels, weights=kernels.weights * weights, layer_ms=kernels.layer_ms * layer,
                        parallel_layer_ms=kernels.parallel_layer_ms * parallel, mixture_layer_ms=_MIXTURE_MS * mixture,
                        decode_compute=kernels.decode_compute * decode)  # fmt: skip
        return EngineFit(efficiencies=found, host_s=0.005 * host, steps_ahead=ahead)

    def residuals(logs: NDArray[np.float64]) -> list[float]:
        candidate = made(logs)
        found = list(logs / _ENGINE_SPREAD)
        for run in runs:
            found += _residuals(run, predict(run, candidate))
        return found

    highest = np.full(len(_ENGINE_SPREAD), 9.0)
    highest[0] = max(math.log(1 / kernels.weights), 1e-6)
    return made(least_squares(residuals, np.zeros(len(_ENGINE_SPREAD)), bounds=(-9.0, highest)).x)


def predict(run: Run, by: EngineFit) -> Steady:
    """The steady state of a run by the roofline alone, whether or not its pair is calibrated."""
    shape = MODELS[run.model]
    found = estimate(shape, GPUS[run.gpu], run.tensor_parallel, run.precision, by=by.efficiencies)
    timer = StepTimer(coefficients=found, layers=shape.layers, host_s=by.host_s, steps_ahead=by.steps_ahead)
    return steady(timer, run.load)
