"""What every scorer is given and gives, and how busy an endpoint is. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Final, Protocol

from router.types import EndpointView, InferenceRequest, Prediction

UNKNOWN: Final = 0.5
"""Score of an endpoint about which nothing is known."""


@dataclass(slots=True, kw_only=True)
class Candidates:
    """What a scorer sees. What several scorers need of every endpoint is worked out once, when first asked for."""

    request: InferenceRequest
    endpoints: Sequence[EndpointView]
    """At least one."""
    predictions: Sequence[Prediction] | None = None
    """In the order of ``endpoints``; ``None`` while the model is cold."""
    _loads: list[tuple[float, float] | None] | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def loads(self) -> list[tuple[float, float] | None]:
        """:func:`outstanding` of every endpoint."""
        found = self._loads
        if found is None:
            found = self._loads = [outstanding(endpoint) for endpoint in self.endpoints]
        return found


class Scorer(Protocol):
    """Scores every candidate."""

    predicts: ClassVar[bool]
    """It reads ``candidates.predictions``."""

    def __call__(self, candidates: Candidates) -> list[float]:
        """Scores in the order of the endpoints."""
        ...


def outstanding(endpoint: EndpointView) -> tuple[float, float] | None:
    """Requests queued and requests there in all; ``None`` when never scraped.

    What this router sent and the scrape does not show yet is counted as queued.
    """
    sample = endpoint.sample
    if sample is None or sample.waiting is None:
        return None
    seen = sample.waiting + (sample.running or 0.0)
    unseen = endpoint.requests_in_flight - seen
    return (sample.waiting + unseen, seen + unseen) if unseen > 0 else (sample.waiting, seen)
