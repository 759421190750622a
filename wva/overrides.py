"""What an operator lays over the variants' own bounds: a pause, narrower bounds, a dry run of everything. Pure.

An operator narrows what the variant's owner allows and never widens it. A paused variant stays at what is requested of
the platform; the others of its model take the load as far as their bounds let them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from fleet.errors import ConfigError
from fleet.types import Decision, Direction, FleetSnapshot, Reason, VariantSpec
from wva.types import key_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """An operator's word on one variant."""

    paused: bool = False
    min_replicas: int | None = None
    max_replicas: int | None = None
    by: str = ""
    """Who said so, as far as the console knows."""
    at_s: float = 0.0
    """When, Unix time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Overrides:
    """All of them; JSON through :mod:`wva.snapshot_file`."""

    variants: Mapping[str, Override] = field(default_factory=dict)
    """By :func:`wva.types.key_of`."""
    dry_run: bool = False
    """Every variant stays at what is requested, in what is published too; decisions tell what they would have done."""

    def with_variant(self, key: str, override: Override | None) -> Overrides:
        """With this word on a variant in place of the old one; None: without any."""
        kept = {name: one for name, one in self.variants.items() if name != key}
        return replace(self, variants=kept if override is None else {**kept, key: override})


def check(override: Override, spec: VariantSpec) -> None:
    """Refuse bounds that are none, or wider than the variant's own.

    Raises: ConfigError.
    """
    low = spec.min_replicas if override.min_replicas is None else override.min_replicas
    high = spec.max_replicas if override.max_replicas is None else override.max_replicas
    if not spec.min_replicas <= low <= high <= spec.max_replicas:
        raise ConfigError(
            f"bounds {low} to {high} do not lie in the variant's own", where=key_of(spec),
            limit=f"{spec.min_replicas} to {spec.max_replicas}",
            next_step="Narrow them, or let the owner of the variant widen its own.",
        )  # fmt: skip


def specs(snapshot: FleetSnapshot, overrides: Overrides) -> tuple[VariantSpec, ...]:
    """The snapshot's variants as the decision is to see them.

    Bounds that no longer fit the variant's own are cut to them: its owner has the last word.
    """
    return tuple(
        _bounded(entry.spec, overrides.variants.get(key_of(entry.spec)), entry.requested) for entry in snapshot.variants
    )


def _bounded(spec: VariantSpec, override: Override | None, requested: int) -> VariantSpec:
    if override is None:
        return spec
    if override.paused:
        return replace(spec, min_replicas=requested, max_replicas=requested)
    own_low, own_high = spec.min_replicas, spec.max_replicas
    high = min(max(own_high if override.max_replicas is None else override.max_replicas, own_low), own_high)
    low = min(max(own_low if override.min_replicas is None else override.min_replicas, own_low), high)
    return replace(spec, min_replicas=low, max_replicas=high)


def told(decisions: Sequence[Decision], overrides: Overrides) -> tuple[Decision, ...]:
    """Decisions as they are published and carried out: paused variants say so, and in a dry run all of them hold."""
    found = tuple(_paused(one, overrides.variants.get(f"{one.namespace}/{one.variant}")) for one in decisions)
    return tuple(map(_held, found)) if overrides.dry_run else found


def _paused(decision: Decision, override: Override | None) -> Decision:
    if override is None or not override.paused or decision.direction is not Direction.HOLD:
        return decision
    who = f" by {override.by}" if override.by else ""
    detail = f"paused{who} at {decision.desired} replicas; {decision.detail}"
    return replace(decision, reason=Reason.PAUSED, detail=detail)


def _held(decision: Decision) -> Decision:
    """An HPA follows what is published: so it is that which holds, not the calls to the platform alone."""
    if decision.direction is Direction.HOLD:
        return decision
    requested = int(decision.signals["requested"] or 0)
    detail = f"dry run: stays at {requested}, would go to {decision.desired}; {decision.detail}"
    return replace(decision, desired=requested, direction=Direction.HOLD, reason=Reason.PAUSED, detail=detail)
