"""A world whose law is known: engines under a wandering load, with noise and stalls, in the features' words."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from predictor.samples import Sample, make

KV_TOKENS = 66_000.0


FLEET = (("http://a:1", "h100", 1.0), ("http://b:1", "h100", 1.0), ("http://c:1", "a100", 2.0))
"""Address, variant, and the factor on all of its times."""

Endpoint = tuple[str, str, float]
World = Callable[..., list[Sample]]


@pytest.fixture(scope="session")
def world() -> World:
    """``world(n, seed=0, endpoints=FLEET, noise=0.1)``: n samples in the order of time."""
    return _world


def _world(n: int, *, seed: int = 0, endpoints: Sequence[Endpoint] = FLEET, noise: float = 0.1) -> list[Sample]:
    rng = np.random.default_rng(seed)
    load = 0.5 + 0.35 * np.sin(2 * np.pi * (np.arange(n) / 257 + rng.random()))
    return [_sample(rng, float(load[i]), endpoints[int(rng.integers(len(endpoints)))], noise) for i in range(n)]


def _sample(rng: np.random.Generator, load: float, endpoint: Endpoint, noise: float) -> Sample:
    """The law has what the physics columns only approximate: whole chunks, a max(), a step to wait for."""
    url, variant, slow = endpoint
    length = float(np.clip(rng.lognormal(7, 0.8), 20, 16_000).round())
    cached = float(round(rng.choice([0.0, 0.0, 0.5, 0.9]) * length))
    requests = float(rng.poisson(60 * load))
    context = requests * float(rng.normal(1500, 100))
    pending = float(rng.poisson(2.5 * load) * 900)
    overflow = max(0.0, context + length - KV_TOKENS)
    uncached = length - cached
    step = 0.007 + 1e-5 * requests + 4.2e-8 * context
    chunks = np.ceil((uncached + pending) / 2048)
    ttft = 0.0156 + step * rng.random() + max(chunks * step, 1.8e-5 * (uncached + pending))
    ttft += 1.7e-9 * uncached * (cached + uncached / 2) + 2e-5 * overflow
    tpot = step * (1 + 0.4 * load * rng.random()) + 1e-9 * length
    stall = 5.0 if rng.random() < 0.01 else 1.0
    return make(
        {
            "input_tokens": length,
            "cached_tokens": cached,
            "prefill_tokens_in_flight": pending,
            "requests_in_flight": requests,
            "context_tokens_in_flight": context,
            "waiting": float(np.ceil(overflow / 1500)),
            "running": requests,
            "kv_utilisation": min(1.0, context / KV_TOKENS * float(rng.normal(1, 0.03))),
        },
        ttft_s=float(ttft * slow * rng.lognormal(0, noise) * stall),
        tpot_s=float(tpot * slow * rng.lognormal(0, noise)),
        endpoint=url,
        variant=variant,
    )


@pytest.fixture(scope="session", autouse=True)
def _one_thread_of_linear_algebra() -> Iterator[None]:
    """As in the fitting process: on busy cores its threads only wait for each other."""
    with threadpool_limits(1):
        yield
