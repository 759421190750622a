"""Latency targets of variants: their own, else of the SLO file, else of the settings, else built in. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from fleet.slo import DEFAULT_SLOS, RequestTargets, SloBook
from fleet.types import VariantSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """Where the targets of a variant without its own come from."""

    book: SloBook | None = None
    """The SLO file; ``None``: none is named."""
    ttft_s: float | None = None
    """What the settings say, for models that the file promises nothing for."""
    tpot_s: float | None = None
    objective: float | None = None
    """Share of requests, 0..1."""

    def completed(self, specs: Iterable[VariantSpec]) -> tuple[VariantSpec, ...]:
        """Specs with the targets that are known of them.

        The objective is of requests that meet both targets: the stricter of the file's two, so that both are kept.

        >>> spec = VariantSpec(name="a", model="m", accelerator="h100_sxm")
        >>> (found,) = Targets().completed([spec])
        >>> found.slo_ttft_s, found.slo_tpot_s, found.slo_objective
        (0.2, 0.1, 0.95)
        """
        return tuple(self._completed(spec) for spec in specs)

    def _completed(self, spec: VariantSpec) -> VariantSpec:
        if spec.slo_ttft_s is not None and spec.slo_tpot_s is not None and spec.slo_objective is not None:
            return spec
        told = self.book.of(spec.model).targets() if self.book else RequestTargets()
        last = DEFAULT_SLOS.of(spec.model).targets()
        return replace(
            spec,
            slo_ttft_s=_first(spec.slo_ttft_s, told.ttft_s, self.ttft_s, last.ttft_s),
            slo_tpot_s=_first(spec.slo_tpot_s, told.tpot_s, self.tpot_s, last.tpot_s),
            slo_objective=_first(spec.slo_objective, told.objective, self.objective, last.objective),
        )


def _first(*values: float | None) -> float | None:
    return next((value for value in values if value is not None), None)
