"""Adapters, sleep and older metric names: what they change, not only what they answer."""

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from simulator.config import engine_config
from simulator.engine import Engine
from simulator.metrics_page import EngineMetrics, PageOptions
from simulator.sequence import EngineRequest
from simulator.vllm_metrics import VERSIONS
from tests.waiting import until

pytestmark = pytest.mark.integration
MODEL = "meta-llama/Llama-3.1-8B-Instruct"
LONG = "a text of several blocks for the prefix cache " * 10


@pytest.fixture(scope="module")
def engine(launch_engine: Callable[..., Any]) -> Iterator[httpx.Client]:
    started = launch_engine("--speed", "20", "--max-loras", "2", "--lora-module", "sql=adapters/sql").ready()
    with httpx.Client(base_url=started.url, timeout=60) as client:
        yield client


def _complete(engine: httpx.Client, **fields: Any) -> httpx.Response:
    return engine.post("/v1/completions", json={"prompt": LONG, "max_tokens": 5, "ignore_eos": True, **fields})


def _cached(engine: httpx.Client, **fields: Any) -> int:
    return int(_complete(engine, **fields).json()["usage"]["prompt_tokens_details"]["cached_tokens"])


def _series(engine: httpx.Client, name: str) -> dict[tuple[tuple[str, str], ...], float]:
    families = text_string_to_metric_families(engine.get("/metrics").text)
    return {tuple(sorted(sample.labels.items())): sample.value
            for family in families for sample in family.samples if sample.name == name}  # fmt: skip


# ---- adapters


def test_adapters_and_salts_share_no_cache_with_others(engine: httpx.Client) -> None:
    full = (len(LONG) // 4) // 16 * 16
    assert [_cached(engine) for _ in range(2)] == [0, full]
    assert [_cached(engine, model="sql") for _ in range(2)] == [0, full]
    assert [_cached(engine, cache_salt="s") for _ in range(2)] == [0, full]
    assert _cached(engine, model="sql", cache_salt="s") == 0


def test_adapters_come_and_go_by_call(engine: httpx.Client) -> None:
    assert _complete(engine, model="chat").status_code == 404
    load = engine.post("/v1/load_lora_adapter", json={"lora_name": "chat", "lora_path": "adapters/chat"})
    assert load.status_code == 200
    assert [card["id"] for card in engine.get("/v1/models").json()["data"]] == [MODEL, "sql", "chat"]
    assert _complete(engine, model="chat").json()["model"] == "chat"
    assert engine.post("/v1/unload_lora_adapter", json={"lora_name": "chat"}).status_code == 200
    assert _complete(engine, model="chat").status_code == 404


def test_the_page_tells_which_adapters_run(engine: httpx.Client) -> None:
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(_complete, engine, model="sql", max_tokens=2_000)
        running = {"max_lora": "2", "running_lora_adapters": "sql", "waiting_lora_adapters": ""}
        until(lambda: tuple(sorted(running.items())) in _series(engine, "vllm:lora_requests_info"), "running")
        assert answer.result(60).status_code == 200
    infos = _series(engine, "vllm:lora_requests_info")
    newest = dict(max(infos, key=lambda labels: infos[labels]))
    assert newest["running_lora_adapters"] == ""
    assert abs(max(infos.values()) - time.time()) < 60


def test_without_adapters_the_calls_do_not_exist(launch_engine: Callable[..., Any]) -> None:
    plain = launch_engine().ready()
    response = httpx.post(plain.url + "/v1/load_lora_adapter", json={"lora_name": "a", "lora_path": "b"})
    assert response.status_code == 404
    assert "lora_requests_info" not in httpx.get(plain.url + "/metrics").text


# ---- sleep


def _sleep_state(engine: httpx.Client) -> dict[str, float]:
    return {dict(labels)["sleep_state"]: value for labels, value in _series(engine, "vllm:engine_sleep_state").items()}


@pytest.mark.parametrize(
    ("level", "state"),
    [
        pytest.param(0, {"awake": 0.0, "weights_offloaded": 0.0, "discard_all": 0.0}, id="paused"),
        pytest.param(1, {"awake": 0.0, "weights_offloaded": 1.0, "discard_all": 0.0}, id="weights-offloaded"),
        pytest.param(2, {"awake": 0.0, "weights_offloaded": 0.0, "discard_all": 1.0}, id="all-discarded"),
    ],
)
def test_a_sleeping_engine_lets_requests_wait(engine: httpx.Client, level: int, state: dict[str, float]) -> None:
    _complete(engine)
    assert _cached(engine) > 0
    engine.post(f"/sleep?level={level}")
    assert _sleep_state(engine) == state
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(_complete, engine)
        until(lambda: engine.get("/load").json() == {"server_load": 1}, "waiting")
        assert not answer.done()
        engine.post("/wake_up")
        body = answer.result(60).json()
    assert (body["usage"]["prompt_tokens_details"]["cached_tokens"] > 0) == (level == 0)
    assert _sleep_state(engine) == {"awake": 1.0, "weights_offloaded": 0.0, "discard_all": 0.0}


def test_going_to_sleep_cuts_answers_off_unless_it_waits_for_them(engine: httpx.Client) -> None:
    with ThreadPoolExecutor(1) as pool:
        for mode, finish in (("abort", "abort"), ("wait", "length")):
            answer = pool.submit(_complete, engine, max_tokens=3_000)
            until(lambda: _series(engine, "vllm:num_requests_running").popitem()[1] == 1.0, "running")
            engine.post(f"/sleep?mode={mode}")
            choice = answer.result(60).json()["choices"][0]
            assert choice["finish_reason"] == finish
            engine.post("/wake_up")


def test_a_stream_that_is_cut_off_says_so(engine: httpx.Client) -> None:
    body = {"prompt": "x", "max_tokens": 50_000, "ignore_eos": True, "stream": True}
    with engine.stream("POST", "/v1/completions", json=body) as response:
        lines = response.iter_lines()
        next(lines)
        httpx.post(str(engine.base_url) + "/sleep")
        events = [line.removeprefix("data: ") for line in lines if line]
    engine.post("/wake_up")
    assert events[-1] == "[DONE]"
    assert json.loads(events[-2])["choices"][0]["finish_reason"] == "abort"


def test_the_prefix_cache_is_reset_when_nothing_uses_it(engine: httpx.Client) -> None:
    _complete(engine)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(_complete, engine, max_tokens=3_000)
        until(lambda: _series(engine, "vllm:num_requests_running").popitem()[1] == 1.0, "running")
        assert engine.post("/reset_prefix_cache").json() == {"success": False}
        answer.result(60)
    assert engine.post("/reset_prefix_cache").json() == {"success": True}
    assert _cached(engine) == 0


# ---- one request, several answers, as the page counts them


def test_answers_of_one_request_are_counted_as_vllm_counts_them(engine: httpx.Client) -> None:
    names = ("request_success_total", "request_params_n_sum", "request_params_n_count",
             "request_max_num_generation_tokens_sum", "request_generation_tokens_count")  # fmt: skip

    def counts() -> list[float]:
        return [sum(_series(engine, f"vllm:{name}").values()) for name in names]

    before = counts()
    _complete(engine, n=3, max_tokens=7)
    assert [after - earlier for after, earlier in zip(counts(), before, strict=True)] == [3.0, 3.0, 1.0, 7.0, 3.0]


# ---- older names


OLD = {
    "0.11": ({"vllm:time_per_output_token_seconds"}, {"vllm:engine_sleep_state", "vllm:gpu_cache_usage_perc",
             "vllm:num_requests_waiting_by_reason", "vllm:prompt_tokens_by_source_total"}),
    "0.16": ({"vllm:prompt_tokens_recomputed_total", "vllm:engine_sleep_state", "vllm:prompt_tokens_by_source_total"},
             {"vllm:time_per_output_token_seconds", "vllm:num_requests_waiting_by_reason"}),
    "0.20": ({"vllm:num_requests_waiting_by_reason", "vllm:estimated_flops_per_gpu_total"},
             {"vllm:prompt_tokens_recomputed_total", "vllm:admission_rejections_total"}),
    "0.32": ({"vllm:admission_rejections_total", "vllm:request_num_preemptions"},
             {"vllm:time_per_output_token_seconds"}),
}  # fmt: skip
"""Version -> families that it has, and that it lacks."""
REASONS = {"0.11": 3, "0.16": 4, "0.20": 5, "0.32": 5}


def _page(version: str, *, show_hidden: bool = False) -> str:
    """The page of an engine that has served one request of five tokens."""
    config = engine_config("Llama-3.1-8B", "h100_sxm")
    metrics = EngineMetrics("m", config, created_s=0.0, kv_bytes_per_token=1,
                            options=PageOptions(version=version, show_hidden=show_hidden))  # fmt: skip
    core = Engine(config, ingress_s=0.0)
    core.submit(EngineRequest(request_id="a", prompt_tokens=64, output_tokens=5), 0.0)
    now_s = 0.0
    while (result := core.step(now_s)) is not None:
        now_s = result.end_s
        metrics.on_step(result)
    return metrics.render(core, now_s).decode()


@pytest.mark.parametrize("version", VERSIONS)
def test_a_version_shows_its_own_names(version: str) -> None:
    page = _page(version)
    families = {line.split()[2] for line in page.splitlines() if line.startswith("# TYPE")}
    present, absent = OLD[version]
    assert present <= families
    assert not absent & families
    assert page.count("vllm:request_success_total{") == REASONS[version]


def test_the_old_latency_histogram_has_the_values_of_the_new_one() -> None:
    lines = _page("0.11").splitlines()
    new = [line.split("{", 1)[1] for line in lines if line.startswith("vllm:inter_token_latency_seconds_bucket")]
    old = [line.split("{", 1)[1] for line in lines if line.startswith("vllm:time_per_output_token_seconds_bucket")]
    assert new == old
    assert new[-1].endswith(" 4.0")


def test_hidden_names_show_when_asked_for(launch_engine: Callable[..., Any]) -> None:
    started = launch_engine("--speed", "50", "--metrics-version", "0.11", "--show-hidden-metrics").ready()
    with httpx.Client(base_url=started.url, timeout=60) as client:
        _complete(client)
        (queries,) = _series(client, "vllm:gpu_prefix_cache_queries_total").values()
        assert queries == sum(_series(client, "vllm:prefix_cache_queries_total").values()) > 0
        assert set(_series(client, "vllm:gpu_cache_usage_perc").values()) == {0.0}


def test_hidden_names_are_of_0_11_alone() -> None:
    assert "gpu_cache_usage_perc" not in _page("0.16", show_hidden=True)
    with pytest.raises(ValueError, match=r"no metrics page of vLLM 0\.10"):
        _page("0.10")
