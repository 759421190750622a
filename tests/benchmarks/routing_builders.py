"""Small fronts, requests and results for the routing bench's tests."""

from __future__ import annotations

from benchmarks.routing.front import Asked, Front
from benchmarks.routing.run import Served
from router.types import InferenceRequest
from simulator.config import engine_config
from simulator.engine import Engine

PROMPT = 640


def engines(count=3):
    config = engine_config("Llama-3.1-8B", "h100_sxm", 1, kv_tokens=32_000)
    return [Engine(config) for _ in range(count)]


def front(*loads):
    """Endpoints with (requests, uncached tokens of each) in flight."""
    made = Front(engines(len(loads)))
    for index, (requests, uncached) in enumerate(loads):
        for turn in range(requests):
            made.ledger.dispatch(made.urls[index], f"{index}-{turn}", uncached, PROMPT)
    return made


def asked(*matched, tokens=PROMPT, blocks=10, name="r"):
    """A request of ``tokens`` prompt tokens, of which so many match at each endpoint."""
    inference = InferenceRequest(
        request_id=name, model="m", input_tokens=tokens, block_hashes=tuple(range(100, 100 + blocks)), block_tokens=64
    )
    return Asked(inference=inference, matched=matched)


def served(*, engine=0, sent_s=0.0, ttft_s=0.1, tpot_s=0.02, e2e_s=1.0, prompt=100, output=50, cached=0):
    return Served(
        engine=engine,
        sent_s=sent_s,
        ttft_s=ttft_s,
        tpot_s=tpot_s,
        e2e_s=e2e_s,
        prompt_tokens=prompt,
        output_tokens=output,
        cached_tokens=cached,
        preemptions=0,
    )
