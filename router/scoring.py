"""What every scorer is given and gives, and how busy an endpoint is. Pure."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, ClassVar, Final, Protocol

from router.types import EndpointView, InferenceRequest, Prediction, Predictions

UNKNOWN: Final = 0.5
"""Score of an endpoint about which nothing is known."""


class Candidates:
    """What a scorer sees. What several scorers need of every endpoint is worked out once, when first asked for.

    Args:
        request: what is asked for.
        endpoints: at least one.
        predictions: in the order of ``endpoints``; ``None`` while the model is cold.
        memo: holds over many decisions, as long as nothing of the endpoints changes but counts of requests and tokens,
            new prompts, and what is matched. A scorer puts there what it need not work out again.
    """

    __slots__ = ("_loads", "endpoints", "memo", "predictions", "request")

    def __init__(
        self, request: InferenceRequest, endpoints: Sequence[EndpointView],
        predictions: Predictions | Sequence[Prediction] | None = None, memo: dict[Hashable, Any] | None = None,
    ) -> None:  # fmt: skip
        self.request, self.endpoints = request, endpoints
        self.predictions = (
            predictions if predictions is None or isinstance(predictions, Predictions) else Predictions.of(predictions)
        )
        self.memo: dict[Hashable, Any] = {} if memo is None else memo
        self._loads: list[tuple[float, float] | None] | None = None

    @property
    def loads(self) -> list[tuple[float, float] | None]:
        """:func:`outstanding` of every endpoint."""
        found = self._loads
        if found is None:
            found = self._loads = [outstanding(endpoint) for endpoint in self.endpoints]
        return found


class Plain:
    """A scorer that asks for no predictions."""

    __slots__ = ()
    predicts: ClassVar[bool] = False
    steady: ClassVar[bool] = False


class Steady(Plain):
    """A scorer that asks nothing that changes with a request."""

    __slots__ = ()
    steady: ClassVar[bool] = True


class Predicting(Plain):
    """A scorer that asks for predictions."""

    __slots__ = ()
    predicts: ClassVar[bool] = True


class Scorer(Protocol):
    """Scores every candidate. One whose class says ``steady = True`` gives the same scores for every request, until
    something of the endpoints changes (as said of :attr:`Candidates.memo`)."""

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
