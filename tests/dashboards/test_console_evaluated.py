"""The predictor's live evaluation: the figures of ``fleet predictor evaluate``, as tables and on the page."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest
from threadpoolctl import threadpool_limits

from dashboards import charts, evaluated, figures
from predictor.evaluate import evaluation
from predictor.samples import dataset
from tests.dashboards.test_console_charts import checked
from tests.dashboards.test_console_pages import SCRIPT, text
from tests.predictor.conftest import World, world  # noqa: F401 - a fixture


def point(n: int, mape: float, *, method: str = "ours", target: str = "ttft", regime: str = "all") -> dict[str, Any]:
    score = {
        "n": 40,
        "mape": mape,
        "median_ape": 0.1,
        "bias": -0.01,
        "coverage": 0.91,
        "width": 0.5,
        "pinball_s": 0.002,
    }
    return {"n": n, "target": target, "regime": regime, "method": method, "score": score}


DOCUMENT: dict[str, Any] = {
    "at_s": 1_790_000_000.0, "samples": 500, "methods": ["ours", "upstream"],
    "curve": [point(n, mape, method=method, target=target) for target in ("ttft", "tpot")
              for method, mapes in (("ours", (0.3, 0.12)), ("upstream", (0.5, 0.4)))
              for n, mape in zip((20, 100), mapes, strict=True)],
    "endpoints": {"ttft": {"http://10.0.0.1:8000": point(0, 0.2)["score"]}, "tpot": {}},
    "left_out": [{"endpoint": "http://10.0.0.1:8000", "target": "ttft", "unseen": {"mape": 0.6},
                  "after": {"mape": 0.25}}],
    "pairs": {"ttft": [[0.1, 0.1, 0.08, 0.15, 0.0]] * 30, "tpot": [[0.1, 0.1, 0.08, 0.15, 0.0]] * 3},
}  # fmt: skip


def test_the_curve_has_every_figure_of_every_method():
    points = evaluated.curve(DOCUMENT)
    assert len(points) == 8
    assert evaluated.newest(points)["n"].unique().tolist() == [100.0]
    assert evaluated.figure_of(points, "ttft", "mape") == 0.12
    assert evaluated.figure_of(points, "ttft", "coverage") == 0.91
    assert evaluated.figure_of(points, "ttft", "mape", regime="queued") is None


def test_the_interval_is_as_wide_as_the_evaluated_rows_had_it():
    assert evaluated.interval(DOCUMENT, "ttft") == (pytest.approx(0.8), pytest.approx(1.5))
    assert evaluated.interval(DOCUMENT, "tpot") is None  # three rows tell nothing


def test_the_share_inside_the_interval_by_bin():
    pairs = pd.DataFrame({"done_s": [1.0, 2.0, 3.0, 4.0, 11.0], "predicted": 1.0, "actual": [0.9, 1.4, 2.0, 0.7, 1.0]})
    found = evaluated.share_inside(pairs, np.array([0.0, 10.0]), 10.0, (0.8, 1.5))
    assert found["value"].tolist()[0] == 0.5
    assert math.isnan(found["value"].tolist()[1])  # one request says nothing


def test_endpoints_with_what_they_were_when_left_out():
    row = evaluated.by_endpoint(DOCUMENT).iloc[0]
    assert (row["endpoint"], row["mape"], row["unseen"], row["after"]) == ("http://10.0.0.1:8000", 0.2, 0.6, 0.25)


@pytest.mark.parametrize("document", [
    None, [], "text", {}, {"curve": 3}, {"curve": [3, {}]}, {"pairs": {"ttft": 3}}, {"endpoints": [1]},
    {"left_out": "x", "endpoints": {"ttft": None}},
])  # fmt: skip
def test_a_document_of_another_shape_is_empty_not_an_error(document: object):
    assert evaluated.figure_of(evaluated.curve(document), "ttft", "mape") is None
    assert evaluated.interval(document, "ttft") is None
    assert evaluated.by_endpoint(document).empty


def test_changed_endpoints_are_said():
    assert evaluated.changed({"changed": [["http://e", 12]]}) == [
        "http://e became faster or slower 12 requests ago: its own scale began anew"]  # fmt: skip
    assert evaluated.changed({}) == []


def test_the_learning_curve_has_a_line_for_each_method_and_target():
    figure = checked(figures.learning_curve, evaluated.curve(DOCUMENT), evaluated.METHODS)
    assert [(trace.name, trace.line.dash) for trace in figure.data] == [
        ("ours", None), ("ours", "dash"), ("upstream's settings", None), ("upstream's settings", "dash")]  # fmt: skip
    assert figure.data[0].line.color == charts.INK
    assert list(figure.layout.xaxis.ticktext) == ["20", "100"]


def test_a_real_evaluation_is_understood(world: World):  # noqa: F811 - that fixture
    with threadpool_limits(1):  # threads of its own only wait for each other on a busy machine
        report = evaluation(dataset(world(200)), methods=("ours", "token-load"), sizes=(20, 100))
    report = json.loads(json.dumps(report))
    points = evaluated.curve(report)
    assert set(points["method"]) == set(report["methods"])
    assert evaluated.figure_of(points, "ttft", "mape") is not None
    assert evaluated.interval(report, "ttft") is not None
    assert len(evaluated.by_endpoint(report))


@pytest.fixture
def predictor() -> Iterator[str]:
    status = {"cold": False, "rung": {"ttft": "boosted", "tpot": "physics"}, "version": "abc123", "pinned": False,
              "samples": 500, "min_samples": 30, "error": {"held_out_ttft_mape": 0.12}, "drifts": 1,
              "changed": [["http://10.0.0.1:8000", 12]], "fitted_at_s": 1_790_000_000.0}  # fmt: skip

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer = {"/status": status, "/evaluation": DOCUMENT, "/healthz": "ok"}.get(self.path)
            self.send_response(200 if answer is not None else 404)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.mark.usefixtures("fresh_caches")
def test_the_page_shows_the_figures_of_evaluate(
    predictor: str, filled_history: str, filled_until_s: float, monkeypatch: pytest.MonkeyPatch
):
    for part in ("WVA", "ROUTER", "ALERTS"):
        monkeypatch.setenv(f"CONSOLE_{part}", "")
    monkeypatch.setenv("CONSOLE_PREDICTOR", predictor)
    monkeypatch.setenv("CONSOLE_TIMEOUT_S", "10")
    monkeypatch.setenv("CONSOLE_HISTORY_URL", filled_history)
    page = AppTest.from_string(SCRIPT.format(path="prediction"), default_timeout=60)
    page.query_params["at"] = f"{filled_until_s:.0f}"
    page.run()
    assert not page.exception
    said = text(page)
    for word in ("TTFT boosted, TPOT physics", "abc123", "upstream's settings", "12 %", "91 %", "MAPE unseen",
                 "became faster or slower"):  # fmt: skip
        assert word in said, word
    assert len(page.get("bidi_component")) == 6
