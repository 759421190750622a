"""Which prior a variant's law starts from: calibrated coefficients, what its requests taught, or an estimate. Pure.

A fitted law takes the place of an estimate once it can be believed, and stays: the correction by Little's law goes on
from it, and a predictor that falls silent afterwards moves no replica. Another fit takes its place when many more
requests or a higher load stand behind it, or after a day.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Final

from fleet.types import FittedLaw, Role, VariantSpec
from wva.slo import misses
from wva.slo.forecast import in_units
from wva.slo.heard import Heard
from wva.slo.law import Correction, Law, first, law
from wva.slo.mix import Cost, Mix, calibrated, cost
from wva.slo.state import GroupMemory, Tally, VariantMemory
from wva.types import Policy, VariantView

ROWS: Final = 100
"""Fewest requests of the variant behind a law that is believed."""
ERROR: Final = 0.4
"""Largest error on newer requests; the predictor's usual one is about 0.2."""
FRESH_S: Final = 86_400.0
"""A fit older than this says little: engines and traffic change."""
MORE_ROWS: Final = 4.0
"""So many times the requests of the law that is held make a better one."""
MORE_LOAD: Final = 1.5
"""So does so many times the load."""


def believed(told: FittedLaw | None, now_s: float) -> bool:
    """Whether a law may stand for a variant: finite and positive, enough requests, small error, fresh."""
    if told is None:
        return False
    values = [getattr(told, field.name) for field in fields(told)]
    if not all(isinstance(value, int | float) and 0.0 <= value < math.inf for value in values):
        return False
    works = told.step_s > 0.0 and told.prompt_token_s > 0.0 and told.output_tokens > 0.0
    return works and told.rows >= ROWS and told.error <= ERROR and abs(now_s - told.fitted_at_s) <= FRESH_S


def costs(views: Sequence[VariantView], memory: GroupMemory, mix: Mix) -> dict[str, Cost]:
    """What a request costs each variant, by the prior that it has."""
    return {view.spec.name: cost(view.spec, mix, held(memory, view.spec.name)) for view in views}


def held(memory: GroupMemory, name: str) -> FittedLaw | None:
    """The fitted law that a variant's correction goes on from."""
    known = memory.variants.get(name)
    return known.fitted if known else None


def law_of(spec: VariantSpec, heard: Heard, own: Cost, correction: Correction, *, mix: Mix, rules: Policy) -> Law:
    """The variant's law for the present mix under its targets."""
    if spec.role is Role.PREFILL:
        mix = replace(mix, output=1.0)
    return law(
        own, correction, mix, ttft_s=spec.slo_ttft_s or rules.slo_ttft_s, tpot_s=spec.slo_tpot_s or rules.slo_tpot_s,
        max_running=heard.max_running, kv_tokens=heard.kv_tokens,
    )  # fmt: skip


def adopted(
    views: Sequence[VariantView], base: VariantSpec, heard: Mapping[str, Heard], memory: GroupMemory,
    told: Mapping[str, FittedLaw], *, mix: Mix, now_s: float, rules: Policy,
) -> GroupMemory:  # fmt: skip
    """The memory with the fitted laws that are believed from now on.

    Args:
        base: in whose work demand is remembered.
    """
    if not told:
        return memory
    found = dict(memory.variants)
    for view in views:
        spec, new, before = view.spec, told.get(view.spec.name), found.get(view.spec.name)
        if new is None or (before and before.fitted and not _better(new, before.fitted)):
            continue
        if not calibrated(spec) and believed(new, now_s):
            found[spec.name] = _begun(spec, heard[spec.name], before, new, mix=mix, rules=rules)
    if found == memory.variants:
        return memory
    new_memory = replace(memory, variants=found)
    old_s, new_s = (cost(base, mix, held(one, base.name)).work_s for one in (memory, new_memory))
    level = memory.level and replace(memory.level, work=memory.level.work * new_s / old_s)
    return replace(new_memory, level=level, forecast=in_units(memory.forecast, new_s / old_s))


def _better(new: FittedLaw, old: FittedLaw) -> bool:
    more = new.rows >= MORE_ROWS * old.rows or new.in_flight_most >= MORE_LOAD * old.in_flight_most
    return more or new.fitted_at_s - old.fitted_at_s >= FRESH_S


def _begun(
    spec: VariantSpec, heard: Heard, before: VariantMemory | None, new: FittedLaw, *, mix: Mix, rules: Policy
) -> VariantMemory:  # fmt: skip
    """The variant's memory from the new law on: corrected by nothing yet, misses where they were seen."""
    correction = first(True, new.error)
    if before is None:
        return VariantMemory(correction=correction, fitted=new)
    correction = replace(correction, kv_per_request=before.correction.kv_per_request)
    old_law = law_of(spec, heard, cost(spec, mix, before.fitted), before.correction, mix=mix, rules=rules)
    new_law = law_of(spec, heard, cost(spec, mix, new), correction, mix=mix, rules=rules)
    return replace(before, correction=correction, fitted=new,
                   tallies=_moved(before.tallies, old_law.level / new_law.level))  # fmt: skip


def _moved(tallies: Sequence[Tally], factor: float) -> tuple[Tally, ...]:
    """Tallies at levels that are so many times what they were."""
    counts: dict[int, tuple[float, float]] = {}
    for one in tallies:
        column = misses.column(float(misses.LEVELS[one.column]) * factor)
        good, missed = counts.get(column, (0.0, 0.0))
        counts[column] = good + one.good, missed + one.missed
    return tuple(Tally(column=column, good=good, missed=missed) for column, (good, missed) in sorted(counts.items()))
