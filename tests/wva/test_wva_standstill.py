"""Hung engines: found by their counters, soon, and never by mistake."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from fleet.types import EngineSample
from simulator.cluster import Arrival, Cluster, Failure, FailureKind, round_robin
from simulator.config import EngineConfig, engine_config
from simulator.engine import Engine
from simulator.sequence import EngineRequest
from tests.wva.wva_builders import NOW, seen
from wva.standstill import Standstill, computes, hangs
from wva.types import Policy

RULES = Policy()
BUSY = engine_config("Llama-3.1-8B", "a100_sxm", kv_tokens=60_000)
CONFIGS = {"8B": BUSY, "70B": engine_config("Llama-3.1-70B", "h100_sxm", 4)}
WORKING = EngineSample(at_s=NOW, waiting=0.0, running=4.0, kv_utilisation=0.4, generation_tokens_total=1000.0,
                       prompt_tokens_total=5000.0, prefix_queries_total=5000.0)  # fmt: skip


@pytest.mark.parametrize(("change", "expected"), [
    pytest.param({}, False, id="nothing moves"),
    pytest.param({"generation_tokens_total": 1001.0}, True, id="a token"),
    pytest.param({"prompt_tokens_total": 5001.0}, True, id="a prompt's end"),
    pytest.param({"prefix_queries_total": 5100.0}, True, id="a prompt looked up"),
    pytest.param({"kv_utilisation": 0.41}, True, id="a chunk of a long prompt"),
    pytest.param({"generation_tokens_total": 3.0}, True, id="counters of another process"),
    pytest.param({"kv_utilisation": 0.3, "running": 3.0, "requests_total": 9.0}, False, id="a client left"),
    pytest.param({"waiting": 7.0}, False, id="requests came and wait"),
    pytest.param({"prompt_tokens_total": None}, False, id="one counter fell out"),
    pytest.param({"generation_tokens_total": None, "prompt_tokens_total": None, "prefix_queries_total": None}, None,
                 id="no counter is told"),
])  # fmt: skip
def test_what_counts_as_computing(change: dict[str, Any], expected: bool | None) -> None:
    assert computes(WORKING, replace(WORKING, **change)) is expected


def watched(samples: Sequence[EngineSample]) -> float | None:
    still = Standstill()
    for sample in samples:
        still.watch({"http://a": sample})
    return still.of("http://a")


def every(step_s: float, *changes: Mapping[str, Any]) -> list[EngineSample]:
    return [replace(WORKING, at_s=NOW + step_s * number, **change) for number, change in enumerate(changes)]


@pytest.mark.parametrize(("samples", "expected"), [
    pytest.param(every(15.0, {}), 0.0, id="one sample proves nothing"),
    pytest.param(every(15.0, {}, {}, {}), 30.0, id="since the first of equal ones"),
    pytest.param(every(15.0, {}, {}, {"generation_tokens_total": 1001.0}, {"generation_tokens_total": 1001.0}), 15.0,
                 id="a token begins it anew"),
    pytest.param(every(0.0, {}, {}, {}), 0.0, id="the same sample read again ages nothing: a scrape gap"),
    pytest.param(every(15.0, {"running": 0.0}, {"running": 0.0}, {}, {}), 15.0, id="idle before: from its requests on"),
    pytest.param(every(-15.0, {}, {}), 0.0, id="an older sample is not looked at"),
])  # fmt: skip
def test_how_long_it_stands_still(samples: list[EngineSample], expected: float) -> None:
    assert watched(samples) == expected


def test_engines_that_are_gone_are_forgotten() -> None:
    still = Standstill()
    still.watch({"http://a": WORKING})
    still.keep(["http://b"])
    assert still.of("http://a") is None


@pytest.mark.parametrize(("still_s", "change", "expected"), [
    pytest.param(29.0, {}, False, id="a long prompt"),
    pytest.param(30.0, {}, True, id="too long"),
    pytest.param(600.0, {"running": 0.0, "waiting": 9.0}, False, id="only waiting requests"),
    pytest.param(80.0, {"generation_tokens_total": 0.0}, False, id="compiles at first"),
    pytest.param(90.0, {"generation_tokens_total": 0.0}, True, id="never begins"),
    pytest.param(None, {}, False, id="not known"),
])  # fmt: skip
def test_when_it_hangs(still_s: float | None, change: dict[str, Any], expected: bool) -> None:
    one = replace(seen(0), sample=replace(WORKING, **change), still_s=still_s)
    assert hangs(one, RULES) is expected


# ---- simulated engines in virtual time


def traffic(seed: int, *, count: int, gap_s: float, prompt: tuple[int, int], output: tuple[int, int]) -> list[Arrival]:
    rng, at_s, found = random.Random(seed), 0.0, []
    for number in range(count):
        at_s += rng.expovariate(1.0 / gap_s)
        request = EngineRequest(request_id=str(number), prompt_tokens=rng.randint(*prompt),
                                output_tokens=rng.randint(*output))  # fmt: skip
        found.append(Arrival(at_s=at_s, request=request))
    return found


def alarms(
    config: EngineConfig, arrivals: list[Arrival], *, scrape_s: float, until_s: float, failure: Failure | None = None,
    offset_s: float = 0.0,
) -> list[float]:  # fmt: skip
    """When a scraper of one engine holds it for hung."""
    fleet = Cluster([Engine(config)], round_robin())
    still, found = Standstill(), []

    def scrape(now_s: float) -> None:
        engine = fleet.engines[0] if fleet.engines else fleet.members[0].engine
        counters = engine.counters
        sample = EngineSample(
            at_s=now_s, running=float(engine.running), waiting=float(engine.waiting(now_s)),
            kv_utilisation=engine.kv.usage, generation_tokens_total=float(counters.generation_tokens),
            prompt_tokens_total=float(counters.prompt_tokens), prefix_queries_total=float(counters.prefix_queries),
        )  # fmt: skip
        still.watch({"http://a-0:8000": sample})
        if hangs(replace(seen(0), sample=sample, still_s=still.of("http://a-0:8000")), RULES):
            found.append(now_s)

    fleet.every(scrape_s, scrape, start_s=offset_s)
    if failure is not None:
        fleet.fail(failure)
    fleet.run(arrivals, until_s=until_s)
    return found


@pytest.mark.parametrize("scrape_s", [2.0, 15.0])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_hang_is_seen_within_the_limit_and_two_scrapes(scrape_s: float, seed: int) -> None:
    arrivals = traffic(seed, count=300, gap_s=0.5, prompt=(50, 4000), output=(50, 400))
    begun_s = 60.0 + random.Random(seed).uniform(0.0, 15.0)
    found = alarms(BUSY, arrivals, scrape_s=scrape_s, until_s=240.0, offset_s=0.3 * seed,
                   failure=Failure(at_s=begun_s, engine=0, kind=FailureKind.HANG, duration_s=100.0))  # fmt: skip
    assert begun_s + RULES.stuck_after_s <= found[0] <= begun_s + RULES.stuck_after_s + 2 * scrape_s
    assert found[-1] <= begun_s + 100.0 + scrape_s, "it ends with the hang"


@pytest.mark.parametrize("scrape_s", [2.0, 15.0])
@pytest.mark.parametrize(("config", "load", "failure"), [
    pytest.param("8B", {"count": 400, "gap_s": 0.3, "prompt": (50, 4000), "output": (50, 400)}, None, id="busy"),
    pytest.param("8B", {"count": 30, "gap_s": 60.0, "prompt": (50, 500), "output": (2, 900)}, None, id="rarely used"),
    pytest.param("70B", {"count": 20, "gap_s": 45.0, "prompt": (90_000, 120_000), "output": (1, 5)}, None,
                 id="prompts of a hundred thousand tokens, one at a time"),
    pytest.param("70B", {"count": 60, "gap_s": 5.0, "prompt": (60_000, 120_000), "output": (1, 300)}, None,
                 id="more long prompts than it bears"),
    pytest.param("8B", {"count": 60, "gap_s": 3.0, "prompt": (50, 4000), "output": (50, 400)},
                 Failure(at_s=5.0, engine=0, kind=FailureKind.SLOW, factor=40.0), id="forty times too slow"),
])  # fmt: skip
def test_work_is_never_taken_for_a_hang(
    config: str, load: dict[str, Any], failure: Failure | None, scrape_s: float
) -> None:
    arrivals = traffic(7, **load)
    assert alarms(CONFIGS[config], arrivals, scrape_s=scrape_s, until_s=600.0, failure=failure, offset_s=1.1) == []
