"""The closed form against the engine it stands for."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.cluster import Arrival, Cluster, round_robin
from simulator.config import EngineConfig
from simulator.engine import Engine
from simulator.sequence import EngineRequest
from simulator.steady import Load, steady
from simulator.steptime import timer_for

TIMER = timer_for("Llama-3.1-8B", "h100_sxm", 1)
INGRESS_S = 0.005


def simulated(load: Load, *, requests: int = 600) -> tuple[float, float]:
    """Mean TTFT and E2E of an engine whose scheduler sees a request at once."""
    config = EngineConfig(timer=TIMER, blocks=20_000, max_num_seqs=256, max_num_batched_tokens=8192, max_model_len=8192)
    rng = random.Random(3)
    moments = itertools.accumulate(rng.expovariate(load.rate_rps) for _ in range(requests))
    arrivals = [
        Arrival(at_s=at_s, request=EngineRequest(request_id=str(index), prompt_tokens=int(load.prompt_tokens),
                                                 output_tokens=int(load.output_tokens)))
        for index, at_s in enumerate(moments)
    ]  # fmt: skip
    outcomes = Cluster([Engine(config, ingress_s=INGRESS_S)], round_robin()).run(arrivals)
    counted = [outcome for outcome in outcomes if int(outcome.request_id) >= requests // 5]
    return sum(o.ttft_s for o in counted) / len(counted), sum(o.e2e_s for o in counted) / len(counted)


@pytest.mark.parametrize(
    "load",
    [
        pytest.param(Load(rate_rps=2, prompt_tokens=500, output_tokens=250), id="nearly-idle"),
        pytest.param(Load(rate_rps=10, prompt_tokens=500, output_tokens=250), id="busy"),
        pytest.param(Load(rate_rps=4, prompt_tokens=2000, output_tokens=400), id="long-prompts"),
        pytest.param(Load(rate_rps=12, prompt_tokens=2000, output_tokens=50), id="prompts-that-wait-for-others"),
    ],
)
def test_it_gives_the_means_of_an_engine_below_saturation(load: Load) -> None:
    ttft_s, e2e_s = simulated(load)
    found = steady(replace(TIMER, host_s=INGRESS_S, steps_ahead=0.0), load)
    assert found.e2e_s == pytest.approx(e2e_s, rel=0.05)
    assert found.ttft_s == pytest.approx(ttft_s, rel=0.1)


@given(st.floats(0.1, 20), st.floats(16, 4000), st.floats(2, 1000))
def test_more_load_is_never_faster(rate: float, prompt: float, output: float) -> None:
    calm, busy = (
        steady(TIMER, Load(rate_rps=r, prompt_tokens=prompt, output_tokens=output)) for r in (rate, 1.5 * rate)
    )
    assert busy.e2e_s >= calm.e2e_s
    assert busy.batch >= calm.batch
    assert 0 < calm.ttft_s < calm.e2e_s < float("inf")


def test_a_cached_prompt_is_answered_sooner() -> None:
    cold = Load(rate_rps=2, prompt_tokens=4000, output_tokens=100)
    warm = Load(rate_rps=2, prompt_tokens=4000, output_tokens=100, cached_tokens=cold.full_hit())
    assert steady(TIMER, warm).ttft_s < steady(TIMER, cold).ttft_s


@pytest.mark.parametrize(("prompt", "found"), [(1, 0), (16, 0), (17, 16), (547, 544)])
def test_a_full_hit_leaves_the_last_token_to_compute(prompt: int, found: int) -> None:
    assert Load(rate_rps=1, prompt_tokens=prompt, output_tokens=10).full_hit() == found
