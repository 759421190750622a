"""What a fitted model publishes of each variant's engine step, and how it reaches the autoscaler."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from fleet.errors import SourceError
from predictor import artifact
from predictor.fetch import tag_of
from predictor.fit import fit_once
from predictor.model import LatencyModel
from predictor.prior import prior_model
from predictor.published import fitted_laws
from predictor.samples import dataset
from wva.laws import PredictorLaws
from wva.slo.prior import believed


@pytest.fixture(scope="module")
def model(world: Any) -> LatencyModel:
    found = fit_once(dataset(world(900)), now_s=5.0, boosting=False).model
    assert found is not None
    return found


def test_a_variants_law_is_that_of_its_usual_endpoint(model: LatencyModel) -> None:
    """Of the known world: a step of 7 ms, a prompt token of 18 us, and all of it twice as long on an A100."""
    laws = fitted_laws(model)
    assert set(laws) == {"h100", "a100"}
    fast, slow = laws["h100"], laws["a100"]
    assert fast.step_s == pytest.approx(0.008, rel=0.4)
    assert fast.prompt_token_s == pytest.approx(2e-5, rel=0.5)
    assert slow.step_s / fast.step_s == pytest.approx(2.0, rel=0.3)
    assert fast.rows + slow.rows == 900 and fast.rows > slow.rows
    assert 30 < fast.in_flight_most < 90
    assert 500 < fast.uncached_tokens < 2500
    assert all(believed(law, 6.0) for law in laws.values())


def test_a_slow_endpoint_among_others_is_not_the_variant(model: LatencyModel) -> None:
    scales = {
        **model.tpot.scales,
        ("http://a:1", "h100"): 1.0,
        ("http://b:1", "h100"): 1.0,
        ("http://d:1", "h100"): 6.0,
    }
    told = fitted_laws(replace(model, tpot=replace(model.tpot, scales=scales)))["h100"]
    assert told.step_s == pytest.approx(float(model.tpot.coefficients("", "h100")[0]))


def test_what_no_sample_stands_behind_is_not_published(model: LatencyModel) -> None:
    assert fitted_laws(prior_model({}, now_s=1.0)) == {}
    unscored = replace(model, ttft=replace(model.ttft, score=type(model.ttft.score)()))
    assert fitted_laws(unscored) == {}


def test_the_artifact_keeps_it_and_one_without_it_is_read(model: LatencyModel) -> None:
    told = artifact.to_dict(model)
    assert fitted_laws(artifact.from_dict(told)) == fitted_laws(model)
    body = {key: value for key, value in told.items() if key not in ("taught", "checksum")}
    older = artifact.signed(body)
    assert fitted_laws(artifact.from_dict(older)) == {}
    for poison in ({"h100": {"rows": -1}}, {"h100": None}, [1], {"h100": {**told["taught"]["h100"], "rows": "many"}}):
        with pytest.raises(artifact.ArtifactError):
            artifact.from_dict(artifact.signed({**body, "taught": poison}))


class Service(BaseHTTPRequestHandler):
    """Serves ``server.body``; a status instead where that is a number."""

    def do_GET(self) -> None:
        body = self.server.body  # type: ignore[attr-defined]
        self.send_response(body if isinstance(body, int) else 200)
        text = b"" if isinstance(body, int) else json.dumps(body).encode()
        if text:
            self.send_header("ETag", tag_of(body["checksum"]))
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_args: Any) -> None:
        """Be quiet."""


@pytest.fixture
def service() -> Iterator[Any]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Service) as server:
        server.body = 503  # type: ignore[attr-defined]
        threading.Thread(target=partial(server.serve_forever, poll_interval=0.01), daemon=True).start()
        yield server
        server.shutdown()


def test_over_http_a_bad_model_changes_nothing(model: LatencyModel, service: Any, tmp_path: Path) -> None:
    now = [0.0]
    read = PredictorLaws(tmp_path / "m.json", url=f"http://127.0.0.1:{service.server_port}", clock=lambda: now[0])

    def later() -> Any:
        now[0] += 60.0
        return read()

    assert read() == {}, "a predictor that is cold is no failure"
    good = artifact.to_dict(model)
    service.body = good
    assert read() == {}, "not asked again so soon"
    assert later() == fitted_laws(model)
    service.body = {**good, "fitted_at_s": 7.0}
    with pytest.raises(SourceError, match="predictor"):
        later()
    service.body = good
    assert later() == fitted_laws(model)


def test_the_file_of_the_same_home_is_followed(model: LatencyModel, tmp_path: Path) -> None:
    read = PredictorLaws(tmp_path / "model.json")
    assert read() == {}
    artifact.write(model, tmp_path / "model.json")
    assert read() == fitted_laws(model)
    (tmp_path / "model.json").write_text("no model")
    assert read() == fitted_laws(model), "the last good one stays"
