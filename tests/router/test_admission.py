"""Requests that name a latency target nobody is likely to meet: refused where that is asked for, told in any case."""

from __future__ import annotations

import httpx
import pytest

from fleet.types import EngineSample
from predictor import advice, artifact
from predictor.model import LatencyPrediction
from router.admission import Admission, Hope, PredictedHopes, in_vain
from router.targets import BY_REQUEST, NO_TARGETS, Targets
from router.types import EndpointView, InferenceRequest
from tests.router.dataplane_stubs import Engine, completion, on_loop, until
from tests.router.test_router_app import ask, engine_script, started
from tests.router.test_router_predict import model

LONG = "x" * 160_000
"""About 40 000 tokens: two seconds by the model."""


async def served(tmp_path, *requests: bytes, **settings):
    """Answers to ``requests`` from a router with a model, its decisions (oldest first) and its metrics page."""
    artifact.write(model(), tmp_path / artifact.FILE_NAME)
    async with Engine(engine_script()) as engine:
        service = await started(engine.url, tmp_path, **settings)
        await until(lambda: service.endpoints.ready[0].sample and service.endpoints.ready[0].models)
        answers = [await ask(service.port, request) for request in requests]
        await until(lambda: not len(service.director.ledger))
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{service.admin_port}") as admin:
            decisions = (await admin.get("/debug/decisions")).json()[::-1]
            metrics = (await admin.get("/metrics")).text
        await service.stop()
    return answers, decisions, metrics, engine


@on_loop
async def test_what_would_be_late_anywhere_is_refused_with_its_reason_and_the_rest_is_served(tmp_path):
    tight, wide = b"x-llm-d-slo-ttft-ms: 100", b"x-llm-d-slo-ttft-ms: 60000"
    requests = [completion(tight, prompt=LONG), completion(wide, prompt=LONG), completion(prompt=LONG),
                completion(tight), completion(b"x-slo-tpot-ms: 0.001")]  # fmt: skip
    answers, decisions, metrics, engine = await served(tmp_path, *requests, slo_admission=0.1)
    assert [answer.status for answer in answers] == [429, 200, 200, 200, 429]
    refused = answers[0]
    assert refused.headers["x-llm-d-request-dropped-reason"] == "rejected-slo-unattainable"
    assert refused.headers["retry-after"] == "60", "an idle engine would be late too"
    assert refused.error["code"] == "slo_unattainable"
    assert "even when idle (best chance 0%, late by " in refused.error["message"]
    assert (decisions[0]["endpoint"], decisions[0]["reason"]) == (None, "slo_unattainable")
    assert [one["slo_chance"] is None for one in decisions] == [False, False, True, False, False]
    assert decisions[0]["slo_chance"] < 0.1 < decisions[3]["slo_chance"] <= decisions[1]["slo_chance"] <= 1.0
    assert 'fleet_router_shed_total{model_name="m",reason="slo_unattainable"} 2.0' in metrics
    assert "fleet_router_slo_chance_ratio_count 4.0" in metrics
    assert len([one for one in engine.requests if one.line.startswith("POST")]) == 3


@pytest.mark.parametrize(("least", "told"), [(None, False), (0.0, True)], ids=["off", "only told"])
@on_loop
async def test_off_and_zero_refuse_nobody(tmp_path, least, told):
    request = completion(b"x-llm-d-slo-ttft-ms: 1", b"x-fleet-explain: 1", prompt=LONG)
    (answer,), (decision,), _, _ = await served(tmp_path, request, slo_admission=least, explain=True)
    assert answer.status == 200
    assert (decision["slo_chance"] is not None) is told
    assert ("slo_chance" in answer.headers["x-fleet-decision"]) is told


class _Source:
    cold = False

    def __init__(self, known=None) -> None:
        self.model = known


def view(url: str, *, pending: int, scraped: bool = True) -> EndpointView:
    sample = EngineSample(at_s=0.0, waiting=0.0, running=1.0, kv_utilisation=0.1) if scraped else None
    return EndpointView(url=url, variant="v", prefill_tokens_in_flight=pending, sample=sample)


def test_the_best_candidate_counts_however_many_there_are():
    source = _Source(model())
    hopes = PredictedHopes(source)
    request, targets = InferenceRequest(request_id="r", model="m", input_tokens=800), Targets(0.2, 1.0)
    busy = [view("a", pending=20_000) for _ in range(20)]
    assert hopes(request, busy, targets).chance < 0.1
    found = hopes(request, [*busy, view("b", pending=0)], targets)
    assert found.chance > 0.5
    assert found.late_s < 0
    assert hopes(request, [*busy, view("b", pending=0, scraped=False)], targets) is None, (
        "of one nothing is known: let it in"
    )
    assert hopes(request, busy, NO_TARGETS) is None, "it has no target"
    assert PredictedHopes(_Source())(request, busy, targets) is None, "there is no model"
    assert hopes(request, [], targets) is None
    every = [view("a", pending=500 * step) for step in range(20)]
    batch = source.model.at(["a"] * 20, ["v"] * 20)
    batch.rows[0], batch.rows[2] = 800, [one.prefill_tokens_in_flight for one in every]
    batch.rows[6], batch.rows[7] = 1.0, 0.1
    batch.predict()
    point = LatencyPrediction(ttft_s=batch.ttft_s, tpot_s=batch.tpot_s)
    chances = advice.chance(source.model, batch.rows.T, point, batch.places, ttft_s=0.2, tpot_s=1.0)
    assert hopes(request, every, targets).chance == pytest.approx(float(chances.max()))


@pytest.mark.parametrize(("late_s", "seconds"), [(-3.0, "1"), (0.2, "1"), (7.1, "8"), (1e9, "60")])
def test_the_time_to_wait_is_what_the_best_engine_is_late(late_s, seconds):
    assert in_vain(Hope(0.0, late_s)).headers["retry-after"] == seconds


def test_a_chance_at_the_limit_is_enough():
    request, targets = InferenceRequest(request_id="r", model="m", input_tokens=1), Targets(1.0, None, BY_REQUEST)

    def judged(chance):
        return Admission(0.25, lambda *_, **__: Hope(chance, 0.0)).judge(request, [], targets)

    assert judged(0.25) == (0.25, None, 0.0)
    assert judged(0.24).refusal.status == 429


def hopeful(busy: Hope, idle: Hope, *, wait_s: float = 60.0, **more):
    """The verdict on a request with a TTFT target of 2 s."""
    admission = Admission(0.25, lambda *_, idle=False: idle_hope if idle else busy, wait_s=wait_s)
    idle_hope = idle
    request = InferenceRequest(request_id="r", model="m", input_tokens=1)
    return admission.judge(request, [], Targets(2.0, None, BY_REQUEST), **more)


@pytest.mark.parametrize(
    ("idle", "more", "wait_s", "retry_after"),
    [
        pytest.param(Hope(1.0, -1.7, 0.3), {}, 1.7, "4", id="what the target leaves beside an idle engine's time"),
        pytest.param(Hope(1.0, -1.7, 0.3), {"waited_s": 1.5}, 0.2, "4", id="less after a wait"),
        pytest.param(Hope(1.0, -1.7, 0.3), {"wait_s": 0.5}, 0.5, "4", id="as long as the setting says"),
        pytest.param(Hope(1.0, -1.7, 0.3), {"wait_s": 0.0}, 0.0, "4", id="switched off"),
        pytest.param(Hope(1.0, -1.7, 0.3), {"waited_s": 1.8}, 0.0, "4", id="too late even for an idle engine"),
        pytest.param(Hope(0.1, 0.5, 2.5), {}, 0.0, "60", id="an idle engine would be late"),
        pytest.param(Hope(1.0, -1.7, 0.3), {"again": True}, 0.0, "4", id="it waits already: its time is known"),
    ],
)
def test_how_long_it_is_worth_waiting(idle, more, wait_s, retry_after):
    verdict = hopeful(Hope(0.0, 3.2, 5.2), idle, **more)
    assert verdict.wait_s == pytest.approx(wait_s)
    assert verdict.refusal.headers["retry-after"] == retry_after


def test_a_slow_answer_is_late_by_all_its_tokens():
    source = _Source(model())
    request = InferenceRequest(request_id="r", model="m", input_tokens=800, expected_output_tokens=100.0)
    crowd = [EndpointView(url="a", variant="v", requests_in_flight=40, context_tokens_in_flight=40_000,
                          sample=view("a", pending=0).sample)]  # fmt: skip
    hopes = PredictedHopes(source)
    busy = hopes(request, crowd, Targets(None, 0.012, "", BY_REQUEST))
    assert busy.late_s == pytest.approx(100 * (0.0162 - 0.012), rel=0.1), "100 tokens, 16.2 ms each"
    assert hopes(request, crowd, Targets(None, 0.012, "", BY_REQUEST), idle=True).late_s < 0
    assert hopes(request, crowd, Targets(None, 0.012, "", BY_REQUEST)) == busy, "what is idle leaves nothing behind"
