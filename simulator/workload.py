"""Requests on a time line, and what a replay may do to them: scale, compress, loop, give prefixes. Pure.

Randomness is a ``numpy`` generator that the caller passes in: the same seed gives the same schedule.

A *source* (a trace, a rate curve, a profile) yields *cycles* in its own native time; a :class:`Plan` says how long one
cycle lasts in the replay and how many requests a second it has on average. Rate and time are scaled apart, so an hour
whose minutes went 191 -> 507 -> 225 requests keeps that shape at any mean rate and any length.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fleet.errors import ConfigError
from fleet.workload import BLOCK_TOKENS as BLOCK_OF_HASH
from simulator.tokens import BLOCK_TOKENS

Rng = np.random.Generator

MAX_CYCLE = 5_000_000
"""Requests of one cycle: a cycle is drawn whole, and this many take about a gigabyte."""
HASH_BLOCK_TOKENS = BLOCK_OF_HASH
"""Tokens of one ``hash_ids`` entry in the Mooncake traces."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedRequest:
    """One request: when it arrives, how long it is, and what it shares with others."""

    arrival_s: float
    """Seconds after the start of the trace or replay."""
    input_tokens: int
    output_tokens: int
    prefix_id: int | None = None
    """Which shared system prompt it starts with; ``None``: none."""
    prefix_tokens: int = 0
    """Leading tokens taken from that prompt; less than ``input_tokens``."""
    hash_ids: tuple[int, ...] = ()
    """Chained 512-token blocks, as Mooncake records them: equal leading ids are equal leading text."""
    model: str = ""
    """Model it was recorded for; empty: the model that the replay names."""


def fitted(request: TimedRequest, max_model_len: int) -> TimedRequest:
    """The request, shortened where a server of that context would refuse it: first its prompt, then its answer.

    A tenth is kept free, because a real tokenizer counts a text otherwise than four bytes a token.

    >>> fitted(TimedRequest(arrival_s=0.0, input_tokens=6030, output_tokens=47), 4096).input_tokens
    3639
    >>> fitted(TimedRequest(arrival_s=0.0, input_tokens=10, output_tokens=9000), 1000).output_tokens
    890
    """
    room = max(2, int(0.9 * max_model_len))
    if request.input_tokens + request.output_tokens <= room:
        return request
    prompt = min(request.input_tokens, max(1, room - request.output_tokens, room // 2))
    return replace(
        request, input_tokens=prompt, output_tokens=max(1, min(request.output_tokens, room - prompt)),
        prefix_tokens=min(request.prefix_tokens, prompt - 1),
        hash_ids=request.hash_ids[: -(-prompt // HASH_BLOCK_TOKENS)],
    )  # fmt: skip


class Source(Protocol):
    """Where traffic comes from."""

    @property
    def span_s(self) -> float:
        """Native length of one cycle, seconds."""
        ...

    @property
    def native_rps(self) -> float:
        """Mean requests per second in native time."""
        ...

    def cycle(self, rng: Rng, factor: float) -> list[TimedRequest]:
        """One cycle in native time, sorted, with ``factor`` times the native number of requests on average."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How a source is replayed."""

    period_s: float
    """Length of one cycle in the replay, seconds."""
    mean_rps: float
    """Requests per second, averaged over a cycle."""
    prefixes: PrefixAssumption | None = None
    """Shared system prompts for traces that record none; ``None``: leave the requests as they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixAssumption:
    """Shared system prompts for a trace without prefix information: an assumption, not a measurement.

    Each request starts, with equal chance, with one of ``count`` system prompts. All have the same length: ``share`` of
    the median prompt, in whole ``block_tokens``. A request too short to hold one has none.
    """

    count: int = 8
    share: float = 0.3
    block_tokens: int = BLOCK_TOKENS
    """The engines' KV block: a shared prefix is reused in whole blocks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceSource:
    """Recorded requests, sorted by arrival; ``span_s`` as from :func:`span_of`."""

    requests: Sequence[TimedRequest]
    span_s: float

    @property
    def native_rps(self) -> float:
        """Requests over span."""
        return len(self.requests) / self.span_s

    def cycle(self, rng: Rng, factor: float) -> list[TimedRequest]:
        """The trace, thinned or duplicated."""
        return scale_rate(self.requests, factor, span_s=self.span_s, rng=rng)


@dataclass(frozen=True, slots=True, kw_only=True)
class RateSource:
    """A rate curve without requests: Poisson arrivals, lognormal lengths around the means."""

    bin_s: float
    rates_rps: Sequence[float]
    """One mean rate for each bin."""
    mean_input: float
    mean_output: float
    sigma: float = 1.0
    """Of the lognormal lengths (an assumption; the published weeks give only means)."""

    @property
    def span_s(self) -> float:
        """Bins times their width."""
        return self.bin_s * len(self.rates_rps)

    @property
    def native_rps(self) -> float:
        """Mean of the curve."""
        return float(np.mean(self.rates_rps))

    def cycle(self, rng: Rng, factor: float) -> list[TimedRequest]:
        """Requests that follow the curve."""
        edges = np.arange(len(self.rates_rps) + 1) * self.bin_s
        arrivals = arrivals_along(np.array(self.rates_rps) * (self.bin_s * factor), edges, shape=1.0, rng=rng)
        inputs = _lognormal(self.mean_input, self.sigma, len(arrivals), rng)
        return timed(arrivals, inputs, _lognormal(self.mean_output, self.sigma, len(arrivals), rng))


def _lognormal(mean: float, sigma: float, count: int, rng: Rng) -> NDArray[np.float64]:
    return rng.lognormal(np.log(mean) - sigma**2 / 2, sigma, count)


def timed(
    arrivals: NDArray[np.float64], inputs: NDArray[np.float64], outputs: NDArray[np.float64]
) -> list[TimedRequest]:
    """Requests from columns; lengths are rounded to whole tokens, at least one."""
    columns = (arrivals, np.maximum(1, np.rint(inputs)), np.maximum(1, np.rint(outputs)))
    return [
        TimedRequest(arrival_s=arrival, input_tokens=int(size), output_tokens=int(answer))
        for arrival, size, answer in zip(*(column.tolist() for column in columns), strict=True)
    ]


def arrivals_along(
    expected: NDArray[np.floating], edges_s: NDArray[np.floating], *, shape: float, rng: Rng
) -> NDArray[np.float64]:
    """Arrival times of a renewal process whose rate follows bins.

    Args:
        expected: mean number of arrivals in each bin, shape (n,).
        edges_s: bin edges, shape (n + 1,), increasing.
        shape: of the Gamma gaps in rate-rescaled time: 1 is Poisson, less is burstier (CV = shape ** -0.5).
    """
    cumulative = np.concatenate(([0.0], np.cumsum(expected)))
    total = float(cumulative[-1])
    ticks = np.empty(0)
    while not ticks.size or ticks[-1] < total:
        missing = total - (ticks[-1] if ticks.size else 0.0)
        gaps = rng.gamma(shape, 1.0 / shape, int(missing + 4.0 * np.sqrt(missing / shape)) + 8)
        ticks = np.concatenate((ticks, (ticks[-1] if ticks.size else 0.0) + np.cumsum(gaps)))
    return np.asarray(np.interp(ticks[ticks < total], cumulative, edges_s), dtype=np.float64)


def span_of(requests: Sequence[TimedRequest]) -> float:
    """Length of a trace that is to be looped: its last arrival plus one mean gap, so that the joint is no burst."""
    last = requests[-1].arrival_s if requests else 0.0
    return last + (last / (len(requests) - 1) if len(requests) > 1 and last > 0 else 1.0)


def shift(requests: Sequence[TimedRequest], by_s: float) -> list[TimedRequest]:
    """The same requests, ``by_s`` later (earlier when negative)."""
    return [replace(request, arrival_s=request.arrival_s + by_s) for request in requests]


def warp(requests: Sequence[TimedRequest], factor: float) -> list[TimedRequest]:
    """The same requests ``factor`` times as fast: arrivals are divided by it.

    >>> warp([TimedRequest(arrival_s=60.0, input_tokens=1, output_tokens=1)], 30.0)[0].arrival_s
    2.0
    """
    return [replace(request, arrival_s=request.arrival_s / factor) for request in requests]


def scale_rate(
    requests: Sequence[TimedRequest], factor: float, *, span_s: float, rng: Rng, jitter_s: float = 30.0
) -> list[TimedRequest]:
    """``factor`` times as many requests on average, with the shape over time kept.

    Below 1 each request stays with that chance (thinning). Above 1 each is copied; a copy lands within ``jitter_s`` of
    the original (round the span's end), and copies of one generation are a population of their own: their
    ``hash_ids`` are moved apart, so duplication adds load and no cache hits that the trace did not have.
    """
    if factor == 1.0:
        return list(requests)
    copies = np.floor(rng.random(len(requests)) + factor).astype(int)
    generation_step = 1 + max((max(request.hash_ids, default=0) for request in requests), default=0)
    scaled: list[TimedRequest] = []
    for request, count in zip(requests, copies.tolist(), strict=True):
        for generation in range(count):
            at_s = (request.arrival_s + rng.uniform(-jitter_s, jitter_s)) % span_s if generation else request.arrival_s
            scaled.append(_copy(request, at_s, generation * generation_step) if generation else request)
    return sorted(scaled, key=lambda request: request.arrival_s)


def _copy(request: TimedRequest, at_s: float, hash_offset: int) -> TimedRequest:
    return replace(request, arrival_s=at_s, hash_ids=tuple(block + hash_offset for block in request.hash_ids))


def prefix_tokens(requests: Sequence[TimedRequest], assumption: PrefixAssumption) -> int:
    """Length of the assumed system prompts for this traffic: 0 when there are none."""
    if not requests or assumption.count < 1:
        return 0
    median = float(np.median([request.input_tokens for request in requests]))
    return int(median * assumption.share) // assumption.block_tokens * assumption.block_tokens


def assign_prefixes(requests: Sequence[TimedRequest], *, count: int, tokens: int, rng: Rng) -> list[TimedRequest]:
    """Give each request without a recorded prefix one of ``count`` prompts of ``tokens`` tokens, where it is longer."""
    if count < 1:
        return list(requests)
    chosen = rng.integers(count, size=len(requests)).tolist()
    return [
        replace(request, prefix_id=prompt, prefix_tokens=tokens) if _takes_prefix(request, tokens) else request
        for request, prompt in zip(requests, chosen, strict=True)
    ]


def _takes_prefix(request: TimedRequest, tokens: int) -> bool:
    return not request.hash_ids and request.prefix_id is None and 0 < tokens < request.input_tokens


def schedule(source: Source, plan: Plan, rng: Rng, *, until_s: float | None = None) -> Iterator[TimedRequest]:
    """The replay: cycle after cycle, for ever or up to ``until_s``; each cycle is drawn anew from ``rng``.

    Raises: ConfigError when a cycle would hold more than :data:`MAX_CYCLE` requests, or hardly ever one.
    """
    if plan.mean_rps * plan.period_s > MAX_CYCLE:
        raise ConfigError(f"one period would hold {plan.mean_rps * plan.period_s:.0f} requests", limit=f"{MAX_CYCLE}",
                          next_step="Shorten the period or lower the rate.")  # fmt: skip
    factor = round(plan.mean_rps * plan.period_s / (source.native_rps * source.span_s), 12)
    start_s, empty_cycles, tokens = 0.0, 0, 0
    while until_s is None or start_s < until_s:
        requests = warp(source.cycle(rng, factor), source.span_s / plan.period_s)
        if plan.prefixes:
            tokens = tokens or prefix_tokens(requests, plan.prefixes)
            requests = assign_prefixes(requests, count=plan.prefixes.count, tokens=tokens, rng=rng)
        empty_cycles = 0 if requests else empty_cycles + 1
        if empty_cycles > 1000:
            raise ConfigError(f"{plan.mean_rps} requests/s over a period of {plan.period_s} s yields no request",
                              next_step="Raise the rate or lengthen the period.")  # fmt: skip
        yield from itertools.takewhile(lambda request: until_s is None or request.arrival_s < until_s,
                                       shift(requests, start_s))  # fmt: skip
        start_s += plan.period_s
