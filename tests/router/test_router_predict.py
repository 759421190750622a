"""Predictions for candidates, and how slow an engine is by the model."""

from __future__ import annotations

import json

import numpy as np
import pytest

from fleet.errors import ConfigError
from predictor import artifact
from predictor.fit import fit_model
from predictor.samples import Sample, dataset
from router.predict import FEW, Desk, Predictor, predictions, row
from router.profile import DEFAULT
from router.service import RouterService
from router.settings import RouterSettings
from router.types import EndpointView, InferenceRequest
from tests.router.dataplane_stubs import Engine, on_loop, until
from tests.router.test_router_app import engine_script

REQUEST = InferenceRequest(request_id="r", model="m", input_tokens=800, expected_output_tokens=100.0)


def endpoint(url, own=4, pending=500):
    return EndpointView(
        url=url,
        variant="v",
        requests_in_flight=own,
        context_tokens_in_flight=own * 1000,
        prefill_tokens_in_flight=pending,
    )


def model(slow_ttft=1.0, slow_tpot=1.0):
    """Learned from two endpoints; times at ``b`` are those at ``a`` times the factors."""
    rng, samples = np.random.default_rng(1), []
    for turn in range(400):
        url, own, pending = "ab"[turn % 2], int(rng.integers(1, 40)), int(rng.integers(0, 20_000))
        ttft_s, tpot_s = 0.02 + 5e-5 * (800 + pending), 0.01 + 2e-4 * own
        one = endpoint(url, own, pending)
        slow = (slow_ttft, slow_tpot) if url == "b" else (1.0, 1.0)
        samples.append(Sample(features=row(REQUEST, one), ttft_s=ttft_s * slow[0], tpot_s=tpot_s * slow[1],
                              endpoint=url, variant="v"))  # fmt: skip
    return fit_model(dataset(samples), now_s=0.0)


def test_latencies_are_those_of_each_candidate():
    found = predictions(model(), REQUEST, [endpoint("a"), endpoint("a", own=30, pending=15_000)])
    assert found[0].ttft_s == pytest.approx(0.085, rel=0.15)
    assert found[1].ttft_s == pytest.approx(0.81, rel=0.15)
    assert found[1].tpot_s > found[0].tpot_s


def test_slowness_is_of_the_engine_not_of_its_load():
    one, other = predictions(model(2.0, 2.0), REQUEST, [endpoint("a", own=30, pending=9000), endpoint("b", own=1)])
    assert other.slowness / one.slowness == pytest.approx(2.0, rel=0.15)
    assert (one.slowness + other.slowness) / 2 == pytest.approx(1.0, rel=0.05)


@pytest.mark.parametrize(
    ("slow_ttft", "slow_tpot"), [pytest.param(2.0, 0.5, id="contradicting"), pytest.param(2.0, 1.0, id="one only")]
)
def test_one_latency_alone_makes_no_engine_slow(slow_ttft, slow_tpot):
    found = predictions(model(slow_ttft, slow_tpot), REQUEST, [endpoint("a"), endpoint("b")])
    assert [one.slowness for one in found] == pytest.approx([1.0, 1.0], rel=0.05)


@on_loop
async def test_a_model_of_a_predictor_in_another_pod_is_fetched_and_used(tmp_path):
    body = json.dumps(artifact.to_dict(model())).encode()

    async def predictor(_engine, request, writer):
        assert request.line.startswith("GET /model/download ")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))

    async with Engine(predictor) as service, Engine(engine_script()) as engine:
        settings = RouterSettings(engines=engine.url, predictor_url=service.url + "/", port=0, admin_port=0)
        router = RouterService(settings, DEFAULT, home=tmp_path)
        assert router.director.predict.cold
        await router.start()
        await until((tmp_path / "fetched-model.json").exists)
        await until(lambda: not router.director.predict.cold)
        await router.stop()
    assert not (tmp_path / "model.json").exists()  # a predictor's own file


def test_a_predictor_address_that_is_none_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="ROUTER_PREDICTOR_URL"):
        RouterService(RouterSettings(engines="http://a:1", predictor_url="predictor"), DEFAULT, home=tmp_path)


def test_few_and_many_candidates_are_predicted_alike():
    made = model(2.0, 1.5)
    views = [endpoint("ab"[number % 2], own=3 * number, pending=900 * number) for number in range(FEW)]
    few, many = Desk(made, views), Desk(made, [*views, *views])
    for size in (80, 800, 80_000):
        request = InferenceRequest(request_id="r", model="m", input_tokens=size)
        for one, other in zip(few.predictions(request, views), many.predictions(request, [*views, *views]),
                              strict=False):  # fmt: skip
            assert one[:3] == pytest.approx(other[:3], rel=1e-9)


def test_what_was_laid_out_is_used_as_long_as_it_fits():
    made = model()

    class Source:
        model, cold = made, False

    predict, views = Predictor(Source()), [endpoint("a"), endpoint("b")]
    first = predict(REQUEST, views)
    assert list(predict(REQUEST, list(views))) == list(first)
    assert [one.ttft_s for one in predict(REQUEST, views[:1])] == [first[0].ttft_s]
    Source.model = model(2.0, 2.0)
    assert list(predict(REQUEST, views)) != list(first)
