"""The delay that a request has and causes at each candidate: the scorer of the default profile. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from router.imposed import late_everywhere, misses
from router.parameters import number
from router.scoring import Candidates, Predicting
from router.types import EndpointView, Predictions

_USUAL: Final = 0.5
"""How far a prompt that is new to an endpoint is judged there by the usual load rather than by that of the moment."""
_COLD: Final = 3.0
"""A prompt that is new to all is steered so many times as far by where earlier ones went."""
_SPARE: Final = 2.0
"""Below the mean load divided by this, an endpoint has time to spare, and a miss there is priced by its own load."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeastDelay(Predicting):
    """The delay that the request has and causes here, against the least among the candidates: least / delay.

    Range 0..1. Delay is counted in prompt tokens that an engine could compute meanwhile, which needs no calibration:

    - its own wait: the uncached prompt tokens in flight there, and its own;
    - decoding: each of its tokens takes longer by what the requests and contexts there add to a step, and each of
      theirs by what it adds;
    - a miss: prompt tokens to be computed beyond those at the candidate that has most of the prompt hold up the
      requests of an average endpoint (fewer where there is time to spare), ``miss_cost`` times, spread over the
      requests under way that start alike and would find a second copy;
    - a queue: waiting requests are admitted as running ones end.

    A prompt of which less than half is cached brings its followers: where prompts are reused, it is judged by half not
    by the load of the moment but by the mean, corrected by up to ``placement`` by the share of such prompts that the
    endpoint has had; one that is new to all endpoints is judged by the mean alone, corrected by three times as much.
    All is multiplied by how slow the engine is, as far as its counters or the latency model tell. An endpoint never
    scraped is reckoned as busy as the others.

    A request that names a TPOT target which by the latency model it misses at every candidate is placed by delay and by
    the targets missed through it, its own and others' (:mod:`router.imposed`).
    """

    miss_cost: float = number(1.25, "missCost")
    """1 counts that a token is computed; the rest that now and then it displaces one that is asked for again."""
    request_tokens: float = number(0.5, "requestTokens")
    """What a decoding request adds to a step, in prompt tokens (0.2 to 0.7 on calibrated GPUs)."""
    context_tokens: float = number(1e-3, "contextTokens")
    """What a token of context adds to a step, in prompt tokens (0.0005 to 0.0035 on calibrated GPUs)."""
    step_tokens: float = number(300.0, "stepTokens")
    """What a step costs by itself, in prompt tokens: reading the weights (the GPU's FLOP/s over its bytes/s)."""
    placement: float = number(0.2, "placement", high=1.0)
    """How far new prompts are steered by where earlier ones went, as a share of the mean load; 0 is off."""
    missed_target: float = number(1.0, "missedTarget")
    """What a missed TPOT target counts beside the delay, in mean delays; 0 is off."""

    def __call__(self, candidates: Candidates) -> list[float]:
        """Least / delay."""
        delays = self.delays(candidates)
        if candidates.request.slo_tpot_s is not None and self.missed_target:
            delays = self._with_misses(delays, candidates, candidates.request.slo_tpot_s)
        least = min(delays)
        return [least / delay for delay in delays]

    def delays(self, candidates: Candidates) -> list[float]:
        """In prompt tokens, each above 0, in the order of the endpoints."""
        request, endpoints = candidates.request, candidates.endpoints
        known = _told(candidates)
        requests, contexts = _loads(endpoints, known.alone)
        count = len(endpoints)
        mean_requests, mean_context = sum(requests) / count, sum(contexts) / count
        size = request.input_tokens
        fewest, new, uncached = max(size, 1), 0.0, []
        for one in endpoints:
            own = size - one.matched_tokens if one.matched_tokens < size else 1
            if own < fewest:  # noqa: PLR1730 - min() costs more than all of this
                fewest = own
            uncached.append(own)
            new += one.new_prompts
        mean_new, price = new / count, self.miss_cost / (1.0 + request.alike / count)
        length = mean_context / mean_requests if mean_requests > 0.0 else 0.0
        answer, by_context = request.expected_output_tokens, self.context_tokens
        by_request = 1.5 * self.request_tokens + 0.5 * by_context * length
        newness = 2.0 * request.expected_reuse / (size if size > 1 else 1) if self.placement else 0.0
        half, steer, most = 0.5 * size, self.placement, _USUAL
        if fewest >= half:  # new to all: nothing but where its followers will be matters
            steer, most = min(1.0, _COLD * steer), 1.0
        low, high = 1.0 - steer, 1.0 + steer
        delays = []
        by_one, by_step = self.request_tokens, self.step_tokens
        for one, n, context, own, queued in zip(endpoints, requests, contexts, uncached, known.queued):  # noqa: B905 - native so
            delay = float(one.prefill_tokens_in_flight + own)
            if own > fewest:
                held_up = _SPARE * n
                delay += price * (1.0 + (held_up if held_up < mean_requests else mean_requests)) * (own - fewest)
            if queued and n > 0.0:
                delay += queued * answer * (by_step + by_one * n + by_context * context) / (n if n > 1.0 else 1.0)
            if newness and own >= half:
                weight = newness * own
                if weight > most:  # noqa: PLR1730 - min() costs more than all of this
                    weight = most
                share = one.new_prompts / mean_new if mean_new > 0.0 else 1.0
                usual = weight * (low if share < low else high if share > high else share)
                rest = 1.0 - weight
                n = rest * n + usual * mean_requests  # noqa: PLW2901 - the load to reckon with
                context = rest * context + usual * mean_context  # noqa: PLW2901
            delays.append(delay + answer * (n * by_request + by_context * context))
        return _slowed(delays, known.slowness, candidates.predictions)

    def _with_misses(self, delays: list[float], candidates: Candidates, limit_s: float) -> list[float]:
        """In mean delays, with the targets missed, where the request is late everywhere."""
        predictions, request = candidates.predictions, candidates.request
        if predictions is None or not late_everywhere(predictions.tpot_s, limit_s):
            return delays
        requests, contexts = _loads(candidates.endpoints, _told(candidates).alone)
        own = self.request_tokens + self.context_tokens * (request.input_tokens + 0.5 * request.expected_output_tokens)
        slowed = [own / (self.step_tokens + self.request_tokens * n + self.context_tokens * context)
                  for n, context in zip(requests, contexts, strict=True)]  # fmt: skip
        mean = sum(delays) / len(delays)
        missed = misses(predictions.tpot_s, limit_s, requests, slowed)
        return [delay / mean + self.missed_target * count for delay, count in zip(delays, missed, strict=True)]


class _Told:
    """What changes only with a scrape."""

    __slots__ = ("alone", "queued", "slowness")

    def __init__(self, endpoints: Sequence[EndpointView]) -> None:
        self.queued = [0.0 if one.sample is None else one.sample.waiting or 0.0 for one in endpoints]
        """Requests waiting at each."""
        self.slowness = [one.slowness for one in endpoints]
        self.alone = not any(one.sample is None or one.other_requests for one in endpoints)
        """All was scraped, and nobody else's requests are there."""


def _told(candidates: Candidates) -> _Told:
    found: _Told | None = candidates.memo.get("least-delay")
    if found is None:
        found = candidates.memo["least-delay"] = _Told(candidates.endpoints)
    return found


def _loads(endpoints: Sequence[EndpointView], alone: bool) -> tuple[list[float], list[float]]:
    """Requests and their context tokens at each endpoint: this router's and, at the last scrape, those of others, of
    the same length. Never scraped: as many requests as at the others."""
    requests: list[float] = [one.requests_in_flight for one in endpoints]
    contexts: list[float] = [one.context_tokens_in_flight for one in endpoints]
    if alone:
        return requests, contexts
    known = [one.requests_in_flight + one.other_requests for one in endpoints if one.sample is not None]
    own = sum([one.requests_in_flight for one in endpoints])
    length = sum(contexts) / own if own else 0.0
    usual = sum(known) / len(known) if known else 0.0
    for index, one in enumerate(endpoints):
        others = one.other_requests if one.sample is not None else max(0.0, usual - one.requests_in_flight)
        requests[index] = one.requests_in_flight + others
        contexts[index] += others * length
    return requests, contexts


def _slowed(
    delays: list[float], slowness: Sequence[float | None], predictions: Predictions | None
) -> list[float]:  # fmt: skip
    """Delays times how slow each engine is: by its own counters, else by the latency model, else as the others."""
    for index, slow in enumerate(slowness):
        if slow is None and predictions is not None:
            slow = predictions.slowness[index]  # noqa: PLW2901 - as far as is known
        if slow is not None and 0.0 < slow < math.inf:
            delays[index] *= slow
    return delays
