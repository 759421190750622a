"""The interface of metric sources: both give the same readings for the same engines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from fleet.types import EngineSample, Replica


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineReading:
    """One engine's newest sample with rates over the source's window; ``None`` where not (yet) known."""

    sample: EngineSample
    generation_tps: float | None = None
    prompt_tps: float | None = None
    request_rps: float | None = None
    prefix_hit_ratio: float | None = None
    gpu_active: float | None = None
    """0..1, of the busiest GPU of the engine's pod; only a source that has DCGM's metrics tells."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterQueue:
    """Requests that wait at the router."""

    waiting: Mapping[str, float]
    """By model."""
    ages_s: Mapping[str, float] | None = None
    """Age of each model's sample by the source's own clock, also of one whose value means nothing; a model that is
    missing is not told of. ``None``: the router itself answered just now, for every model."""


class MetricSource(Protocol):
    """Reads the engines' signals."""

    name: str
    """For messages: ``scrape`` or the Prometheus URL."""

    def read(self, replicas: Sequence[Replica], *, now_s: float) -> Mapping[str, EngineReading]:
        """Newest readings by replica URL; an engine that does not answer is missing from the answer.

        Raises: SourceError when the source itself cannot be reached; the caller holds.
        """
        ...
