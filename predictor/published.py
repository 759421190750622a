"""What a fitted model says of each variant's engine step, for those who reckon with steps: the autoscaler. Pure."""

from __future__ import annotations

from statistics import median

from fleet.types import FittedLaw
from predictor import steplaw
from predictor.model import LatencyModel, Law


def fitted_laws(model: LatencyModel) -> dict[str, FittedLaw]:
    """Variant -> its law and how far to believe it; empty for a model without samples, or one that was never scored.

    A variant's law is that of its usual endpoint: the middle one by scale.
    """
    errors = [law.score.mape for law in (model.ttft, model.tpot)]
    if model.cold or None in errors:
        return {}
    error = max(one for one in errors if one is not None)
    found = {}
    for name, rows in model.taught.items():
        ttft, tpot = (law.coefficients("", name) * _usual(law, name) for law in (model.ttft, model.tpot))
        step = steplaw.of_coefficients(ttft, tpot)
        found[name] = FittedLaw(
            step_s=step.step_s, request_s=step.request_s, context_token_s=step.context_token_s,
            prompt_token_s=step.prompt_token_s, prompt_square_s=step.prompt_square_s,
            uncached_tokens=rows.uncached_tokens, output_tokens=rows.output_tokens, rows=rows.rows, error=error,
            in_flight_most=rows.in_flight_most, fitted_at_s=model.fitted_at_s,
        )  # fmt: skip
    return found


def _usual(law: Law, variant: str) -> float:
    """The middle scale of a variant's endpoints."""
    scales = [scale for (_, name), scale in law.scales.items() if name == variant]
    return median(scales) if scales else 1.0
