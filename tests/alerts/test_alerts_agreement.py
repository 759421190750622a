"""The same samples in a real Prometheus and in our evaluator: every rule must say the same, to nine digits."""

from __future__ import annotations

import math
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from click.testing import CliRunner

from alerts.algebra import vector
from alerts.cli import alerts as command
from alerts.evaluate import Evaluator
from alerts.facts import facts
from alerts.ingest import Ingest, Target
from alerts.model import Rulebook
from alerts.rules import rulebook
from alerts.store import SeriesStore
from fleet.slo import parse_slos
from fleet.sources.exposition import Point
from tests.ports import free_ports
from tests.waiting import ENDS_WITHIN_S, until

START_S, STEP_S, STEPS = 1_700_000_000.0, 15.0, 200
CHECKED_S = (START_S + 1_935.0, START_S + STEP_S * STEPS)
TTFT = (0.005, 0.05, 0.1, 0.2, 0.4, 0.8, 2.0)
SLOS = {"models": {"patient": {"ttft": {"threshold_s": 1, "objective": 0.9}, "e2e": {"threshold_s": 5}}}}


def buckets(name: str, labels: dict[str, str], shares: dict[str, float], requests: float) -> Iterator[Point]:
    """Cumulative buckets of a histogram that has counted ``requests``."""
    for bound, share in shares.items():
        yield Point(f"{name}_bucket", math.floor(requests * share), {**labels, "le": bound})
    yield Point(f"{name}_bucket", requests, {**labels, "le": "+Inf"})
    yield Point(f"{name}_count", requests, labels)


def engine(model: str, elapsed_s: float, *, sick: bool) -> Iterator[Point]:
    """A vLLM page; a sick one is slow, full, and preempts."""
    at = {"model_name": model, "engine": "0"}
    served = math.floor(elapsed_s * 3.3)
    yield Point("vllm:num_requests_waiting", 130.0 if sick else 0.0, at)
    yield Point("vllm:num_requests_waiting_by_reason", 128.0 if sick else 0.0, {**at, "reason": "capacity"})
    yield Point("vllm:num_requests_running", 12.0, at)
    yield Point("vllm:kv_cache_usage_perc", 0.97 if sick else 0.4, at)
    yield Point("vllm:num_preemptions_total", math.floor(elapsed_s / 40) if sick else 0.0, at)
    tokens = elapsed_s * (600.0 if sick else 20_000.0)
    yield Point("vllm:generation_tokens_total", min(tokens, 5e6) if model == "hung" else tokens, at)
    yield Point("vllm:nixl_num_kv_expired_reqs_total", math.floor(elapsed_s / 60) if sick else 0.0, at)
    yield Point("vllm:admission_rejections_total", elapsed_s if sick else 0.0, {"model_name": model, "reason": "full"})
    yield Point("vllm:prefix_cache_queries_total", elapsed_s * 1_000.0, at)
    yield Point("vllm:prefix_cache_hits_total", elapsed_s * (100.0 if sick else 800.0), at)
    yield Point("vllm:request_success_total", served, {**at, "finished_reason": "stop"})
    yield Point("http_requests_total", served / 20 if sick else 0.0, {"handler": "/v1/completions", "status": "5xx"})
    yield Point("http_requests_total", served, {"handler": "/v1/completions", "status": "2xx"})
    shares = {"0.1": 0.1, "0.25": 0.2, "1.0": 0.7, "2.5": 1.0} if sick else {"0.1": 0.9, "0.25": 1.0}
    yield from buckets("vllm:time_to_first_token_seconds", at, shares, served)
    tpot = {"0.05": 0.2, "0.1": 0.4, "0.2": 0.99} if sick else {"0.05": 0.99}
    yield from buckets("vllm:request_time_per_output_token_seconds", at, tpot, served)
    yield from buckets("vllm:e2e_request_latency_seconds", at, {"1.0": 0.2, "5.0": 0.6}, served)


def router(elapsed_s: float) -> Iterator[Point]:
    """Router page: ``ill`` is slow and fails, ``well`` is neither; restarted once, so its counters fell."""
    lived_s = elapsed_s if elapsed_s < 1_500 else elapsed_s - 1_500
    for model, slow in (("ill", True), ("well", False)):
        at = {"model_name": model, "target_model_name": model}
        served = math.floor(lived_s * 4)
        shares = {str(b): (0.1 if slow and b <= 0.2 else 1.0 if b >= 0.4 else 0.98) for b in TTFT}
        yield from buckets("llm_d_epp_request_ttft_seconds", {**at, "streaming": "true"}, shares, served)
        yield Point("llm_d_epp_request_total", served, at)
        if slow:
            yield Point("llm_d_epp_request_error_total", math.floor(served / 9), {**at, "error_code": "503"})
            yield Point("llm_d_epp_request_error_total", math.floor(served / 2), {**at, "error_code": "400"})
            yield Point("fleet_router_shed_total", math.floor(served / 9), {"model_name": model, "reason": "no_ready"})
    scheduling = {"0.01": 0.5, "0.05": 0.9, "0.1": 0.97}
    yield from buckets("llm_d_epp_scheduler_e2e_duration_seconds", {}, scheduling, math.floor(lived_s * 8))
    yield Point("fleet_router_kv_event_gaps_total", math.floor(lived_s / 45), {})
    yield Point("fleet_router_kv_event_batches_lost_total", math.floor(lived_s / 30), {})
    yield Point("fleet_router_kv_event_lag_seconds", 0.5, {})
    for port, age_s in (("9100", 30.0), ("9101", 0.5)):
        yield Point("fleet_router_endpoint_scrape_age_seconds", age_s, {"model_server_endpoint": f"http://h:{port}"})


def own_parts(elapsed_s: float) -> Iterator[Point]:
    """Controller (stalled after 20 minutes, flapping) and predictor (cold, failing, drifting)."""
    variant = {"variant_name": "v1", "namespace": "default", "accelerator_type": "h100"}
    yield Point("fleet_wva_last_pass_timestamp_seconds", START_S + min(elapsed_s, 1_200.0), {})
    yield Point("wva_desired_replicas", 3.0, variant)
    yield Point("wva_current_replicas", 2.0, variant)
    yield Point("wva_saturation_utilization", 0.93, {**variant, "model_name": "ill"})
    yield Point("wva_replica_scaling_total", math.floor(elapsed_s / 15), {**variant, "direction": "up", "reason": "x"})
    yield Point("wva_errors_total", math.floor(elapsed_s / 5), {"component": "collect", "error_type": "timeout"})
    yield Point("fleet_wva_at_max", 1.0, variant)
    for status, holds in (("fresh", 0.0), ("stale", 1.0)):
        yield Point("wva_metrics_freshness_status", holds, {"variant_name": "v1", "status": status})
    yield Point("fleet_predictor_cold", 1.0, {})
    yield Point("fleet_predictor_error_ratio", 0.7, {"target": "ttft"})
    yield Point("fleet_predictor_fit_failures_total", math.floor(elapsed_s / 300), {})


def cluster(elapsed_s: float) -> Iterator[Point]:
    """GPU, network and Kubernetes exporters with a fault in each."""
    gpu = {"gpu": "0", "Hostname": "n1", "namespace": "default", "pod": "ill-0"}
    yield Point("DCGM_FI_PROF_GR_ENGINE_ACTIVE", 0.01, gpu)
    yield Point("DCGM_FI_DEV_XID_ERRORS", 0.0 if elapsed_s < 1_700 else 79.0, gpu)
    yield Point("DCGM_FI_DEV_ROW_REMAP_FAILURE", 1.0, gpu)
    yield Point("DCGM_FI_DEV_GPU_TEMP", 91.0, gpu)
    link = {"device": "mlx5_0", "port": "1"}
    yield Point("node_infiniband_port_data_transmitted_bytes_total", elapsed_s * 47e9, link)
    yield Point("node_infiniband_rate_bytes_per_second", 50e9, link)
    yield Point("node_infiniband_link_downed_total", math.floor(elapsed_s / 400), link)
    pod = {"namespace": "default", "pod": "ill-0"}
    yield Point("kube_pod_container_status_waiting_reason", 1.0, {**pod, "reason": "CrashLoopBackOff"})
    yield Point("kube_pod_status_unschedulable", 1.0, pod)
    yield Point("kube_pod_status_ready", 1.0, {**pod, "condition": "false"})
    yield Point("kube_pod_status_phase", 1.0, {**pod, "phase": "Running"})
    yield Point("kube_node_status_condition", 0.0, {"node": "n1", "condition": "Ready", "status": "true"})
    yield Point("kube_node_status_allocatable", 0.0, {"node": "n1", "resource": "nvidia_com_gpu"})
    for what, replicas in (("status_current", 4.0), ("status_desired", 6.0), ("spec_max", 4.0)):
        labels = {"namespace": "default", "horizontalpodautoscaler": "h"}
        yield Point(f"kube_horizontalpodautoscaler_{what}_replicas", replicas, labels)


def pages(elapsed_s: float) -> Iterator[tuple[Target, list[Point] | None]]:
    """All targets with what they answer at this time."""
    engines = (("ill", True), ("well", False), ("patient", True), ("gone", False), ("hung", False))
    for index, (model, sick) in enumerate(engines):
        labels = {"pod": f"{model}-0", "namespace": "default"}
        target = Target(job="vllm", url=f"http://h:910{index}", labels=labels)
        if model != "gone" or elapsed_s < 1_200:
            yield target, list(engine(model, elapsed_s, sick=sick))
    yield Target(job="fleet-router", url="http://r:8081"), list(router(elapsed_s))
    yield Target(job="fleet-router", url="http://r2:8081"), None
    yield Target(job="wva", url="http://w:8070"), list(own_parts(elapsed_s))
    yield Target(job="node", url="http://n:9"), list(cluster(elapsed_s))
    yield Target(job="other", url="http://o:9"), None


@pytest.fixture(scope="module")
def rules() -> Rulebook:
    return rulebook(parse_slos(SLOS))


@pytest.fixture(scope="module")
def store(rules: Rulebook) -> SeriesStore:
    """Fifty minutes of the faulty world, with all recordings, as our evaluator made them."""
    held = SeriesStore()
    ingest, evaluator = Ingest(held), Evaluator(rules, keep_s=1e9)
    for step in range(STEPS + 1):
        now_s = START_S + step * STEP_S
        seen = list(pages(now_s - START_S))
        for target, points in seen:
            ingest.scraped(target, points, now_s)
        ingest.forget_all_but({target.url for target, _ in seen}, now_s)
        evaluator.step(held, now_s)
        assert evaluator.errors == {}
    return held


def open_metrics(store: SeriesStore) -> Iterator[str]:
    for name, series in store.everything():
        labels = ",".join(f'{label}="{value}"' for label, value in series.labels)
        for at_s, value in zip(series.times, series.values, strict=True):
            yield f"{name}{{{labels}}} {value!r} {at_s}\n"
    yield "# EOF\n"


@pytest.fixture(scope="module")
def prometheus(
    store: SeriesStore, prometheus_binary: str, promtool_binary: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """A real Prometheus that holds the very samples of the store."""
    folder, port = tmp_path_factory.mktemp("prometheus"), free_ports()
    (folder / "samples.om").write_text("".join(open_metrics(store)))
    (folder / "prometheus.yml").write_text("global: {scrape_interval: 1h}\n")
    create = [promtool_binary, "tsdb", "create-blocks-from", "openmetrics", "samples.om", "data"]
    subprocess.run(create, cwd=folder, check=True, capture_output=True)
    process = subprocess.Popen(
        [prometheus_binary, "--config.file=prometheus.yml", "--storage.tsdb.path=data",
         "--storage.tsdb.retention.time=100y", f"--web.listen-address=127.0.0.1:{port}"],
        cwd=folder, stdout=subprocess.DEVNULL, stderr=(folder / "log").open("w"),
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    try:
        until(lambda: requests.get(f"{url}/-/ready", timeout=10).ok, (folder / "log").read_text)
        yield url
    finally:
        process.terminate()
        process.wait(ENDS_WITHIN_S)


def ask(url: str, promql: str, at_s: float) -> dict[tuple[tuple[str, str], ...], float]:
    answer = requests.post(f"{url}/api/v1/query", data={"query": promql, "time": at_s}, timeout=30).json()
    assert answer["status"] == "success", (promql, answer)
    return {
        tuple(sorted((k, v) for k, v in row["metric"].items() if k != "__name__")): float(row["value"][1])
        for row in answer["data"]["result"]
    }


def same(left: dict, right: dict) -> bool:
    return left.keys() == right.keys() and all(
        (math.isnan(left[key]) and math.isnan(right[key]))
        or math.isclose(left[key], right[key], rel_tol=1e-9, abs_tol=1e-9)
        for key in left
    )


@pytest.mark.integration
@pytest.mark.needs_prometheus
@pytest.mark.parametrize("at_s", CHECKED_S)
def test_prometheus_and_evaluator_agree_on_every_rule(
    rules: Rulebook, store: SeriesStore, prometheus: str, at_s: float
) -> None:
    different = []
    for name, expr in [(r.signal.name, r.expr) for r in rules.recordings] + [(a.key, a.expr) for a in rules.alerts]:
        ours, theirs = vector(expr, store, at_s), ask(prometheus, expr.promql(), at_s)
        if not same(ours, theirs):
            different.append((name, ours, theirs))
    assert different == []


@pytest.mark.integration
@pytest.mark.needs_prometheus
def test_the_compared_world_trips_nearly_every_condition(rules: Rulebook, store: SeriesStore) -> None:
    """Agreement on nothing would prove nothing."""
    held = {alert.name for alert in rules.alerts for at_s in CHECKED_S if vector(alert.expr, store, at_s)}
    silent = {alert.name for alert in rules.alerts} - held
    assert silent == {"CacheHitRateFell", "NoEngineMetrics"}  # one needs a day, the other an empty world


@pytest.mark.integration
@pytest.mark.needs_prometheus
def test_a_healthy_model_trips_nothing(rules: Rulebook, store: SeriesStore) -> None:
    for alert in rules.alerts:
        for labels in vector(alert.expr, store, CHECKED_S[1]):
            assert dict(labels).get("model_name") != "well", alert.key


@pytest.mark.integration
@pytest.mark.needs_prometheus
@pytest.mark.parametrize("model", ["ill", "well", "gone", ""])
def test_prometheus_and_evaluator_agree_on_every_fact(store: SeriesStore, prometheus: str, model: str) -> None:
    different = []
    for name, expr in facts(model).items():
        ours, theirs = vector(expr, store, CHECKED_S[1]), ask(prometheus, expr.promql(), CHECKED_S[1])
        assert len(theirs) <= 1, name
        if not same(dict(enumerate(ours.values())), dict(enumerate(theirs.values()))):
            different.append((name, ours, theirs))
    assert different == []


@pytest.mark.integration
@pytest.mark.needs_prometheus
def test_diagnose_walks_over_a_prometheus(store: SeriesStore, prometheus: str, tmp_path: Path) -> None:
    arguments = ["diagnose", "--model", "hung", "--alert", "EngineStalled", "--at", str(CHECKED_S[1]), "--prometheus",
                 prometheus, "--history-url", f"sqlite:///{tmp_path / 'h.sqlite3'}"]  # fmt: skip
    told = CliRunner().invoke(command, arguments)
    assert told.exit_code == 0, told.output
    assert "requests waiting, all endpoints: 0 requests" in told.output
