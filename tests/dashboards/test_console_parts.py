"""Other parts over real sockets: well, failing, silent, speaking nonsense; and what pages make of their documents."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pandas as pd
import pytest

from dashboards import fleetdoc, html
from dashboards.metricspage import Page
from dashboards.pages.alerting import watched, worst
from dashboards.pages.autoscaling import inputs_of
from dashboards.pages.routing import recent_decisions
from dashboards.parts import Parts
from dashboards.summary import Level, Sentence
from fleet.sources.exposition import Point
from wva.types import Policy


class _Part(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        answers = {"/healthz": (200, b"ok"), "/status": (200, b'{"cold": true}'), "/bad": (500, b"no")}
        if self.path == "/slow":
            time.sleep(2)
        status, body = answers.get(self.path, (404, b""))
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def part() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Part)
    server.handle_error = lambda *_: None  # a client that gave up is what is tested
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_a_part_that_answers(part: str):
    answer = Parts(timeout_s=30).ask("predictor", part, "/status")
    assert answer.reachable
    assert answer.document == {"cold": True}
    assert answer.problem == ""


def test_a_part_that_fails_is_reachable_and_its_problem_is_said(part: str):
    answer = Parts(timeout_s=30).ask("router", part, "/bad")
    assert answer.reachable
    assert answer.problem == "HTTP 500"


def test_a_slow_part_is_given_up(part: str):
    answer = Parts(timeout_s=0.2).ask("router", part, "/slow")
    assert not answer.reachable
    assert answer.problem == "no answer in time"


def test_silence_is_remembered_from_its_beginning(free_port: int):
    parts = Parts(timeout_s=30)
    url = f"http://127.0.0.1:{free_port}"
    first, second = parts.ask("wva", url, "/healthz"), parts.ask("wva", url, "/fleet")
    assert not first.reachable
    assert "refused" in first.problem
    assert first.since_s == second.since_s


def test_health_asks_all_at_once(part: str, free_port: int):
    found = Parts(timeout_s=30).health({"router": part, "controller": f"http://127.0.0.1:{free_port}"})
    assert {name: answer.reachable for name, answer in found.items()} == {"router": True, "controller": False}
    assert Parts(timeout_s=30).health({}) == {}


FLEET = {
    "snapshot": {"variants": [{
        "spec": {"name": "v", "accelerator": "h100_sxm", "cost_per_hour": 3.99, "accelerator_count": 1},
        "requested": 2,
        "replicas": [
            {"replica": {"name": "v-0", "url": "http://e", "state": "ready", "since_s": 5.0}, "age_s": 1.0,
             "sample": {"running": 3, "kv_utilisation": 0.4}},
            {"replica": {"name": "v-1", "url": "http://f", "state": "starting", "since_s": 6.0}, "sample": None},
        ],
    }]},
    "problems": [{"line": "platform: refused"}],
}  # fmt: skip


def test_the_controllers_document_becomes_tables():
    rows = fleetdoc.replicas(FLEET)
    assert rows["state"].tolist() == ["ready", "starting"]
    assert rows["running"].tolist()[0] == 3
    assert fleetdoc.specs(FLEET)[["variant", "requested", "cost_per_hour"]].iloc[0].tolist() == ["v", 2, 3.99]
    assert fleetdoc.problems(FLEET) == ["platform: refused"]


@pytest.mark.parametrize("document", [None, [], "text", 3, {}, {"snapshot": None}, {"snapshot": {"variants": "x"}}])
def test_a_document_of_another_shape_is_empty_not_an_error(document: object):
    assert fleetdoc.replicas(document).empty
    assert fleetdoc.specs(document).empty
    assert fleetdoc.problems(document) == []
    assert recent_decisions(document).empty
    assert watched(document).empty


def test_the_routers_picks_become_rows_with_the_scores_of_the_chosen_one():
    pick = {
        "at_s": 1.0, "endpoint": "http://127.0.0.1:9100", "reason": "picked", "input_tokens": 9, "matched_tokens": 4,
        "scores": {"http://127.0.0.1:9100": {"total": 1.234}, "http://127.0.0.1:9101": {"total": 1.0}},
        "predictions": {"http://127.0.0.1:9100": {"ttft_s": 0.1}}, "dropped": {"http://x": "queue"}, "took_s": 0.0002,
    }  # fmt: skip
    row = recent_decisions(json.loads(json.dumps([pick, {"endpoint": None}, "nonsense"]))).iloc[0]
    assert (row["endpoint"], row["total"], row["predicted TTFT"], row["candidates"]) == (
        ":9100",
        1.234,
        "100 ms",
        2,
    )
    assert (row["dropped"], row["took"]) == (1, "0.2 ms")


def test_the_watchers_alerts_become_rows():
    document = {"alerts": [{"alert": "HighTTFT", "state": "firing", "severity": "critical", "since_s": 5.0,
                            "labels": {"model_name": "m"}, "summary": "slow"}]}  # fmt: skip
    row = watched(document).iloc[0]
    assert row.tolist() == ["HighTTFT", "firing", "critical", "m", 5.0, "slow"]


def test_a_metrics_page_is_read_in_words_and_a_histogram_as_its_mean():
    page = Page(points=[
        Point("llm_d_epp_flow_control_queue_size", 3.0, {"target_model": "meta-llama/m", "priority": ""}),
        Point("llm_d_epp_flow_control_request_queue_duration_seconds_sum", 6.0, {"outcome": "ok"}),
        Point("llm_d_epp_flow_control_request_queue_duration_seconds_count", 4.0, {"outcome": "ok"}),
        Point("llm_d_epp_flow_control_request_queue_duration_seconds_bucket", 4.0, {"outcome": "ok", "le": "1"}),
        Point("fleet_router_shed_total", 2.0, {}),
    ])  # fmt: skip
    assert page.table("flow_control", "fleet_router_shed").to_dict("split")["data"] == [
        ["flow control queue size", 3.0, "m"],
        ["flow control request queue duration, seconds, mean", 1.5, "ok"],
        ["shed, in all", 2.0, ""],
    ]


def test_the_worst_alert_that_fires_sets_the_colour():
    spells = pd.DataFrame({"severity": ["critical", "warning"], "to_s": [5.0, math.nan]})
    assert worst(spells, pd.DataFrame()) is Level.ATTENTION, "the critical one is over"
    assert worst(spells.assign(to_s=math.nan), pd.DataFrame()) is Level.BREACH
    assert worst(pd.DataFrame(), watched({"alerts": [{"alert": "x", "severity": "page"}]})) is Level.BREACH


def test_unknown_inputs_of_a_decision_say_so():
    table = inputs_of({"kv_utilisation": 0.31234, "age_s": None, "capacity_tps": 12345.0})
    assert dict(zip(table["input"], table["value"], strict=True)) == {
        "KV cache utilisation": "0.312", "age, seconds": "not known", "capacity, tokens/s": "12.3k",
    }  # fmt: skip
    assert inputs_of(None).empty


@pytest.mark.parametrize(
    "piece",
    [
        html.banner(Sentence(level=Level.BREACH, headline="<script>x</script>", detail="<b>")),
        html.tile("<i>", "<i>", note="<i>", limit="<i>", level=Level.GOOD),
        html.happening("<i>", "<i>", "<i>", mark="<i>", link='"><i>'),
        html.empty("<i>", "<i>", command="<i>", icon="<i>"),
        html.part("<i>", Level.GOOD, "<i>"),
        html.step("<i>", "<i>", "<i>"),
        html.cause("<i>", "<i>", "<i>"),
        html.badge(Level.GOOD, "<i>"),
    ],
)
def test_text_from_data_is_escaped(piece: str):
    assert "<script>" not in piece
    assert "<i>" not in piece


@pytest.mark.parametrize("level", list(Level))
def test_a_state_is_never_colour_alone(level: Level):
    badge = html.badge(level)
    assert html.MARKS[level] in badge
    assert html.WORDS[level] in badge


@pytest.mark.parametrize(
    ("ready", "wanted", "shown"),
    [
        pytest.param(1, 3, "●○○", id="two-on-their-way"),
        pytest.param(3, 1, "●◌◌", id="two-leave"),
        pytest.param(2, None, "●●", id="wanted-not-known"),
        pytest.param(20, 20, "20 / 20", id="many-become-a-number"),
        pytest.param(None, 3, "not known", id="not-known"),
    ],
)
def test_replicas_as_dots(ready: int | None, wanted: int | None, shown: str):
    assert shown in html.dots(ready, wanted)


def test_a_bar_stays_inside_and_marks_its_thresholds():
    assert "width:100.0%" in html.bar(1.7, low=0.3, high=0.8, label="saturation")
    assert html.bar(0.5, low=0.3, high=0.8, label="saturation").count("<i ") == 2
    assert "not known" in html.bar(None, label="saturation")


@pytest.mark.parametrize(("told", "found"), [
    pytest.param({"analyzer": "slo", "slo_ttft_s": 2, "flap_limit": 3, "forecast": False},
                 Policy(analyzer="slo", slo_ttft_s=2, flap_limit=3, forecast=False), id="as told"),
    pytest.param({"analyzer": "slo", "novelty": 1, "flap_limit": "many", "forecast": 1, "window_s": True},
                 Policy(analyzer="slo"), id="what another version says otherwise is left out"),
    pytest.param({"analyzer": "crystal-ball"}, None, id="an analyzer that is not known here"),
    pytest.param(None, None, id="nothing said")])  # fmt: skip
def test_how_the_controller_decides(told: object, found: Policy | None) -> None:
    assert fleetdoc.policy({"snapshot": None, "policy": told}) == found
    assert fleetdoc.policy([]) is None
