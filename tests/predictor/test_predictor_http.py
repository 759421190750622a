"""The HTTP contract: upstream's endpoints and fields, cold and warm, and bad rows one by one."""

from __future__ import annotations

import json
import math
import threading
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from pydantic import ValidationError

from fleet import signals
from predictor import artifact, server
from predictor.fit import fit_once
from predictor.learner import Learner
from predictor.samples import dataset
from predictor.server import make_app
from predictor.settings import PredictorSettings
from predictor.wire import PredictionRequest, feature_row

ROW = {
    "kv_cache_percentage": 0.3,
    "input_token_length": 1000,
    "num_request_waiting": 0,
    "num_request_running": 5,
    "num_tokens_generated": 0,
    "prefix_cache_score": 0.5,
}
ENTRY = {**ROW, "actual_ttft_ms": 120.0, "actual_tpot_ms": 0.0, "pod_type": "", "timestamp": "2026-11-21T00:00:00Z"}


class Service:
    """A learner that is not running, and a client of its HTTP interface."""

    def __init__(self, folder: Path) -> None:
        self.learner = Learner(
            PredictorSettings(), history_url=f"sqlite:///{folder / 'h.sqlite3'}", model_path=folder / "model.json"
        )
        self.client = TestClient(make_app(self.learner))

    def post(self, path: str, body: object) -> tuple[int, dict]:
        answer = self.client.post(path, json=body)
        return answer.status_code, answer.json()

    def figures(self) -> dict[tuple[str, ...], float]:
        """Name and label values of each series of the metrics page -> value."""
        families = text_string_to_metric_families(self.client.get("/metrics").text)
        return {(s.name, *s.labels.values()): s.value for family in families for s in family.samples}

    def get(self, path: str) -> tuple[int, dict]:
        answer = self.client.get(path)
        return answer.status_code, answer.json()


@pytest.fixture
def cold(tmp_path: Path) -> Service:
    return Service(tmp_path)


@pytest.fixture
def warm(tmp_path: Path, world) -> Service:
    model = fit_once(dataset(world(300)), now_s=1_700_000_000.0).model
    assert model is not None
    artifact.write(model, tmp_path / "model.json")
    service = Service(tmp_path)
    service.learner.restore()
    return service


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/predict", ROW),
        ("POST", "/predict/bulk/strict", {"requests": [ROW]}),
        ("POST", "/predict/bulk", {"requests": [ROW]}),
        ("GET", "/readyz", None),
        ("GET", "/model/download", None),
    ],
)
def test_cold_answers_503_with_what_is_missing(cold: Service, method: str, path: str, body: object) -> None:
    answer = cold.client.request(method, path, json=body)
    assert answer.status_code == 503
    assert answer.json()["detail"] == "Models are not ready: 0 of 30 ttft samples, 0 of 30 tpot samples"


def test_cold_is_alive_and_says_so(cold: Service) -> None:
    assert cold.get("/healthz") == (200, {"status": "ok"})
    _, status = cold.get("/status")
    assert (status["is_ready"], status["cold"], status["samples"]) == (False, True, 0)
    assert status["models_exist"] == {"ttft": False, "tpot": False}
    assert status["error"]["n"] == 0
    assert cold.figures()["fleet_predictor_cold",] == 1


def test_predict_has_upstreams_fields_and_intervals(warm: Service) -> None:
    code, answer = warm.post("/predict", ROW)
    assert code == 200
    assert {"ttft_ms", "tpot_ms", "predicted_at", "model_type", "objective_type", "quantile", "last_model_load"} <= set(
        answer
    )
    low, high = answer["ttft_interval_ms"]
    assert 0 < low < answer["ttft_ms"] < high
    assert answer["ttft_ms"] < answer["ttft_quantile_ms"] <= high
    assert 1 < answer["tpot_ms"] < 100
    assert answer["last_model_load"].startswith("2023-11-14")
    assert answer["outside_training_range"] is False


def test_predict_knows_the_endpoint_and_the_variant(warm: Service) -> None:
    fast, slow = (warm.post("/predict", {**ROW, "variant": name})[1]["ttft_ms"] for name in ("h100", "a100"))
    assert slow > 1.5 * fast
    longer = warm.post("/predict", {**ROW, "input_token_length": 4000, "variant": "h100"})[1]["ttft_ms"]
    cached = warm.post("/predict", {**ROW, "prefix_cache_score": 1.0, "variant": "h100"})[1]["ttft_ms"]
    assert cached < fast < longer


def test_waiting_requests_stand_in_for_prefill_tokens_that_were_not_sent(warm: Service) -> None:
    unsent = warm.post("/predict", {**ROW, "num_request_waiting": 4})[1]["ttft_ms"]
    sent = warm.post("/predict", {**ROW, "num_request_waiting": 4, "prefill_tokens_in_flight": 4000})[1]["ttft_ms"]
    none = warm.post("/predict", {**ROW, "num_request_waiting": 4, "prefill_tokens_in_flight": 0})[1]["ttft_ms"]
    assert none < unsent == sent


def test_strict_bulk_keeps_order_and_counts(warm: Service) -> None:
    rows = [{**ROW, "input_token_length": n} for n in (100, 8000, 2000)]
    code, answer = warm.post("/predict/bulk/strict", {"requests": rows})
    assert code == 200
    assert (answer["total_requests"], answer["successful_predictions"], answer["failed_predictions"]) == (3, 3, 0)
    a, b, c = (prediction["ttft_ms"] for prediction in answer["predictions"])
    assert a < c < b
    assert a == warm.post("/predict", rows[0])[1]["ttft_ms"]
    assert answer["processing_time_ms"] >= 0


def test_strict_bulk_answers_a_refused_row_so_that_nobody_picks_it(warm: Service) -> None:
    text = json.dumps({"requests": [ROW, {**ROW, "kv_cache_percentage": 7}, {**ROW, "input_token_length": math.nan}]})
    answer = warm.client.post("/predict/bulk/strict", content=text, headers={"content-type": "application/json"})
    assert answer.status_code == 200
    good, bad, worse = answer.json()["predictions"]
    assert good["refused"] == ""
    assert bad["ttft_ms"] == worse["ttft_ms"] == 600_000
    assert bad["refused"].startswith("kv_cache_percentage")
    assert answer.json()["failed_predictions"] == 2


_values = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 10**12), st.floats(-1, 3), st.sampled_from(["", "5", "x"])
)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.dictionaries(st.sampled_from([*ROW, "endpoint", "variant", "prefill_tokens_in_flight", "other"]),
                                _values, max_size=3), min_size=1, max_size=3))  # fmt: skip
def test_rows_read_in_one_pass_mean_what_rows_read_one_by_one_mean(changes: list[dict]) -> None:
    rows = [{**ROW, **change} for change in changes]
    good, errors = server._rows(json.dumps({"requests": rows}).encode())
    expected, refused = [], []
    for index, row in enumerate(rows):
        try:
            expected.append(feature_row(PredictionRequest.model_validate(row)))
        except ValidationError:
            refused.append(index)
    assert [feature_row(row) for row in good] == expected
    assert [error.index for error in errors] == refused


@pytest.mark.parametrize(
    ("body", "says"),
    [
        pytest.param(b"", "JSON decode error", id="nothing"),
        pytest.param(b"\xff\xfe", "JSON decode error", id="no-text"),
        pytest.param(b"[" * 100_000, "JSON decode error", id="a-tower"),
        pytest.param(b"[]", "dictionary", id="no-object"),
        pytest.param(b'{"requests": []}', "at least 1", id="no-rows"),
        pytest.param(b'{"requests": {}}', "valid list", id="no-list"),
    ],
)
def test_a_body_that_is_no_list_of_rows_is_refused_as_a_whole(warm: Service, body: bytes, says: str) -> None:
    answer = warm.client.post("/predict/bulk/strict", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 422
    assert says in answer.json()["detail"][0]["msg"]


def test_a_count_beyond_all_engines_is_refused_alone(warm: Service) -> None:
    rows = [ROW, {**ROW, "input_token_length": 10**400}, {**ROW, "num_request_running": 10**9}]
    code, answer = warm.post("/predict/bulk", {"requests": rows})
    assert code == 200
    assert [error["index"] for error in answer["errors"]] == [1, 2]


def test_upstreams_model_endpoints_answer(warm: Service) -> None:
    assert warm.get("/model/ttft/info")[1]["exists"] is True
    assert warm.get("/model/download/info")[1]["available_endpoints"]["tpot"] == "/model/tpot/download"
    assert warm.get("/model/other/info")[0] == 404
    assert warm.get("/models/list")[1]["models"]["tpot"]["samples_count"] == 300
    assert warm.post("/reload", None)[1]["is_ready"] is True
    assert warm.get("/")[0] == 200
    assert warm.get("/lengths") == (200, {})
    assert warm.get("/evaluation")[0] == 503
    assert warm.post("/model/rollback", None)[0] == 409


def test_flush_forgets_the_samples_and_keeps_the_model(warm: Service) -> None:
    warm.post("/add_training_data_bulk", {"entries": [ENTRY]})
    assert warm.post("/flush", {})[1]["training_samples_flushed"] == 1
    assert warm.get("/data/status")[1]["kept"] == 0
    assert warm.post("/predict", ROW)[0] == 200


def test_bulk_refuses_bad_rows_one_by_one(warm: Service) -> None:
    bad = {key: value for key, value in ROW.items() if key != "num_request_waiting"}
    code, answer = warm.post("/predict/bulk", {"requests": [bad, ROW, {**ROW, "input_token_length": -1}]})
    assert code == 200
    assert [prediction is None for prediction in answer["predictions"]] == [True, False, True]
    assert [error["index"] for error in answer["errors"]] == [0, 2]
    assert answer["errors"][0]["error"].startswith("num_request_waiting")
    assert (answer["successful_predictions"], answer["failed_predictions"]) == (1, 2)


@pytest.mark.parametrize("count", [pytest.param(0, id="none"), pytest.param(10_001, id="too-many")])
def test_bulk_sizes_are_bounded(warm: Service, count: int) -> None:
    assert warm.post("/predict/bulk/strict", {"requests": [ROW] * count})[0] == 422


@pytest.mark.parametrize("text", ['{"kv_cache_percentage": NaN}', "[]", "not json", '{"input_token_length": 1e999}'])
def test_garbage_is_422_never_500(warm: Service, text: str) -> None:
    for path in ("/predict", "/predict/bulk", "/predict/bulk/strict", "/add_training_data_bulk"):
        answer = warm.client.post(path, content=text, headers={"content-type": "application/json"})
        assert answer.status_code == 422, path


def test_training_rows_are_taken_and_refused_one_by_one(cold: Service) -> None:
    entries = [
        ENTRY,
        {**ENTRY, "actual_ttft_ms": 0.0, "actual_tpot_ms": 11.0},
        {**ENTRY, "actual_ttft_ms": -5.0},
        {**ENTRY, "actual_ttft_ms": 0.0},
        {**ENTRY, "kv_cache_percentage": 3},
        {**ENTRY, "actual_ttft_ms": "soon"},
        {**ENTRY, "actual_ttft_ms": 1e9},
        {key: value for key, value in ENTRY.items() if key != "actual_tpot_ms"},
        "no object",
    ]
    code, answer = cold.post("/add_training_data_bulk", {"entries": entries})
    assert code == 202
    assert answer["message"] == "Accepted 2 training samples, refused 7"
    assert [(row["index"], row["reason"]) for row in answer["rejected"]] == [
        (2, "negative"),
        (3, "no_target"),
        (4, "absurd"),
        (5, "not_a_number"),
        (6, "absurd"),
        (7, "missing_features"),
        (8, "not_a_number"),
    ]
    _, status = cold.get("/data/status")
    assert (status["kept"], status["ttft_samples"], status["tpot_samples"]) == (2, 1, 1)
    assert status["rejected"]["absurd"] == 2
    assert cold.get("/readyz")[1]["detail"].endswith("1 of 30 ttft samples, 1 of 30 tpot samples")


def test_nan_in_a_training_row_refuses_that_row(cold: Service) -> None:
    entry = {**ENTRY, "actual_ttft_ms": 0}
    text = str({"entries": [entry, ENTRY]}).replace("'", '"').replace('"actual_ttft_ms": 0,', '"actual_ttft_ms": NaN,')
    answer = cold.client.post("/add_training_data_bulk", content=text, headers={"content-type": "application/json"})
    assert answer.status_code == 202
    assert [row["reason"] for row in answer.json()["rejected"]] == ["not_a_number"]


def test_samples_sent_over_http_make_a_model(cold: Service, world, monkeypatch) -> None:
    entries = [
        {**ENTRY, "input_token_length": 100 * i, "actual_ttft_ms": 20 + 2.0 * i, "actual_tpot_ms": 9.0 + i % 3}
        for i in range(1, 60)
    ]
    assert cold.post("/add_training_data_bulk", {"entries": entries})[0] == 202
    monkeypatch.setattr(cold.learner._worker, "run", lambda work, *arguments, **named: work(*arguments, **named))
    cold.learner.step()
    code, answer = cold.post("/predict", {**ROW, "input_token_length": 3000})
    assert code == 200
    assert answer["ttft_ms"] == pytest.approx(80, rel=0.2)


def test_metrics_are_the_catalogues(warm: Service) -> None:
    warm.post("/add_training_data_bulk", {"entries": ["bad"]})
    figures = warm.figures()
    for name, *labels in figures:
        assert len(labels) == len(signals.CATALOGUE[name].labels), name
    assert figures["fleet_predictor_samples", "ttft"] == 300
    assert figures["fleet_predictor_cold",] == 0
    assert sum(figures["fleet_predictor_rung", rung] for rung in ("boosted", "physics", "prior", "heuristic")) == 1
    assert figures["fleet_predictor_last_fit_timestamp_seconds",] == 1_700_000_000
    assert figures["fleet_predictor_rejected_samples_total", "not_a_number"] == 1
    assert 0 < figures["fleet_predictor_held_out_error_ratio", "tpot"] < 0.5
    assert not any(math.isnan(value) for value in figures.values())


def test_the_artifact_can_be_downloaded(warm: Service) -> None:
    code, data = warm.get("/model/download")
    assert code == 200
    assert artifact.from_dict(data).ttft.samples == 300


def test_a_learning_loop_that_stands_still_is_unhealthy(warm: Service, monkeypatch) -> None:
    release = threading.Event()
    monkeypatch.setattr(warm.learner, "step", lambda: release.wait(60))
    warm.learner.start()
    healthy = warm.get("/healthz")[0]
    warm.learner._turned_at -= 1000
    stood_still = warm.get("/healthz")[0]
    release.set()
    warm.learner.stop()
    assert (healthy, stood_still) == (200, 503)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_dead_learning_loop_is_unhealthy(warm: Service, monkeypatch) -> None:
    def fail() -> None:
        raise SystemExit

    monkeypatch.setattr(warm.learner, "step", fail)
    warm.learner.start()
    warm.learner._thread.join(60)
    assert warm.get("/healthz")[0] == 503
    assert warm.post("/predict", ROW)[0] == 200
