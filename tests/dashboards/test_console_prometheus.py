"""Prometheus as the pages' source: what is asked, what becomes of answers, errors; all of it on a real Prometheus."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import promql_parser
import pytest
import requests
from streamlit.testing.v1 import AppTest

from dashboards import promframes, promqueries
from dashboards.prometheus import Client, PrometheusReader
from dashboards.promframes import Grid, Names, Series
from dashboards.promqueries import Rules
from dashboards.source import Reader
from dashboards.window import Window
from fleet.errors import SourceError
from fleet.signals import BY_ANY_NAME, base_name
from fleet.slo import DEFAULT_SLOS
from tests.dashboards.test_console_pages import SCRIPT, text
from tests.fleet.fake_engines import Engine, serve
from tests.fleet.real_prometheus import prometheus
from tests.fleet.test_sources_prometheus import api, vector
from tests.ports import free_ports
from tests.waiting import until

RULES = Rules(DEFAULT_SLOS)
EVERYTHING, NOTHING = frozenset(RULES.names), frozenset[str]()
WIDTHS = (3.0, 60.0, 180.0, 7200.0)


@pytest.mark.parametrize("known", [EVERYTHING, NOTHING], ids=["rules-loaded", "no-rules"])
@pytest.mark.parametrize("width_s", WIDTHS)
def test_every_expression_is_promql_over_the_catalogue_and_the_rules(width_s: float, known: frozenset[str]) -> None:
    for name, query in promqueries.expressions(RULES, width_s, known).items():
        promql_parser.parse(query)
        for series in re.findall(
            r"\b((?:vllm|model|router|fleet|wva|llm_d|DCGM|kube)[a-zA-Z_0-9]*:?[a-z_]*)[{\[]", query
        ):
            assert base_name(series) in BY_ANY_NAME or series in EVERYTHING, (name, series)


def test_loaded_rules_are_read_and_others_are_asked_for_as_their_expression() -> None:
    name = "model:ttft_good_rate:5m"
    assert RULES.read(name, 60.0, EVERYTHING) == f"avg_over_time({name}[60000ms])"
    assert RULES.read(name, 3.0, EVERYTHING) == name
    asked = RULES.read(name, 60.0, NOTHING)
    assert asked is not None
    assert 'le="0.2"' in asked
    assert "[5m]" in asked
    assert "[2h]" in (RULES.read(name, 7200.0, NOTHING) or "")
    assert RULES.read("model:none:5m", 60.0, NOTHING) is None


@pytest.mark.parametrize(("pod", "workload"), [
    ("llama-h100-6d4cf56db6-x7k2p", "llama-h100"), ("llama-h100-0", "llama-h100"), ("llama-h100-0-3", "llama-h100"),
    ("llama-3-8b-1", "llama-3-8b"),
])  # fmt: skip
def test_a_pods_workload_is_its_name_without_what_its_controller_appended(pod: str, workload: str) -> None:
    pattern = re.search(r'"pod", "(.*)"\)', promqueries.of_engines("generation_tps", 60.0, NOTHING) or "")
    assert pattern is not None
    found = re.fullmatch(pattern[1], pod)
    assert found is not None
    assert found[1] == workload


def test_bins_are_asked_for_at_their_ends() -> None:
    grid = Grid.of(100.0, 310.0, 60.0)
    assert (grid.first_s, grid.last_s, grid.points) == (120.0, 300.0, 4)
    assert Grid.of(100.0, 110.0, 60.0).points == 1


def series(values: list[float], **labels: str) -> Series:
    return Series(labels=labels, at_s=120.0 + 60.0 * np.arange(len(values)), values=np.array(values))


GRID = Grid(first_s=120.0, last_s=240.0, width_s=60.0)
NAMES = Names(models={"toy-h100": "toy", "toy-a100": "toy", "one": "single"})


@pytest.mark.parametrize(("labels", "variant"), [
    ({"variant_name": "toy-h100"}, "toy-h100"), ({"workload": "toy-a100", "model_name": "toy"}, "toy-a100"),
    ({"workload": "else", "model_name": "single"}, "one"), ({"workload": "else", "model_name": "toy"}, "else"),
    ({"model_name": "toy"}, "toy"),
], ids=["told", "by-workload", "only-one-of-the-model", "unknown-workload", "only-the-model"])  # fmt: skip
def test_the_variant_of_a_series(labels: dict[str, str], variant: str) -> None:
    assert NAMES.variant(labels) == variant


def test_series_of_one_variant_are_added_where_they_count_and_averaged_where_they_are_shares() -> None:
    two = [series([1.0, 3.0], workload="toy-h100"), series([3.0, float("nan")], workload="toy-h100")]
    running = promframes.signal_frame("vllm:num_requests_running", two, GRID, NAMES, endpoints=False)
    assert running[["bin_s", "mean"]].to_numpy().tolist() == [[60.0, 4.0], [120.0, 3.0]]
    share = promframes.signal_frame("vllm:kv_cache_usage_perc", two, GRID, NAMES, endpoints=False)
    assert share["mean"].tolist() == [2.0, 3.0]
    assert share["model"].unique().tolist() == ["toy"]


def test_preemptions_become_a_counter_that_only_grows() -> None:
    rates = [series([0.5, 0.0, 1.0], workload="one")]
    found = promframes.signal_frame("vllm:num_preemptions_total", rates, GRID, NAMES, endpoints=False)
    assert found["high"].tolist() == [30.0, 30.0, 90.0]


def test_requests_count_as_the_router_has_them_and_errors_by_their_code() -> None:
    rates = {
        "router": [series([1.0, 2.0], model_name="toy")], "finished": [series([9.0, 9.0], model_name="toy")],
        "codes": [series([0.1, 0.2], model_name="toy", error_code="500"),
                  series([0.1, 0.0], model_name="toy", error_code="429"),
                  series([0.5, 0.5], model_name="toy", error_code="404")],
        "ttft_n": [series([1.0, 2.0], model_name="toy")], "ttft_ok": [series([0.5, 2.0], model_name="toy")],
    }  # fmt: skip
    found = promframes.request_bins(rates, GRID)
    assert found["bin_s"].tolist() == [60.0, 120.0]
    assert found["requests"].tolist() == [60.0, 120.0]
    assert found["error"].tolist() == pytest.approx([6.0, 12.0])
    assert found["rejected"].tolist() == pytest.approx([6.0, 0.0])
    assert found["ok"].tolist() == pytest.approx([48.0, 108.0])
    assert found["ttft_ok"].tolist() == pytest.approx([30.0, 120.0])
    assert found["good"].tolist() == pytest.approx([18.0, 108.0])  # at least: 30 broke TTFT, maybe those that failed


def test_no_answers_are_an_empty_table_with_the_histories_columns() -> None:
    assert promframes.request_bins({}, GRID).empty
    assert "good" in promframes.request_bins({"router": []}, GRID)


def test_an_alert_that_stops_firing_ends_there() -> None:
    one = Series(labels={"alertname": "HighTTFT", "severity": "critical", "model_name": "toy", "alertstate": "firing"},
                 at_s=np.array([120.0, 180.0]), values=np.ones(2))  # fmt: skip
    grid = Grid(first_s=120.0, last_s=360.0, width_s=60.0)
    found = promframes.alert_events([one], grid, {"HighTTFT": "<model_name> is slow"})
    assert found[["at_s", "subject", "message"]].to_numpy().tolist() == [
        [240.0, "HighTTFT", "toy is slow"], [120.0, "HighTTFT", "toy is slow"]]  # fmt: skip
    assert [row["state"] for row in found["data"]] == ["resolved", "firing"]


# ---- errors


WINDOW = Window(since_s=0.0, until_s=600.0)


@pytest.mark.parametrize(("answer", "status", "said"), [
    pytest.param(lambda _: b"<html>", 200, "gives no Prometheus answer", id="no-prometheus"),
    pytest.param(lambda _: {"status": "error"}, 422, "refuses a query", id="refused"),
    pytest.param(lambda _: {"status": "success", "data": {"result": [{"metric": {}, "value": [0]}]}}, 200,
                 "gives no Prometheus answer", id="another-shape"),
])  # fmt: skip
def test_an_answer_that_cannot_be_used_names_the_source(answer: Any, status: int, said: str) -> None:
    with api(answer, status=status) as (url, _), pytest.raises(SourceError, match=said) as caught:
        Client(url, timeout_s=2.0, most_samples=1000).at("up", 1.0)
    assert url in str(caught.value)


def test_an_answer_beyond_the_limit_is_an_error_never_a_cut_chart() -> None:
    many = vector(*(({"instance": str(i)}, "1") for i in range(11)))
    with api(lambda _: many) as (url, _):
        client = Client(url, timeout_s=2.0, most_samples=100)
        assert len(client.at("up", 1.0)) == 11
        with pytest.raises(SourceError, match=r"more than 10 series.*CONSOLE_PROMETHEUS_MAX_SAMPLES"):
            client.between("up", Grid(first_s=60.0, last_s=600.0, width_s=60.0))


def test_an_address_where_nobody_is(free_port: int) -> None:
    reader = PrometheusReader(Client(f"http://127.0.0.1:{free_port}", timeout_s=1.0, most_samples=1000), DEFAULT_SLOS)
    with pytest.raises(SourceError, match="cannot be reached"):
        reader.request_bins(WINDOW, 60.0)


# ---- a real Prometheus


class Parts:
    """The pages of a router and a controller beside two engines, with counters that grow with time."""

    def __init__(self) -> None:
        self.began = time.time()

    def router(self) -> str:
        grown = 10.0 * (time.time() - self.began)
        labels = 'model_name="toy",target_model_name="toy"'
        ttft = "llm_d_epp_request_ttft_seconds_bucket{" + labels + ',streaming="true",le="'
        return "\n".join([
            f"llm_d_epp_request_total{{{labels}}} {grown}",
            f'llm_d_epp_request_error_total{{{labels},error_code="500"}} {grown / 10}',
            f'{ttft}0.1"}} {grown / 2}', f'{ttft}0.2"}} {grown * 0.8}', f'{ttft}0.4"}} {grown}',
            f'{ttft}+Inf"}} {grown}', "",
        ])  # fmt: skip

    def wva(self) -> str:
        labels = 'variant_name="toy-h100",namespace="prod",accelerator_type="h100_sxm"'
        return "\n".join([
            f"wva_desired_replicas{{{labels}}} 3", f"wva_current_replicas{{{labels}}} 2",
            f'wva_saturation_utilization{{{labels},model_name="toy"}} 0.6',
            'fleet_wva_cost_dollars_per_hour{variant_name="toy-h100"} 7.98', "",
        ])  # fmt: skip


@pytest.fixture(scope="module")
def served(prometheus_binary: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real Prometheus that has scraped two engines, a router and a controller for some seconds."""
    parts = Parts()
    engines = [Engine(100.0), Engine(300.0)]
    engines[1].kv = 0.9
    with ExitStack() as stack:
        urls = [stack.enter_context(serve(engine.page)) for engine in engines]
        jobs = {"engines": urls, "router": [stack.enter_context(serve(parts.router))],
                "wva": [stack.enter_context(serve(parts.wva))]}  # fmt: skip
        folder: Path = tmp_path_factory.mktemp("prometheus")
        url = stack.enter_context(prometheus(prometheus_binary, folder, free_ports(), jobs))

        def counted() -> bool:
            query = {"query": "min(count_over_time(up[5m])) > 12"}
            return bool(requests.get(f"{url}/api/v1/query", params=query, timeout=30).json()["data"]["result"])

        until(counted, "all were scraped a dozen times")
        yield url


def reader_of(url: str, history: Reader | None = None) -> PrometheusReader:
    return PrometheusReader(Client(url, timeout_s=30.0, most_samples=200_000), DEFAULT_SLOS, history)


def now_window() -> Window:
    now = time.time()
    return Window(since_s=now - 300.0, until_s=now)


@pytest.fixture
def _nothing_else(missing_history: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No history, and no other part is asked."""
    monkeypatch.setenv("CONSOLE_HISTORY_URL", missing_history)
    for part in ("WVA", "ROUTER", "PREDICTOR", "ALERTS"):
        monkeypatch.setenv(f"CONSOLE_{part}", "")


real = [pytest.mark.integration, pytest.mark.needs_prometheus]


class TestReal:
    """Everything the pages read, from a real Prometheus."""

    pytestmark = real

    @pytest.mark.parametrize("known", [EVERYTHING, NOTHING], ids=["rules-loaded", "no-rules"])
    def test_it_takes_every_expression(self, served: str, known: frozenset[str]) -> None:
        client = Client(served, timeout_s=30.0, most_samples=200_000)
        for width_s in WIDTHS:
            for query in promqueries.expressions(RULES, width_s, known).values():
                assert isinstance(client.at(query, time.time()), list), query

    def test_engines_variants_and_models_are_found(self, served: str) -> None:
        reader, window = reader_of(served), now_window()
        assert reader.engines(window) == 2
        assert reader.models(window) == ["toy"]
        row = reader.variants(window).iloc[0].to_dict()
        assert (row["variant"], row["model"], row["accelerator"], row["namespace"]) == (
            "toy-h100", "toy", "h100_sxm", "prod")  # fmt: skip
        assert time.time() - (reader.newest_s(window.until_s) or 0.0) < 30.0

    def test_signals_have_the_histories_shape(self, served: str) -> None:
        reader, window = reader_of(served), now_window()
        names = ("vllm:num_requests_waiting", "vllm:kv_cache_usage_perc", "wva_desired_replicas", "requested_replicas")
        found = reader.variant_bins(window, names, 3.0)
        last = found.groupby("signal").last()
        assert last.loc["vllm:num_requests_waiting", "mean"] == 6.0
        assert last.loc["vllm:kv_cache_usage_perc", "mean"] == pytest.approx(0.65)
        assert last.loc["wva_desired_replicas", "mean"] == 3.0
        assert set(found["variant"]) == {"toy-h100"}
        each = reader.signal_bins(window, ("generation_tps",), 3.0).groupby("endpoint")["mean"].last()
        assert each.max() / each.min() == pytest.approx(3.0, rel=0.2)
        heat = reader.heat_bins(window, "vllm:kv_cache_usage_perc", 3.0, most=1)
        assert heat["high"].max() == 0.9
        assert heat["endpoint"].nunique() == 1

    def test_requests_and_percentiles_come_from_the_routers_histogram(self, served: str) -> None:
        reader, window = reader_of(served), now_window()
        found = reader.request_bins(window, 3.0)
        newest = found[found["requests"] > 0].iloc[-1]
        assert newest["variant"] == "toy-h100"
        assert newest["ttft_ok"] / newest["ttft_n"] == pytest.approx(0.8, abs=0.02)
        assert newest["ok"] / newest["requests"] == pytest.approx(0.9, abs=0.02)
        total = reader.request_bins(window, 300.0)
        assert len(total) == 1
        assert total["requests"].iloc[0] > 0
        fleet, models, step = reader.percentile_bins(window, 3.0, (0.5, 0.95, 0.99))["ttft"]
        assert step == 0
        assert fleet["p50"].dropna().iloc[-1] == pytest.approx(0.1, abs=0.01)
        assert models["p95"].dropna().iloc[-1] == pytest.approx(0.35, abs=0.02)
        assert reader.percentiles_now(window)["toy", "ttft"] == pytest.approx(0.35, abs=0.02)

    def test_what_is_no_series_is_empty_without_a_history(self, served: str) -> None:
        reader, window = reader_of(served), now_window()
        assert reader.decisions(window).empty
        assert reader.events(window).empty
        assert reader.latencies(window)[0].empty
        assert isinstance(reader.evidence(window), dict)

    def test_what_is_no_series_comes_from_the_history(self, served: str, filled_history: str) -> None:
        reader, window = reader_of(served, Reader(filled_history)), now_window()
        assert not reader.decisions(window.over(window.since_s - 900, window.until_s)).empty

    @pytest.mark.parametrize(("path", "words"), [
        ("overview", ["breach", "toy-h100", "350 ms"]), ("business", ["TTFT &lt; 200 ms", "80 %"]),
        ("vllm", ["Engines sampled", "90 %"]), ("resources", ["toy-h100", "GPUs in use"]),
        ("infrastructure", ["Replicas over time"]), ("autoscaling", ["Saturation"]), ("alerts", ["Diagnosis"]),
    ])  # fmt: skip
    @pytest.mark.usefixtures("fresh_caches", "_nothing_else")
    def test_a_page_without_a_history(
        self, served: str, path: str, words: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("CONSOLE_PROMETHEUS_URL", served)
        monkeypatch.setenv("CONSOLE_PROMETHEUS_TIMEOUT_S", "60")
        page = AppTest.from_string(SCRIPT.format(path=path), default_timeout=120)
        page.query_params["range"] = "5m"
        page.run()
        assert not page.exception
        said = text(page)
        for word in words:
            assert word in said


@pytest.mark.usefixtures("fresh_caches", "_nothing_else")
def test_a_page_names_the_prometheus_that_does_not_answer(free_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONSOLE_PROMETHEUS_URL", f"http://127.0.0.1:{free_port}")
    page = AppTest.from_string(SCRIPT.format(path="vllm"), default_timeout=60).run()
    assert not page.exception
    said = text(page)
    assert "Prometheus cannot be read" in said
    assert f"127.0.0.1:{free_port}" in said
