"""A model's requests from the router's page and from engines' pages; the same through a real Prometheus."""

from __future__ import annotations

import math
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from fleet.sources.exposition import parse
from fleet.sources.prometheus import PrometheusSource
from fleet.sources.scrape import RouterPage, ScrapeSource
from fleet.sources.traffic import ENGINES, ROUTER, model_traffic, preferred
from fleet.types import ModelTraffic, Replica
from router.metrics import RouterCollector, RouterMetrics
from tests.fleet.fake_engines import serve
from tests.fleet.test_sources_prometheus import prometheus, until

VLLM = (Path(__file__).parents[1] / "data/vllm_0.32_cpu_metrics.txt").read_text(encoding="utf-8")


def router_page(*, requests: int = 10, running: int = 3, model: str = "toy") -> str:
    """A page of the router's own collector: its names are the ones that are read."""
    metrics = RouterMetrics()
    meters = metrics.model(model)
    meters.requests, meters.running, meters.prompt_tokens = requests, running, 5000
    for index in range(requests):
        meters.ttft_stream.observe(0.05 if index % 2 else 0.3)
        meters.ttft_plain.observe(9.0)
        meters.tpot.observe(0.012)
        meters.duration.observe(1.0)
        meters.output_tokens.observe(64)
    registry = CollectorRegistry()
    registry.register(RouterCollector(metrics, lambda: ()))
    return generate_latest(registry).decode()


def read(text: str, words=ROUTER, source: str = "router") -> dict[str, ModelTraffic]:
    return model_traffic(parse(text, words.series), words, at_s=5.0, source=source)


def test_the_router_s_own_page_tells_arrivals_lengths_and_latencies():
    found = read(router_page())["toy"]
    assert (found.arrived_total, found.finished_total, found.in_flight) == (13.0, 10.0, 3.0)
    assert (found.prompt_tokens_total, found.generation_tokens_total) == (5000.0, 640.0)
    assert found.ttft.count == 10.0, "answers that were not streamed have no first token of their own"
    assert sum(found.ttft.counts[: found.ttft.bounds.index(0.1) + 1]) == 5.0
    assert found.ttft.sum_s == pytest.approx(5 * 0.05 + 5 * 0.3)
    assert (found.tpot.count, found.e2e.count, found.at_s, found.source) == (10.0, 10.0, 5.0, "router")


def test_a_recorded_vllm_page_tells_the_same_of_an_engine():
    (found,) = read(VLLM, ENGINES, "engines").values()
    finished = sum(point.value for point in parse(VLLM, ENGINES.finished))
    assert found.finished_total == finished > 0
    assert found.arrived_total == finished + found.in_flight
    assert found.ttft.count == sum(p.value for p in parse(VLLM, {"vllm:time_to_first_token_seconds_count"}))
    assert found.prompt_tokens_total > 0
    assert found.generation_tokens_total > 0


def test_several_routers_are_added_up_and_models_kept_apart():
    text = router_page() + router_page(requests=4, running=0) + router_page(model="other", running=1)
    found = read(text)
    assert found["toy"].arrived_total == 17.0
    assert found["toy"].ttft.count == 14.0
    assert found["other"].in_flight == 1.0


@pytest.mark.parametrize("value", ["NaN", "-3", "+Inf"])
def test_numbers_that_mean_nothing_are_dropped(value):
    found = read(
        f'llm_d_epp_request_total{{model_name="toy"}} {value}\nllm_d_epp_request_running{{model_name="toy"}} 2\n'
    )
    assert (found["toy"].finished_total, found["toy"].arrived_total) == (None, 2.0)


def test_a_histogram_that_contradicts_itself_is_none():
    lines = [f'llm_d_epp_request_duration_seconds_bucket{{model_name="toy",le="{le}"}} {count}\n'
             for le, count in (("0.1", 5), ("1.0", 3), ("+Inf", 6))]  # fmt: skip
    text = 'llm_d_epp_request_total{model_name="toy"} 6\n' + "".join(lines)
    assert read(text)["toy"].e2e is None


def test_upstream_s_older_names_are_read_too():
    found = read('inference_objective_request_total{model_name="a",target_model_name="toy"} 6\n')
    assert found["toy"].finished_total == 6.0


def test_the_router_s_word_comes_before_the_engines():
    router = {"a": ModelTraffic(at_s=1, arrived_total=5.0), "b": ModelTraffic(at_s=1, queued=3.0)}
    engines = {name: ModelTraffic(at_s=1, arrived_total=9.0, source="engines") for name in ("a", "b", "c")}
    assert {name: one.arrived_total for name, one in preferred(router, engines).items()} == {
        "a": 5.0,
        "b": 9.0,
        "c": 9.0,
    }


def test_one_fetch_of_the_router_s_page_tells_queue_and_traffic():
    with serve(router_page) as url:
        page = RouterPage(url)
        assert page.traffic() == {}
        assert not any(page.queue().waiting.values())
        assert page.traffic()["toy"].arrived_total == 13.0
        assert time.time() - page.traffic()["toy"].at_s < 5.0


def histogram(name: str, count: int) -> str:
    return "".join(f'{name}_bucket{{model_name="toy",le="{le}"}} {count}\n' for le in ("0.1", "+Inf"))


def engine_page(finished: int, running: int) -> str:
    return (f'vllm:request_success_total{{model_name="toy",finished_reason="stop"}} {finished}\n'
            f'vllm:request_success_total{{model_name="toy",finished_reason="length"}} 1\n'
            f'vllm:num_requests_running{{model_name="toy"}} {running}\n'
            f'vllm:num_requests_waiting{{model_name="toy"}} 2\nvllm:kv_cache_usage_perc{{model_name="toy"}} 0.5\n'
            f'vllm:prompt_tokens_total{{model_name="toy"}} 700\nvllm:generation_tokens_total{{model_name="toy"}} 90\n'
            + histogram("vllm:time_to_first_token_seconds", finished))  # fmt: skip


@pytest.mark.integration
@pytest.mark.needs_prometheus
def test_prometheus_and_the_pages_themselves_agree(prometheus_binary, tmp_path, free_port):
    with ExitStack() as stack:
        engines = [stack.enter_context(serve(lambda n=n: engine_page(10 * n, n))) for n in (1, 2)]
        routers = [stack.enter_context(serve(router_page)) for _ in range(2)]
        jobs = {"engines": engines, "again": engines[:1], "routers": routers}
        url = stack.enter_context(prometheus(prometheus_binary, tmp_path, free_port, jobs))
        asked, scraped = PrometheusSource(url, window_s=2.0), ScrapeSource(window_s=2.0)
        fleet = [Replica(name=one, url=one, variant="a") for one in engines]

        def engines_found() -> ModelTraffic | None:
            words, heard = ENGINES, "engines"
            from fleet.signals import RUNNING
            from fleet.sources import queries

            return asked._traffic(queries.engine_traffic(), words, RUNNING, heard).get("toy")

        def both(found: ModelTraffic | None, arrived: float) -> ModelTraffic | None:
            return found if found is not None and found.arrived_total == arrived else None

        through = until(lambda: both(engines_found(), 39.0), "both engines are seen")
        found = until(lambda: both(asked.traffic().get("toy"), 26.0), "both routers are seen")
        scraped.read(fleet, now_s=time.time())
        direct = scraped.traffic()["toy"]
        for name in ("arrived_total", "finished_total", "in_flight", "prompt_tokens_total", "generation_tokens_total"):
            assert getattr(through, name) == getattr(direct, name), name
        assert through.ttft == direct.ttft
        assert found.source == "router"
        assert found.ttft.count == 20.0
        assert 0.0 <= time.time() - found.at_s < 10.0
        assert found.asked_s is not None and found.at_s <= found.asked_s <= time.time()
        assert direct.asked_s is None, "pages are read by our own clock"
        assert math.isclose(found.ttft.sum_s, 2 * (5 * 0.05 + 5 * 0.3))
