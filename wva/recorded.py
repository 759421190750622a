"""What the history keeps of a decision's inputs: names of samples, and the variant's spec, there and back. Pure.

A spec's numbers stand among the inputs by name, the same whichever analyzer decided, so that a replay and the console
know what held then.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Final

from fleet.hardware import GPUS
from fleet.types import FittedLaw, Role, VariantSpec

SINCE: Final = "since_s"
"""Of a replica: Unix time at which it entered its state."""
CREATED: Final = "created_s"
"""Unix time at which it was asked for."""
STARTING: Final = "starting"
"""1 while it starts."""
SAMPLE_AGE: Final = "sample_age_s"
"""Age of its sample at the pass; alone where the pass found no newer sample than the one before."""
STILL: Final = "still_s"
"""How long before its sample it last computed a token; not written while that is no time at all."""
ROUTER_AGE: Final = "router_age_s"
"""Age of a model's queue at the router."""
_LAW: Final = {f"law_{one.name}": one.name for one in fields(FittedLaw)}
"""Samples of a variant that tell the predictor's law of it, by name."""
_DEFAULTS: Final = VariantSpec(name="", model="", accelerator="")
_ROLES: Final = {(1.0, 1.0): Role.BOTH, (1.0, 0.0): Role.PREFILL, (0.0, 1.0): Role.DECODE}
"""Prefills, decodes."""
_FLAGS: Final = {role: flags for flags, role in _ROLES.items()}


def spec_inputs(spec: VariantSpec) -> dict[str, float | None]:
    """Everything of a spec that a decision rests on and its row does not name."""
    prefills, decodes = _FLAGS[spec.role]
    return {
        "scale_up_above": spec.saturation_threshold,
        "scale_down_below": spec.scale_down_threshold,
        "cost_per_hour": spec.cost_per_hour,
        "min_replicas": spec.min_replicas,
        "max_replicas": spec.max_replicas,
        "accelerator_count": spec.accelerator_count,
        "prefills": prefills,
        "decodes": decodes,
        "priority": spec.priority,
        "slo_ttft_s": spec.slo_ttft_s,
        "slo_tpot_s": spec.slo_tpot_s,
        "slo_objective": spec.slo_objective,
        "startup_s": spec.startup_s,
        "retention_s": spec.retention_s,
    }


def law_inputs(law: FittedLaw) -> dict[str, float]:
    """A predictor's law as samples of its variant."""
    return {name: float(getattr(law, field)) for name, field in _LAW.items()}


def law_of(samples: Mapping[str, float]) -> FittedLaw | None:
    """The law among a variant's samples; ``None`` where a part of it is missing."""
    if _LAW.keys() - samples.keys():
        return None
    told: dict[str, Any] = {field: samples[name] for name, field in _LAW.items()}
    return FittedLaw(**{**told, "rows": int(told["rows"])})


def spec_of(row: Mapping[str, Any]) -> VariantSpec:
    """The spec that a row of the table ``decisions`` was made for; rows of older versions lack some of it.

    Args:
        row: with ``variant``, ``model``, ``accelerator``, ``namespace`` and ``signals``.
    """
    given = row["signals"]

    def number(name: str, otherwise: float) -> float:
        return otherwise if given.get(name) is None else float(given[name])

    listed = GPUS[row["accelerator"]].price_per_hour if row["accelerator"] in GPUS else _DEFAULTS.cost_per_hour
    return VariantSpec(
        name=row["variant"], model=row["model"], accelerator=row["accelerator"], namespace=row["namespace"],
        accelerator_count=int(number("accelerator_count", 1)),
        role=_ROLES.get((number("prefills", 1.0), number("decodes", 1.0)), Role.BOTH),
        cost_per_hour=number("cost_per_hour", listed), min_replicas=int(number("min_replicas", 0)),
        max_replicas=int(number("max_replicas", 100)),
        saturation_threshold=number("scale_up_above", _DEFAULTS.saturation_threshold),
        scale_down_threshold=number("scale_down_below", _DEFAULTS.scale_down_threshold),
        slo_ttft_s=given.get("slo_ttft_s"), slo_tpot_s=given.get("slo_tpot_s"), priority=number("priority", 1.0),
        startup_s=given.get("startup_s"), retention_s=given.get("retention_s"),
        slo_objective=given.get("slo_objective"),
    )  # fmt: skip
