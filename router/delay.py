"""The delay that a request has and causes at each candidate: the scorer of the default profile. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, NamedTuple

from router.parameters import number
from router.scoring import Candidates
from router.types import EndpointView, InferenceRequest, Prediction

_SPARE: Final = 2.0
"""Below the mean load divided by this, an endpoint has time to spare, and a miss there is priced by its own load."""


class _Load(NamedTuple):
    """What is at an endpoint; of the mean endpoint, if so named."""

    requests: float
    context: float
    """Prompt and output tokens so far of these requests."""
    new_prompts: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LeastDelay:
    """The delay that the request has and causes here, against the least among the candidates: least / delay.

    Range 0..1. Delay is counted in prompt tokens that an engine could compute meanwhile, which needs no calibration:

    - its own wait: the uncached prompt tokens in flight there, and its own;
    - decoding: each of its tokens takes longer by what the requests and contexts there add to a step, and each of
      theirs by what it adds;
    - a miss: prompt tokens to be computed beyond those at the candidate that has most of the prompt hold up the
      requests of an average endpoint (fewer where there is time to spare), ``miss_cost`` times, spread over the
      requests under way that start alike and would find a second copy;
    - a queue: waiting requests are admitted as running ones end.

    A new prompt brings its followers: where prompts are reused, it is judged not by the load of the moment but by the
    mean, corrected by up to ``placement`` by the share of new prompts that the endpoint has had. All is multiplied by
    how slow the engine is, while the latency model tells. An endpoint never scraped is reckoned as busy as the others.
    """

    predicts: ClassVar[bool] = True
    miss_cost: float = number(2.0, "missCost")
    """2: what a computed token displaces from a full cache will be computed again too; 1 would count it once."""
    request_tokens: float = number(0.5, "requestTokens")
    """What a decoding request adds to a step, in prompt tokens (0.2 to 0.7 on calibrated GPUs)."""
    context_tokens: float = number(1e-3, "contextTokens")
    """What a token of context adds to a step, in prompt tokens (0.0005 to 0.0035 on calibrated GPUs)."""
    step_tokens: float = number(300.0, "stepTokens")
    """What a step costs by itself, in prompt tokens: reading the weights (the GPU's FLOP/s over its bytes/s)."""
    placement: float = number(0.2, "placement", high=1.0)
    """How far new prompts are steered by where earlier ones went, as a share of the mean load; 0 is off."""

    def __call__(self, candidates: Candidates) -> list[float]:
        """Least / delay."""
        delays = self.delays(candidates)
        least = min(delays)
        return [least / delay for delay in delays]

    def delays(self, candidates: Candidates) -> list[float]:
        """In prompt tokens, each above 0, in the order of the endpoints."""
        request, endpoints = candidates.request, candidates.endpoints
        loads = _loads(endpoints)
        mean = _Load(*(sum(values) / len(loads) for values in zip(*loads, strict=True)))
        uncached = [max(1, request.input_tokens - endpoint.matched_tokens) for endpoint in endpoints]
        fewest, price = min(uncached), self.miss_cost / (1.0 + request.alike / len(endpoints))
        delays = [
            endpoint.prefill_tokens_in_flight
            + own
            + price * (1.0 + min(mean.requests, _SPARE * load.requests)) * (own - fewest)
            + self._decoding(request, self._expected(request, own, load, mean), mean)
            + self._queue(request, endpoint, load)
            for endpoint, load, own in zip(endpoints, loads, uncached, strict=True)
        ]
        return delays if candidates.predictions is None else _slowed(delays, candidates.predictions)

    def _expected(self, request: InferenceRequest, own: int, load: _Load, mean: _Load) -> _Load:
        """The load to reckon with: the present one, or for a new prompt that others will share, the usual one."""
        weight = min(1.0, 2.0 * request.expected_reuse * own / max(1, request.input_tokens))
        if weight <= 0.0 or not self.placement:
            return load
        share = load.new_prompts / mean.new_prompts if mean.new_prompts > 0.0 else 1.0
        usual = weight * min(1.0 + self.placement, max(1.0 - self.placement, share))
        now = 1.0 - weight
        return _Load(
            now * load.requests + usual * mean.requests, now * load.context + usual * mean.context, load.new_prompts
        )

    def _decoding(self, request: InferenceRequest, load: _Load, mean: _Load) -> float:
        """The longer steps, through its own answer and through half an answer of each of the others."""
        length = mean.context / mean.requests if mean.requests > 0.0 else 0.0
        own = self.request_tokens * load.requests + self.context_tokens * load.context
        caused = 0.5 * load.requests * (self.request_tokens + self.context_tokens * length)
        return request.expected_output_tokens * (own + caused)

    def _queue(self, request: InferenceRequest, endpoint: EndpointView, load: _Load) -> float:
        """The wait behind the engine's queue: one request leaves each (length of an answer / running requests)."""
        sample = endpoint.sample
        if sample is None or not sample.waiting or load.requests <= 0.0:
            return 0.0
        step = self.step_tokens + self.request_tokens * load.requests + self.context_tokens * load.context
        return sample.waiting * request.expected_output_tokens * step / max(1.0, load.requests)


def _loads(endpoints: Sequence[EndpointView]) -> list[_Load]:
    """What is at each endpoint: this router's requests and, at the last scrape, those of others, of the same length.

    Never scraped: as many requests as at the others.
    """
    known = [one.requests_in_flight + one.other_requests for one in endpoints if one.sample is not None]
    usual = sum(known) / len(known) if known else 0.0
    own = sum(one.requests_in_flight for one in endpoints)
    length = sum(one.context_tokens_in_flight for one in endpoints) / own if own else 0.0
    loads = []
    for one in endpoints:
        others = one.other_requests if one.sample is not None else max(0.0, usual - one.requests_in_flight)
        loads.append(
            _Load(one.requests_in_flight + others, one.context_tokens_in_flight + others * length, one.new_prompts)
        )
    return loads


def _slowed(delays: Sequence[float], predictions: Sequence[Prediction]) -> list[float]:
    """Delays times how slow each engine is; what is no positive number counts as 1."""
    factors = [one.slowness if 0.0 < one.slowness < math.inf else 1.0 for one in predictions]
    return [delay * factor for delay, factor in zip(delays, factors, strict=True)]
