"""How long split requests take until their first token, beside what the splitter reckons: by prefill engine. Pure.

The latency model knows engines that answer; what computes prompts for others answers nobody. So its pace is seen from
the requests that were split: the time until the first token, over :meth:`router.disaggregation.choose.Splitter.cost_s`
of the moment when it was sent. That reckons prompts ahead, its own and the transfer; the ratio is what it really took.
"""

from __future__ import annotations

import dataclasses
from bisect import bisect_right
from collections import deque
from functools import partial
from typing import Final

from router.admission import Aside, Hope
from router.disaggregation.choose import Splitter
from router.types import EndpointView, InferenceRequest

_KEPT: Final = 64
"""Ratios kept of an engine: the newest."""
_ENOUGH: Final = 8
"""With fewer nothing is promised."""


class PrefillPace:
    """Ratios of time taken to time reckoned, of each prefill engine."""

    def __init__(self) -> None:
        self._ratios: dict[str, deque[float]] = {}

    def seen(self, url: str, ttft_s: float, cost_s: float) -> None:
        """A split request had its first token."""
        if ttft_s > 0.0 and cost_s > 0.0:
            self._ratios.setdefault(url, deque(maxlen=_KEPT)).append(ttft_s / cost_s)

    def forget(self, url: str) -> None:
        """The engine is no more."""
        self._ratios.pop(url, None)

    def hope(
        self, splitter: Splitter, request: InferenceRequest, prefill: EndpointView, decode: EndpointView
    ) -> Aside:  # fmt: skip
        """What the engine promises a request, to be asked for."""
        return partial(self._hope, splitter, request, prefill, decode)

    def _hope(  # noqa: PLR0917 - bound by position above
        self, splitter: Splitter, request: InferenceRequest, prefill: EndpointView, decode: EndpointView,
        limit_s: float, idle: bool,
    ) -> Hope | None:  # fmt: skip
        """``None``: too little was seen of it."""
        ratios = sorted(self._ratios.get(prefill.url, ()))
        if len(ratios) < _ENOUGH:
            return None
        if idle:
            prefill = dataclasses.replace(prefill, prefill_tokens_in_flight=0, other_requests=0.0)
        cost_s = splitter.cost_s(request, prefill, decode)
        likely_s = cost_s * ratios[len(ratios) // 2]
        return Hope(bisect_right(ratios, limit_s / cost_s) / len(ratios), likely_s - limit_s, likely_s)
