"""The admin application and the metrics it shows."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import httpx
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from fleet import signals
from fleet.signals import Kind, Origin
from router.metrics import LATENCY_BOUNDS, OTHER, Histo, RouterCollector, RouterMetrics
from router.profile import DEFAULT
from router.service import RouterService
from router.settings import RouterSettings
from tests.router.dataplane_stubs import Client, Engine, completion, events, on_loop, until
from tests.router.test_router_scrape import PAGE, models, page, pages

PIECE = b'data: {"choices":[{"text":"x"}]}\n\n'


def engine_script(answer=None):
    stream = answer or events(PIECE, PIECE, PIECE, gap_s=0.005)
    return pages(metrics=page(PAGE), models=models("m"), completions=stream)


async def started(engines: str, home: Path, *, slo_file: Path | None = None, **options) -> RouterService:
    settings = RouterSettings(engines=engines, port=0, admin_port=0, scrape_s=0.05, drain_s=1.0, seed=1, **options)
    service = RouterService(settings, DEFAULT, home=home, slo_file=slo_file)
    await service.start()
    return service


async def ask(port: int, request: bytes):

    client = Client(*await asyncio.open_connection("127.0.0.1", port))
    return await client.ask(request)


@on_loop
async def test_admin_pages_tell_what_happened(tmp_path):
    async with Engine(engine_script()) as engine:
        service = await started(engine.url, tmp_path)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{service.admin_port}") as admin:
            assert (await admin.get("/healthz")).json() == {"status": "ok"}
            await until(lambda: service.endpoints.ready[0].sample)
            answer = await ask(service.port, completion(b"X-Request-Id: req-7", prompt="a secret", stream=True))
            assert answer.status == 200
            ready = await admin.get("/readyz")
            assert (ready.status_code, ready.json()["ready_endpoints"]) == (200, 1)

            (decision,) = (await admin.get("/debug/decisions")).json()
            assert (decision["request_id"], decision["endpoint"], decision["reason"]) == ("req-7", engine.url, "picked")
            assert set(decision["scores"][engine.url]) == {"least-delay", "total"}
            assert decision["predictor_cold"] is True

            (endpoint,) = (await admin.get("/debug/endpoints")).json()
            assert endpoint["sample"]["waiting"] == 3
            assert (endpoint["requests_in_flight"], endpoint["ejected"]) == (0, False)

            config = (await admin.get("/config")).json()
            weights = {scorer["name"]: scorer["weight"] for scorer in config["profile"]["scorers"]}
            assert weights == {"least-delay": 100}
            for path in ("/debug/decisions", "/debug/endpoints", "/config", "/metrics"):
                assert "secret" not in (await admin.get(path)).text
        await service.stop()


@on_loop
async def test_metrics_carry_catalogue_names_labels_and_true_values(tmp_path):
    async with Engine(engine_script()) as engine:
        service = await started(engine.url, tmp_path)
        await until(lambda: service.endpoints.ready[0].sample and service.endpoints.ready[0].models)
        for _ in range(4):
            await ask(service.port, completion(stream=True))
        await ask(service.port, completion(model="unknown"))
        async with httpx.AsyncClient() as admin:
            text = (await admin.get(f"http://127.0.0.1:{service.admin_port}/metrics")).text
        await service.stop()
    values = {
        (sample.name, sample.labels.get("model_name", "")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.labels.get("streaming", "true") == "true" and sample.labels.get("le", "0.2") == "0.2"
    }
    assert values["llm_d_epp_request_total", "m"] == 4
    assert values["llm_d_epp_request_error_total", OTHER] == 1
    assert values["fleet_router_shed_total", OTHER] == 1
    assert values["llm_d_epp_request_ttft_seconds_count", "m"] == 4
    assert values["llm_d_epp_request_ttft_seconds_bucket", "m"] == 4, "0.2 is a bound, and all were quicker"
    assert values["llm_d_epp_request_output_tokens_sum", "m"] == 12
    assert values["llm_d_epp_request_streaming_tpot_seconds_count", "m"] == 4
    assert values["llm_d_epp_request_running", "m"] == 0
    assert values["llm_d_epp_ready_endpoints", ""] == 1
    assert values["llm_d_epp_per_endpoint_queue_size", ""] == 3
    assert values["llm_d_epp_scheduler_e2e_duration_seconds_count", ""] == 5
    assert 0 <= values["fleet_router_endpoint_scrape_age_seconds", ""] < 60


def test_every_family_is_in_the_catalogue_as_it_says():
    metrics = RouterMetrics()
    metrics.model("m").error("503")
    metrics.model("m").refuse("no_endpoints")
    catalogue = {signal.name: signal for signal in vars(signals).values() if isinstance(signal, signals.Signal)}
    kinds = {"counter": Kind.COUNTER, "gauge": Kind.GAUGE, "histogram": Kind.HISTOGRAM}
    names = set()
    for family in RouterCollector(metrics, lambda: []).collect():
        name = family.name + ("_total" if family.type == "counter" else "")
        names.add(name)
        assert catalogue[name].kind is kinds[family.type]
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == set(catalogue[name].labels)
    elsewhere = {
        s.name for key, s in vars(signals).items() if key.startswith(("KV_", "ROUTER_MODEL_"))
    }  # other collectors
    promised = {s.name for s in catalogue.values() if s.origin is Origin.ROUTER} - elsewhere
    assert names == promised


def test_a_registry_takes_the_collector():
    registry = CollectorRegistry()
    registry.register(RouterCollector(RouterMetrics(), lambda: []))
    assert registry.get_sample_value("llm_d_epp_ready_endpoints", {"name": "default"}) == 0


def test_models_beyond_the_limit_share_one_label():
    metrics = RouterMetrics()
    for number in range(1200):
        metrics.model(f"m{number}").requests += 1
    assert len(metrics.models()) <= 1001
    assert metrics.model(OTHER).requests >= 199


@pytest.mark.parametrize(("value", "bucket"), [(0.2, "0.2"), (0.2001, "0.4"), (0.0, "0.005"), (1e9, "+Inf")])
def test_histogram_bounds_are_inclusive_as_prometheus_means_them(value, bucket):
    histo = Histo(LATENCY_BOUNDS)
    histo.observe(value)
    assert next(bound for bound, count in histo.buckets() if count) == bucket


def test_many_values_at_once_fall_into_the_buckets_that_each_alone_falls_into():
    rng = random.Random(4)
    values = [*LATENCY_BOUNDS, *LATENCY_BOUNDS, 1, 2, 1e9, *(rng.expovariate(0.5) for _ in range(1000))]
    one, other = Histo(LATENCY_BOUNDS), Histo(LATENCY_BOUNDS)
    for _ in range(2):  # counts add up
        for value in values:
            one.observe(value)
            one.settle()
            other.observe(value)
    assert other.buckets() == one.buckets()
    assert other.total == pytest.approx(one.total)
