"""Requests that would miss their latency targets wherever they went wait for an engine that meets them, or are refused
where waiting is in vain: opt-in."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, Protocol

import numpy as np

from predictor import advice
from predictor.model import Batch, LatencyPrediction
from router.dataplane.replies import Refusal, server_error
from router.flow import Drop
from router.predict import Desk, Source
from router.targets import Targets, named
from router.types import EndpointView, InferenceRequest

IN_VAIN: Final = "slo_unattainable"
"""Reason of a decision, and code of the refusal."""
WAITS: Final = "waits_for_slo"
"""Reason of a pick that was taken back for now: its request waits for an engine that meets its targets."""
_BEST: Final = 8
"""Candidates whose chances are worked out: those whose predictions are nearest to the target."""
_LONGEST_RETRY_S: Final = 60
_NO_TIME_S: Final = 1e-6
"""What is left of a target that has passed."""


class Hope(NamedTuple):
    """The best that any candidate promises a request."""

    chance: float
    """Of meeting all its targets, 0..1."""
    late_s: float
    """How late its answer would be by the best prediction: its first token, or its last for later ones that come too
    slowly; at most 0: it is in time. That long it takes until what is too much has ended, if nothing comes after it."""
    ttft_s: float = 0.0
    """The best prediction of its first token."""


class Hopes(Protocol):
    """Works out :class:`Hope`."""

    def __call__(
        self, request: InferenceRequest, endpoints: Sequence[EndpointView], targets: Targets, *, idle: bool = False
    ) -> Hope | None:  # fmt: skip
        """``None``: there is no target, no model, or a candidate of which nothing is known.

        ``idle``: were the candidates without any load.
        """
        ...


Aside = Callable[[float, bool], Hope | None]
"""Hope for the first token of a request whose prompt another engine computes: its limit in seconds; without load?"""


class Verdict(NamedTuple):
    """May a request go?"""

    chance: float | None = None
    """The best among its candidates, where it is known."""
    refusal: Refusal | None = None
    """Why it may not, now."""
    wait_s: float = 0.0
    """How long it is worth waiting until it may; 0: in vain."""


_GO: Final = Verdict()


class PredictedHopes:
    """By the latency model in this process."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._desk: Desk | None = None

    def __call__(
        self, request: InferenceRequest, endpoints: Sequence[EndpointView], targets: Targets, *, idle: bool = False
    ) -> Hope | None:  # fmt: skip
        """See :class:`Hopes`."""
        model = self._source.model
        if model is None or not endpoints or (targets.ttft_s is None and targets.tpot_s is None):
            return None
        if any(one.sample is None for one in endpoints):
            return None
        desk = self._desk
        if desk is None or not desk.fits(model, endpoints):
            desk = self._desk = Desk(model, endpoints)
        return _hope(desk.look(request, endpoints, idle=idle), targets, request.expected_output_tokens)


def _hope(batch: Batch, targets: Targets, output_tokens: float) -> Hope:
    worst, late_s = np.zeros(len(batch.ttft_s)), np.full(len(batch.ttft_s), -math.inf)
    for values, limit_s, times in ((batch.ttft_s, targets.ttft_s, 1.0), (batch.tpot_s, targets.tpot_s, output_tokens)):
        if limit_s is not None:
            worst = np.maximum(worst, values / limit_s)
            late_s = np.maximum(late_s, (values - limit_s) * times)
    best = np.argsort(worst)[:_BEST]
    near = LatencyPrediction(ttft_s=batch.ttft_s[best], tpot_s=batch.tpot_s[best])
    chances = advice.chance(batch.model, batch.rows.T[best], near, batch.places[best], ttft_s=targets.ttft_s,
                            tpot_s=targets.tpot_s)  # fmt: skip
    return Hope(advice.admission(chances), float(late_s.min()), float(batch.ttft_s.min()))


class Admission:
    """Says which requests may go, and which may wait.

    Args:
        least: chance below which a request does not go; 0 lets all go and only tells.
        hopes: gives the chance.
        usual: targets of the operator (SLO file, tenants) count as well as those that a request names itself.
        wait_s: how long a request may wait at most; 0 refuses at once.
    """

    def __init__(self, least: float, hopes: Hopes, *, usual: bool = False, wait_s: float = 0.0) -> None:
        self._least, self._hopes, self._usual, self._wait_s = least, hopes, usual, wait_s

    def counted(self, targets: Targets) -> Targets:
        """Those that a request is refused for."""
        return targets if self._usual else named(targets)

    def judge(
        self, request: InferenceRequest, endpoints: Sequence[EndpointView], targets: Targets, *, waited_s: float = 0.0,
        again: bool = False, aside: Aside | None = None,
    ) -> Verdict:  # fmt: skip
        """May it go to one of ``endpoints``?

        Args:
            request: what is asked for.
            endpoints: candidates.
            targets: all that hold for it.
            waited_s: what has passed of its TTFT target.
            again: it waits already; how much longer is not worked out.
            aside: hope for its first token, where its prompt is computed elsewhere.
        """
        counted = self.counted(targets)
        left = counted
        if counted.ttft_s is not None:
            left = counted._replace(ttft_s=max(_NO_TIME_S, counted.ttft_s - waited_s))
        hope = self._hope(request, endpoints, left, aside, idle=False)
        if hope is None:
            return _GO
        if hope.chance >= self._least:
            return Verdict(hope.chance)
        if again:
            return Verdict(hope.chance, in_vain(hope, waited_s=waited_s))
        empty = self._hope(request, endpoints, left, aside, idle=True)
        if empty is not None and empty.chance < self._least:
            return Verdict(hope.chance, never(empty))
        wait_s = self._wait_s
        if left.ttft_s is not None:
            wait_s = min(wait_s, left.ttft_s - (empty.ttft_s if empty is not None else 0.0))
        return Verdict(hope.chance, in_vain(hope, waited_s=waited_s), max(0.0, wait_s))

    def _hope(
        self, request: InferenceRequest, endpoints: Sequence[EndpointView], targets: Targets, aside: Aside | None, *,
        idle: bool,
    ) -> Hope | None:  # fmt: skip
        """The candidates'; where another engine computes the prompt, of the first token its own, and of later ones
        theirs: both must hold."""
        if aside is None or targets.ttft_s is None:
            return self._hopes(request, endpoints, targets, idle=idle)
        first = aside(targets.ttft_s, idle)
        if first is None:
            return None
        later = None
        if targets.tpot_s is not None:
            later = self._hopes(request, endpoints, targets._replace(ttft_s=None), idle=idle)
            if later is None:
                return None
        return first if later is None else both(first, later)


def both(first: Hope, later: Hope) -> Hope:
    """Of two engines that serve one request: its first token by one, the later ones by the other."""
    return Hope(min(first.chance, later.chance), max(first.late_s, later.late_s), first.ttft_s)


def in_vain(hope: Hope, *, waited_s: float = 0.0) -> Refusal:
    """The refusal of a request that busy engines would serve too late; come back when what is too much has ended."""
    waited = f" after {waited_s:.1f} s of waiting for one" if waited_s >= 0.1 else ""
    wait_s = min(_LONGEST_RETRY_S, max(1, math.ceil(hope.late_s)))
    message = f"no engine is likely to meet the latency target of this request{waited} (best chance {hope.chance:.0%})"
    return server_error(429, message, code=IN_VAIN, dropped=Drop.TARGET, retry_after_s=wait_s)


def never(hope: Hope) -> Refusal:
    """The refusal of a request that would be late at an idle engine too: only other engines or targets help."""
    message = (f"no engine here is likely to meet the latency target of this request, even when idle (best chance "
               f"{hope.chance:.0%}, late by {max(0.0, hope.late_s):.2g} s)")  # fmt: skip
    return server_error(429, message, code=IN_VAIN, dropped=Drop.TARGET, retry_after_s=_LONGEST_RETRY_S)
