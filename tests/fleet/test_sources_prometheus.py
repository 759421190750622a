"""The PromQL source: against a fake API for what can go wrong, against a real Prometheus for what it must say."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from fleet.errors import ConfigError, SourceError
from fleet.sources import queries
from fleet.sources.base import EngineReading, RouterQueue
from fleet.sources.prometheus import PrometheusSource, instance_of
from fleet.sources.scrape import ScrapeSource
from fleet.types import Replica
from tests.fleet.fake_engines import Engine, serve
from tests.fleet.real_prometheus import prometheus
from tests.waiting import until

NOW = 1_000_000.0


@contextmanager
def api(answer: Any, *, status: int = 200) -> Iterator[tuple[str, list[str]]]:
    """A Prometheus API that answers ``answer(query)``; gives its URL and the queries it got."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(parse_qs(urlsplit(self.path).query)["query"][0])
            body = answer(asked[-1])
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body if isinstance(body, bytes) else json.dumps(body).encode())

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        server.server_close()


def vector(*entries: tuple[dict[str, str], str], at_s: float = 5000.0) -> dict[str, Any]:
    result = [{"metric": labels, "value": [at_s, value]} for labels, value in entries]
    return {"status": "success", "data": {"resultType": "vector", "result": result}}


def fleet_of(count: int) -> list[Replica]:
    return [Replica(name=f"r{i}", url=f"http://10.0.0.{i}:8000", variant="a") for i in range(count)]


def test_a_rank_that_two_jobs_scrape_is_counted_once_and_two_ranks_are_added() -> None:
    info = {"instance": "10.0.0.0:8000", "num_gpu_blocks": "100", "block_size": "16"}
    series = [({**info, "engine": rank, "job": job}, "1") for rank in "01" for job in ("pods", "services")]
    up = [({"instance": "10.0.0.0:8000"}, "1")]
    with api(lambda query: vector(*(series if query == queries.cache_config() else up))) as (url, _):
        reading = PrometheusSource(url).read(fleet_of(1), now_s=NOW)
    assert [one.sample.kv_capacity_tokens for one in reading.values() if one.sample] == [3200.0]


def test_the_number_of_queries_does_not_depend_on_the_fleet() -> None:
    with api(lambda _: vector()) as (url, asked):
        source = PrometheusSource(url)
        source.read(fleet_of(1), now_s=NOW)
        one = len(asked)
        source.read(fleet_of(200), now_s=NOW)
        assert one == len(asked) - one == 10
        source.router_queue()
        source.traffic()
    assert len(asked) == 2 * 10 + 6, "a pass asks 16"


def test_dcgm_tells_of_pods_by_either_label_and_not_of_names_that_two_have() -> None:
    up = [({"instance": f"10.0.0.{i}:8000"}, "1") for i in range(4)]
    gpus = [({"pod": "dcgm-x", "exported_pod": "r0"}, "0.9"), ({"pod": "r1"}, "1.2"), ({"pod": "r2"}, "0.1"),
            ({"pod": "dcgm-x", "exported_pod": "r2"}, "0.8"), ({}, "0.7"), ({"pod": "r3"}, "NaN")]  # fmt: skip
    with api(lambda query: vector(*(gpus if query == queries.gpu_active() else up))) as (url, _):
        found = PrometheusSource(url).read(fleet_of(4), now_s=NOW)
    assert [one.gpu_active for one in found.values()] == [0.9, 1.0, None, None]


def test_the_router_s_queue_has_the_age_of_its_oldest_sample_by_prometheus_own_clock() -> None:
    def answer(query: str) -> Any:
        if query == queries.router_queue():
            return vector(({"target_model_name": "a"}, "4"), ({"model_name": "a"}, "2"), ({"model_name": "b"}, "NaN"))
        if query == queries.router_queue_sampled_at():
            return vector(
                ({"target_model_name": "a"}, "4990"), ({"model_name": "a"}, "4950"), ({"model_name": "b"}, "4999")
            )
        return vector()

    with api(answer) as (url, _):
        assert PrometheusSource(url).router_queue() == RouterQueue(waiting={"a": 6.0}, ages_s={"a": 50.0, "b": 1.0})
    with api(lambda _: vector()) as (url, _):
        assert PrometheusSource(url).router_queue() == RouterQueue(waiting={}, ages_s={})


def test_ages_are_by_prometheus_own_clock() -> None:
    """Its clock and ours may differ by hours; only the difference between sample and query counts."""
    instance = {"instance": "10.0.0.0:8000"}

    def answer(query: str) -> Any:
        if query == queries.sampled_at():
            return vector((instance, "4988"))
        if query == queries.raw():
            return vector(({"__name__": "vllm:num_requests_waiting", **instance}, "7"))
        return vector()

    with api(answer) as (url, _):
        reading = PrometheusSource(url).read(fleet_of(2), now_s=NOW)
    assert set(reading) == {"http://10.0.0.0:8000"}
    assert reading["http://10.0.0.0:8000"].sample.at_s == NOW - 12.0
    assert reading["http://10.0.0.0:8000"].sample.waiting == 7.0
    assert reading["http://10.0.0.0:8000"].generation_tps is None


def test_a_time_that_means_nothing_is_no_age() -> None:
    """NaN compares as neither fresh nor stale."""
    instance = {"instance": "10.0.0.0:8000"}
    times = {queries.sampled_at(), queries.router_queue_sampled_at()}
    with api(lambda query: vector(({**instance, "model_name": "a"}, "NaN" if query in times else "1"))) as (url, _):
        source = PrometheusSource(url)
        assert source.read(fleet_of(1), now_s=NOW) == {}
        assert source.router_queue() == RouterQueue(waiting={"a": 1.0}, ages_s={})


def test_values_that_mean_nothing_are_dropped_and_aliases_come_second() -> None:
    instance = {"instance": "10.0.0.0:8000"}

    def answer(query: str) -> Any:
        if query == queries.sampled_at():
            return vector((instance, "5000"))
        if query == queries.raw():
            return vector(
                ({"__name__": "vllm:num_requests_waiting", **instance}, "NaN"),
                ({"__name__": "sglang:num_running_reqs", **instance}, "9"),
                ({"__name__": "vllm:num_requests_running", **instance}, "3"),
                ({"__name__": "sglang:prompt_tokens_total", **instance}, "50"),
            )
        if query == queries.kv_utilisation():
            return vector(({"__name__": "sglang:token_usage", **instance}, "+Inf"))
        return vector()

    with api(answer) as (url, _):
        sample = PrometheusSource(url).read(fleet_of(1), now_s=NOW)["http://10.0.0.0:8000"].sample
    assert (sample.waiting, sample.kv_utilisation) == (None, None)
    assert (sample.running, sample.prompt_tokens_total) == (3.0, 50.0)


@pytest.mark.parametrize(
    ("answer", "status", "line"),
    [
        pytest.param(b"<html>", 200, "gives no Prometheus answer", id="no JSON"),
        pytest.param({"status": "success"}, 200, "gives no Prometheus answer", id="no data"),
        pytest.param([], 200, "gives no Prometheus answer", id="a list"),
        pytest.param({"data": {"result": {}}}, 200, "gives no Prometheus answer", id="no list of results"),
        pytest.param({"data": {"result": [{"metric": {}}]}}, 200, "gives no instant vector", id="no value"),
        pytest.param({"data": {"result": [{"metric": {}, "values": []}]}}, 200, "no instant vector", id="a matrix"),
        pytest.param({"error": "out of memory"}, 503, "refuses a query: HTTP Status Code 503", id="an error status"),
    ],
)
def test_bad_answers_are_one_clear_line(answer: Any, status: int, line: str) -> None:
    with api(lambda _: answer, status=status) as (url, _), pytest.raises(SourceError, match=line) as caught:
        PrometheusSource(url).read(fleet_of(1), now_s=NOW)
    assert "\n" not in str(caught.value)
    assert url in str(caught.value)


def test_unreachable_and_slow_are_one_clear_line_each(free_port: int) -> None:
    with pytest.raises(SourceError, match="cannot be reached"):
        PrometheusSource(f"http://127.0.0.1:{free_port}").check()
    gate = threading.Event()

    def slow(_: str) -> Any:
        gate.wait(60)
        return vector()

    with api(slow) as (url, _):
        with pytest.raises(SourceError, match="does not answer in time"):
            PrometheusSource(url, timeout_s=0.2).check()
        gate.set()


@pytest.mark.parametrize("url", ["", "prometheus:9090", "ftp://host", "http://", "http://host:99999", "http://[::1"])
def test_malformed_urls_are_refused_at_once(url: str) -> None:
    with pytest.raises(ConfigError, match="is no URL"):
        PrometheusSource(url)


@pytest.mark.parametrize(
    ("url", "instance"),
    [
        ("http://10.0.0.1:8000", "10.0.0.1:8000"),
        ("https://engine", "engine:443"),
        ("http://user:secret@engine:81", "engine:81"),
        ("http://[::1]:8000", "[::1]:8000"),
    ],
)
def test_instances(url: str, instance: str) -> None:
    assert instance_of(url) == instance


def agree(scraped: EngineReading, asked: EngineReading) -> None:
    """Gauges are equal, rates and counters within what two clocks allow."""
    for field in ("waiting", "running", "kv_utilisation", "kv_capacity_tokens", "preemptions_total"):
        assert getattr(asked.sample, field) == pytest.approx(getattr(scraped.sample, field)), field
    for field in ("generation_tps", "prompt_tps", "request_rps"):
        assert getattr(asked, field) == pytest.approx(getattr(scraped, field), rel=0.15), field
    assert asked.prefix_hit_ratio == pytest.approx(scraped.prefix_hit_ratio, abs=0.02)
    assert asked.sample.generation_tokens_total == pytest.approx(scraped.sample.generation_tokens_total, rel=0.3)


@pytest.mark.integration
@pytest.mark.needs_prometheus
def test_both_sources_agree_on_the_same_engines(prometheus_binary: str, tmp_path: Path, free_port: int) -> None:
    engines = [Engine(1000.0), Engine(300.0), Engine(50.0, ranks=1)]
    with ExitStack() as stack:
        urls = [stack.enter_context(serve(engine.page)) for engine in engines]
        fleet = [Replica(name=url, url=url, variant="a") for url in urls]
        # the first engine is scraped by two jobs: nothing may be counted double
        jobs = {"engines": urls, "again": urls[:1]}
        asked = PrometheusSource(
            stack.enter_context(prometheus(prometheus_binary, tmp_path, free_port, jobs)), window_s=2.0
        )
        scraper = ScrapeSource(window_s=2.0)
        engines[0].waiting, engines[1].kv, engines[2].running = 12.0, 0.93, 1.0

        def full_window() -> bool:
            scraper.read(fleet, now_s=time.time())
            found = asked.read(fleet, now_s=time.time())
            return all(found.get(url) and found[url].generation_tps for url in urls)

        def apart() -> str:
            """What the two say differently; on a busy machine either may miss an engine's answer for a moment."""
            now_s = time.time()
            direct, through = scraper.read(fleet, now_s=now_s), asked.read(fleet, now_s=now_s)
            try:
                for url, engine in zip(urls, engines, strict=True):
                    agree(direct[url], through[url])
                    assert direct[url].generation_tps == pytest.approx(engine.speed, rel=0.15)
                    assert 0.0 <= now_s - through[url].sample.at_s < 5.0
                assert through[urls[0]].sample.waiting == 12.0
            except (AssertionError, KeyError) as error:
                return repr(error)
            return ""

        until(full_window, "every engine has a rate")
        until(lambda: not apart(), apart, every_s=0.25)


@pytest.mark.integration
@pytest.mark.needs_prometheus
def test_a_dead_engine_disappears_and_queries_stay_valid_with_aliases(
    prometheus_binary: str, tmp_path: Path, free_port: int
) -> None:
    sglang = (
        'sglang:num_queue_reqs{model_name="toy"} 2\nsglang:num_running_reqs{model_name="toy"} 5\n'
        'sglang:token_usage{model_name="toy"} 0.25\nvllm:gpu_cache_usage_perc{model_name="toy"} 0.75\n'
        'llm_d_epp_flow_control_queue_size{target_model_name="toy"} 4\n'
    )
    alive = True
    with serve(lambda: sglang if alive else None) as url:
        fleet = [Replica(name="s", url=url, variant="a")]
        with prometheus(prometheus_binary, tmp_path, free_port, {"engines": [url]}) as address:
            source = PrometheusSource(address, window_s=2.0)
            until(lambda: url in source.read(fleet, now_s=NOW), "the engine is seen")
            sample = source.read(fleet, now_s=NOW)[url].sample
            queue = source.router_queue()
            alive = False
            until(lambda: url not in source.read(fleet, now_s=NOW), "the dead engine is gone")
    assert (sample.waiting, sample.running) == (2.0, 5.0)
    assert sample.kv_utilisation == 0.75, "vLLM's old name comes before SGLang's"
    assert queue.waiting == {"toy": 4.0}
    assert set(queue.ages_s or {}) == {"toy"}
    assert 0.0 <= (queue.ages_s or {})["toy"] < 5.0
