"""What a router in front of the engines knows: stale samples, its own books, an approximate prefix index. Pure.

Every arm decides from this and from nothing else. The books (:mod:`router.ledger`) and the index
(:mod:`router.prefix`) are the router's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.routing.prompts import ROUTER_BLOCK_TOKENS, router_hashes
from benchmarks.routing.workloads import Slo
from fleet.types import EngineSample
from router.ledger import NO_PREFIX, Ledger, Load
from router.pace import Pace
from router.prefix import PrefixIndex
from router.traffic import Traffic
from router.types import EndpointView, InferenceRequest
from simulator.engine import Engine
from simulator.sequence import EngineRequest
from simulator.sequence import Sequence as Progress
from simulator.tokens import BLOCK_TOKENS

MODEL: Final = "model"
VARIANT: Final = "pods"
_ENTER_TOKENS_S: Final = 0.999


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request at the moment of the decision."""

    inference: InferenceRequest
    matched: Sequence[int]
    """Prompt tokens expected in each endpoint's cache."""
    prefix: int = NO_PREFIX
    """Last block of the prompt that is expected anywhere."""
    output_tokens: int = 0
    """The answer's true length, for a clairvoyant only."""

    def uncached(self, index: int) -> int:
        """Prompt tokens that endpoint ``index`` would have to compute."""
        return self.inference.input_tokens - self.matched[index]


class Front:
    """The router's knowledge of ``len(engines)`` endpoints.

    Args:
        engines: read by :meth:`scrape` and, with ``precise``, by :meth:`ask`.
        precise: the index follows the engines' KV events: what is matched is what is there.
        slo: the model's targets, which hold for requests that name none; ``None``: there are none.
    """

    def __init__(self, engines: Sequence[Engine], *, precise: bool = False, slo: Slo | None = None) -> None:
        self._engines, self._precise, self._slo = engines, precise, slo
        self.urls = [f"http://pod-{index}" for index in range(len(engines))]
        self.ledger, self.index, self.traffic, self.pace = Ledger(), PrefixIndex(), Traffic(), Pace()
        self.samples: list[EngineSample | None] = [None] * len(engines)
        self._answering: list[dict[str, _Answering]] = [{} for _ in engines]
        self._entered_s = [0.0] * len(engines)
        for url, engine in zip(self.urls, engines, strict=True):
            self.index.resize(url, engine.kv.capacity * BLOCK_TOKENS // ROUTER_BLOCK_TOKENS)

    @property
    def size(self) -> int:
        """Endpoints."""
        return len(self.urls)

    def ask(self, request: EngineRequest) -> Asked:
        """The request as the router parses it, with what it expects to be cached where."""
        hashes = router_hashes(request.block_hashes)
        if self._precise:
            blocks = len(request.block_hashes)
            matched = [engine.kv.match(request.block_hashes, blocks) * BLOCK_TOKENS for engine in self._engines]
        else:
            counts = self.index.match(hashes, self.urls)
            matched = [min(counts[url] * ROUTER_BLOCK_TOKENS, request.prompt_tokens) for url in self.urls]
        best = max(matched) // ROUTER_BLOCK_TOKENS
        prefix = hashes[best - 1] if 0 < best <= len(hashes) else NO_PREFIX
        inference = InferenceRequest(
            request_id=request.request_id, model=MODEL, input_tokens=request.prompt_tokens, block_hashes=hashes,
            block_tokens=ROUTER_BLOCK_TOKENS, streaming=True, alike=self.ledger.alike(prefix),
            expected_output_tokens=self.traffic.output_tokens, expected_reuse=self.traffic.reuse,
            slo_ttft_s=self._slo.ttft_s if self._slo else None, slo_tpot_s=self._slo.tpot_s if self._slo else None,
        )  # fmt: skip
        return Asked(inference=inference, matched=matched, prefix=prefix, output_tokens=request.output_tokens)

    def load(self, index: int) -> Load:
        """What this router has in flight at an endpoint."""
        return self.ledger.of(self.urls[index])

    def loads(self) -> list[Load]:
        """The same for all."""
        return [self.ledger.of(url) for url in self.urls]

    def views(self, asked: Asked, now_s: float) -> list[EndpointView]:
        """The endpoints as :class:`router.profile.Scheduler` takes them."""
        return [self._view(index, asked, now_s) for index in range(self.size)]

    def _view(self, index: int, asked: Asked, now_s: float) -> EndpointView:
        load, sample = self.load(index), self.samples[index]
        return EndpointView(
            url=self.urls[index], variant=VARIANT, sample=sample, age_s=now_s - sample.at_s if sample else None,
            requests_in_flight=load.requests_in_flight, prefill_tokens_in_flight=load.prefill_tokens_in_flight,
            context_tokens_in_flight=load.context_tokens_in_flight, matched_tokens=asked.matched[index],
            other_requests=self.ledger.others(self.urls[index]), new_prompts=self.traffic.new_prompts(self.urls[index]),
            slowness=self.pace.slowness(self.urls[index]),
        )  # fmt: skip

    # ---- what happens

    def dispatch(self, index: int, asked: Asked) -> None:
        """The request was sent there."""
        request, url = asked.inference, self.urls[index]
        self.ledger.dispatch(url, request.request_id, asked.uncached(index), request.input_tokens, asked.prefix)
        self.traffic.dispatched(url, asked.uncached(index), request.input_tokens)
        self.index.record(url, request.block_hashes)

    def first_token(self, index: int, progress: Progress) -> None:
        """Its first token came back."""
        request_id = progress.request.request_id
        self.ledger.token(request_id)
        self._answering[index][request_id] = _Answering(progress)

    def finish(self, index: int, request_id: str, output_tokens: int) -> None:
        """It is over."""
        self._answering[index].pop(request_id, None)
        self.traffic.answered(output_tokens)
        self.ledger.finish(request_id)

    def scrape(self, index: int, now_s: float) -> None:
        """Read an engine's metrics; once a second the tokens that came back are entered into the books too.

        A router sees every token; entering them once a second keeps a run short, and is never better informed.
        """
        engine, url = self._engines[index], self.urls[index]
        counters = engine.counters
        sample = self.samples[index] = EngineSample(
            at_s=now_s, waiting=engine.waiting(now_s), running=engine.running, kv_utilisation=engine.kv.usage,
            kv_capacity_tokens=engine.kv.capacity * BLOCK_TOKENS,
            prompt_tokens_total=float(counters.prompt_tokens),
            generation_tokens_total=float(counters.generation_tokens),
            prefix_hits_total=float(counters.cached_tokens),
        )  # fmt: skip
        self.ledger.observed(url, engine.waiting(now_s) + engine.running)
        load = self.ledger.of(url)
        context = load.context_tokens_in_flight / load.requests_in_flight if load.requests_in_flight else 0.0
        self.pace.seen(url, sample, now_s, context)
        if now_s - self._entered_s[index] >= _ENTER_TOKENS_S:
            self._entered_s[index] = now_s
            self._enter_tokens(index)

    def _enter_tokens(self, index: int) -> None:
        engine, ledger = self._engines[index], self.ledger
        for request_id, entry in self._answering[index].items():
            came = engine.delivered_tokens(entry.progress)
            if came > entry.entered:
                ledger.token(request_id, came - entry.entered)
                entry.entered = came


@dataclass(slots=True)
class _Answering:
    """A request whose tokens are coming back."""

    progress: Progress
    entered: int = 1
    """Of its tokens, those in the books."""
