"""The model before the first sample: latencies that hardware data expects of each variant. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from statistics import NormalDist
from typing import Final

import numpy as np

from fleet.errors import ConfigError
from fleet.hardware import GPUS, MODELS
from fleet.types import VariantSpec
from predictor import steplaw
from predictor.features import WIDTH
from predictor.intervals import GROUPS, LEVELS
from predictor.model import LatencyModel, Law, build
from predictor.physics import Prior
from predictor.steplaw import Mix, StepLaw

_MIX: Final = Mix(uncached_tokens=1000.0)
"""A prompt of a thousand tokens, and an answer of the usual length, until samples tell."""
_SPREAD: Final = 0.5
"""Standard deviation of the log error that is reckoned with; a fitted law has about 0.25."""


def laws_of(specs: Iterable[VariantSpec]) -> dict[str, StepLaw]:
    """Variant -> what hardware data says of a step, for those whose model and GPU are in the table."""
    found = {spec.name: steplaw.of_hardware(spec.model, spec.accelerator, spec.accelerator_count) for spec in specs}
    return {name: law for name, law in found.items() if law is not None}


def law_named(text: str) -> StepLaw:
    """The law of ``MODEL:GPU:COUNT``, for example ``Llama-3.1-8B:h100_sxm:1``.

    Raises: ConfigError when hardware data has no such pair.
    """
    model, gpu, count = ([*text.split(":"), "", ""])[:3]
    law = steplaw.of_hardware(model, gpu, int(count)) if count.isdigit() else None
    if law is None:
        known = f"{', '.join(MODELS)} on {', '.join(GPUS)}"
        raise ConfigError(f"no hardware data for {text!r}", where="prior", limit=known,
                          next_step="Write MODEL:GPU:COUNT, for example Llama-3.1-8B:h100_sxm:1.")  # fmt: skip
    return law


def prior_model(variants: Mapping[str, StepLaw], *, now_s: float, shared: StepLaw | None = None) -> LatencyModel:
    """A model that no sample stands behind; its rung says so and its intervals are wide.

    Args:
        variants: variant -> what a step costs there.
        now_s: Unix time to write into it.
        shared: for variants not named; default: the typical engine.
    """
    usual = steplaw.typical() if shared is None else shared
    ttft = {name: steplaw.ttft_prior(law) for name, law in variants.items()}
    tpot = {name: steplaw.tpot_prior(law, _MIX) for name, law in variants.items()}
    return build(
        ttft=_law(steplaw.ttft_prior(usual), ttft), tpot=_law(steplaw.tpot_prior(usual, _MIX), tpot),
        ranges=np.array([np.zeros(WIDTH), np.full(WIDTH, 1e8)]), capacities={}, fitted_at_s=now_s,
    )  # fmt: skip


def _law(shared: Prior, variants: Mapping[str, Prior]) -> Law:
    quantiles = np.exp(_SPREAD * np.array([NormalDist().inv_cdf(level) for level in LEVELS]))
    return Law(shared=shared.proportions, variants={name: one.proportions for name, one in variants.items()},
               scales={}, quantiles=np.tile(quantiles, (len(GROUPS), 1)), samples=0)  # fmt: skip
