"""The demo's own traffic and fleet go together: what a newcomer sees first is well, and no alert is on for ever."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from alerts.application import HIT_RATIO_LOW
from fleet.settings import read_yaml
from fleet.slo import DEFAULT_SLOS
from fleet.up import report
from fleet.up.cli import UpSettings
from simulator.cluster import Arrival, Cluster
from simulator.engine import Engine
from simulator.picks import least_request
from simulator.sequence import EngineRequest
from simulator.settings import FleetFile
from simulator.tokens import BLOCK_TOKENS
from simulator.traffic_options import shaped
from simulator.workload import TimedRequest

DEMO = FleetFile.model_validate(read_yaml(Path(report.__file__).parent / "demo.yaml"))
LIMIT_S = DEFAULT_SLOS.default.targets().ttft_s
CALM_S = 40.0
"""The trace's hour begins near its mean and stays there for so long; then it rises, and replicas start."""


def drawn(until_s: float, seed: int) -> list[TimedRequest]:
    """What ``fleet up`` replays."""
    up = UpSettings()
    return list(shaped(
        trace="azure2023_conv", traces=None, period_s=up.period_s, warp=None, mean_rps=up.mean_rps, rate_scale=None,
        prefixes=8, prefix_share=up.prefix_share, mean_input=None, mean_output=None, seed=seed,
    ).requests(until_s))  # fmt: skip


def arrival(number: int, one: TimedRequest) -> Arrival:
    shared, blocks = one.prefix_tokens // BLOCK_TOKENS, one.input_tokens // BLOCK_TOKENS
    hashes = [1_000_000 * (one.prefix_id or 0) + block if block < shared else -1_000_000 * (number + 1) - block
              for block in range(blocks)]  # fmt: skip
    request = EngineRequest(request_id=str(number), prompt_tokens=one.input_tokens, output_tokens=one.output_tokens,
                            block_hashes=hashes)  # fmt: skip
    return Arrival(at_s=one.arrival_s, request=request)


def ttft_p95_s(replicas: dict[str, int], seed: int) -> float:
    engines = [Engine(entry.engine()) for entry in DEMO.variants for _ in range(replicas[entry.name])]
    fleet = Cluster(engines, least_request())
    outcomes = fleet.run([arrival(number, one) for number, one in enumerate(drawn(CALM_S, seed))])
    return float(np.percentile([outcome.ttft_s for outcome in outcomes], 95))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_first_replicas_keep_the_promise_until_load_rises(seed: int) -> None:
    first = {entry.name: entry.first_replicas for entry in DEMO.variants}
    assert ttft_p95_s(first, seed) < LIMIT_S
    assert any(entry.first_replicas < entry.max_replicas for entry in DEMO.variants), "there is a rise to be seen"
    assert ttft_p95_s({**first, "llama-8b-h100": 1}, seed) > LIMIT_S, "not more than needed"


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_its_prompts_share_more_than_the_alert_on_low_hit_rates_asks_for(seed: int) -> None:
    requests = drawn(UpSettings().period_s, seed)
    shared = sum(one.prefix_tokens for one in requests) / sum(one.input_tokens for one in requests)
    assert 1.2 * HIT_RATIO_LOW < shared < 0.5, "room for cold caches; yet no wonder of a cache"
