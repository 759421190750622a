"""Every page through Streamlit's own test runner: filled, empty, missing and broken history; links; controls."""

from __future__ import annotations

import time
from pathlib import Path

import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from dashboards.frame import SECTIONS
from dashboards.pages.infrastructure import crashes
from dashboards.paths import PATHS
from dashboards.words import ago
from fleet.history import Event, History, SignalSample
from fleet.types import Decision, Direction, Reason

SCRIPT = """
from dashboards import frame, view
view.restore()
frame.controls()
view.remember()
frame.body(frame.entry("{path}"))
"""

MENTIONS = {
    "overview": ["SLO attainment", "Error budget left", "llama-8b-a100", "What happened"],
    "business": ["TTFT &lt; 200 ms", "Goodput", "Failed requests", "Tenants", "search"],
    "vllm": ["KV cache, fullest", "Running batch", "Prefix cache hits"],
    "resources": ["GPUs in use", "dcgm-exporter", "Cost per hour"],
    "infrastructure": [
        "Crashes",
        "controller died",
        "9110 hangs: 14 requests under way",
        "is ready again after",
        "No controller is configured",
    ],
    "autoscaling": ["Saturation", "Removed 1 replica", "KV cache utilisation"],
    "whatif": ["Nothing has been tried yet", "Try on Llama-3.1-8B-Instruct"],
    "routing": ["Time to pick", "Imbalance", "Prefix hit rate", "No router is configured"],
    "prediction": ["TTFT error", "predicted against actual", "Coverage", "Learning curve", "steady"],
    "cache": ["Prefix hits", "Prompt tokens saved", "No KV-event index runs"],
    "planner": ["Cost now", "Per million answer tokens", "llama-8b-a100"],
    "alerts": ["Firing", "HighTTFT", "Diagnosis", "burns its error budget: ", "of requests over 0.2 s; over after "],
}
CHARTS = {"overview": 2, "business": 7, "vllm": 7, "resources": 2, "infrastructure": 1, "autoscaling": 3, "whatif": 0,
          "routing": 4, "prediction": 5, "cache": 3, "planner": 0, "alerts": 0}  # fmt: skip


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, fresh_caches: None) -> None:
    """No other part is asked unless a test says so."""
    for part in ("WVA", "ROUTER", "PREDICTOR", "ALERTS"):
        monkeypatch.setenv(f"CONSOLE_{part}", "")


def app(path: str) -> AppTest:
    return AppTest.from_string(SCRIPT.format(path=path), default_timeout=60)


def text(run: AppTest) -> str:
    """Everything that the page says outside its charts."""
    said = [element.proto.body for element in run.get("html")]
    frames = [frame.value.to_string() for frame in run.dataframe]
    return " ".join([*said, *frames])


@pytest.mark.parametrize("path", PATHS)
def test_page_over_a_filled_history(
    path: str, filled_history: str, filled_until_s: float, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("CONSOLE_HISTORY_URL", filled_history)
    page = app(path)
    page.query_params["at"] = f"{filled_until_s:.0f}"
    page.run()
    assert not page.exception
    said = text(page)
    for word in MENTIONS[path]:
        assert word in said
    assert len(page.get("bidi_component")) == CHARTS[path]


@pytest.mark.parametrize("path", PATHS)
def test_page_over_an_empty_history_says_what_to_do(path: str, empty_history: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CONSOLE_HISTORY_URL", empty_history)
    page = app(path).run()
    assert not page.exception
    assert "fl-empty" in text(page)
    assert not page.get("bidi_component")


@pytest.mark.parametrize("path", PATHS)
def test_page_without_a_history_says_how_to_make_one(path: str, missing_history: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CONSOLE_HISTORY_URL", missing_history)
    page = app(path).run()
    assert not page.exception
    assert "There is no history yet" in text(page)
    assert "fleet up" in text(page)
    assert not Path(missing_history.removeprefix("sqlite:///")).exists()


def test_a_history_that_is_no_database_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "x.sqlite3").write_text("no database" * 100)
    monkeypatch.setenv("CONSOLE_HISTORY_URL", f"sqlite:///{tmp_path}/x.sqlite3")
    page = app("overview").run()
    assert not page.exception
    assert "The history cannot be read" in text(page)


def test_a_history_that_appears_later_is_found(missing_history: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CONSOLE_HISTORY_URL", missing_history)
    page = app("overview").run()
    History(missing_history).close()
    page.run()
    assert not page.exception
    assert "There is no history yet" not in text(page)


def test_old_data_offer_the_way_to_their_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    url, then = f"sqlite:///{tmp_path}/old.sqlite3", time.time() - 7200
    history = History(url)
    history.add(
        [SignalSample(at_s=then, signal="vllm:kv_cache_usage_perc", value=0.5, variant="v", endpoint="http://e")]
    )
    history.close()
    monkeypatch.setenv("CONSOLE_HISTORY_URL", url)
    page = app("vllm").run()
    assert "Nothing in the last 15 min" in text(page)
    page.button[0].click().run()
    assert not page.exception
    assert len(page.get("bidi_component")) == 1
    assert abs(float(page.query_params["at"]) - then) < 3


def test_a_decision_is_as_old_as_it_is_however_seldom_the_page_is_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A week's page looks at whole stretches of minutes; the age of a decision is told by the clock."""
    url, now_s = f"sqlite:///{tmp_path}/seldom.sqlite3", time.time()
    history = History(url)
    history.add([
        Decision(at_s=now_s - 1300, variant="v", namespace="default", model="m", accelerator="h100_sxm",
                 current=2, desired=2, direction=Direction.HOLD, reason=Reason.STEADY, detail="steady"),
        SignalSample(at_s=now_s - 1300, signal="vllm:kv_cache_usage_perc", value=0.5, variant="v", endpoint="http://e"),
    ])  # fmt: skip
    history.close()
    monkeypatch.setenv("CONSOLE_HISTORY_URL", url)
    monkeypatch.setenv("CONSOLE_REFRESH_S", "600")
    page = app("overview")
    page.query_params["range"] = "1h"
    said = text(page.run())
    assert any(f"{ago(1300.0 + late_s)}, <a" in said for late_s in range(60))


def test_range_model_and_moment_come_from_the_address_and_go_back_into_it(
    filled_history: str, filled_until_s: float, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("CONSOLE_HISTORY_URL", filled_history)
    page = app("business")
    page.query_params["range"] = "5m"
    page.query_params["model"] = "another/model"
    page.query_params["at"] = f"{filled_until_s:.0f}"
    page.run()
    assert page.session_state["range"] == "5m"
    assert page.selectbox[0].value == "another/model"
    assert "No request finished" in text(page)
    page.selectbox[0].set_value("").run()
    assert "model" not in page.query_params
    assert page.query_params["range"] == "5m"
    assert "No request finished" not in text(page)


def test_a_variant_and_a_namespace_narrow_every_figure_and_stay_in_the_address(
    filled_history: str, filled_until_s: float, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("CONSOLE_HISTORY_URL", filled_history)
    page = app("overview")
    page.query_params["variant"] = "llama-8b-a100"
    page.query_params["at"] = f"{filled_until_s:.0f}"
    page.run()
    assert not page.exception
    assert "llama-8b-a100" in text(page)
    assert "llama-8b-h100" not in text(page)
    assert page.query_params["variant"] == ["llama-8b-a100"] or page.query_params["variant"] == "llama-8b-a100"
    page.selectbox(key="variant").set_value("").run()
    assert "variant" not in page.query_params
    assert "llama-8b-h100" in text(page)


def test_a_namespace_without_variants_shows_nothing_rather_than_everything(
    filled_history: str, filled_until_s: float, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("CONSOLE_HISTORY_URL", filled_history)
    page = app("business")
    page.query_params["namespace"] = "elsewhere"
    page.query_params["at"] = f"{filled_until_s:.0f}"
    page.run()
    assert not page.exception
    assert "No request finished" in text(page)


def test_nonsense_in_the_address_is_ignored(filled_history: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CONSOLE_HISTORY_URL", filled_history)
    page = app("autoscaling")
    page.query_params["range"] = "a year"
    page.query_params["at"] = "yesterday"
    page.query_params["decision"] = "'; drop table"
    page.run()
    assert not page.exception
    assert page.session_state["range"] == "15m"
    assert page.session_state["live"] is True


def test_a_decision_in_the_address_is_explained(
    filled_history: str, filled_until_s: float, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("CONSOLE_HISTORY_URL", filled_history)
    page = app("autoscaling")
    page.query_params["at"] = f"{filled_until_s:.0f}"
    page.query_params["decision"] = "1"
    page.run()
    assert "decision 1 at" in text(page)


def test_the_live_switch_fixes_the_moment(filled_history: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CONSOLE_HISTORY_URL", filled_history)
    page = app("overview").run()
    assert "at" not in page.query_params
    page.toggle[0].set_value(False).run()
    assert abs(float(page.query_params["at"]) - time.time()) < 30
    page.toggle[0].set_value(True).run()
    assert "at" not in page.query_params


def test_the_table_behind_a_chart_is_made_when_it_is_opened(
    filled_history: str, filled_until_s: float, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("CONSOLE_HISTORY_URL", filled_history)
    page = app("business")
    page.query_params["at"] = f"{filled_until_s:.0f}"
    page.run()
    assert [frame.value.columns[0] for frame in page.dataframe] == ["tenant"]
    page.session_state["data-ttft"] = True
    page.run()
    assert list(page.dataframe[0].value.columns[:2]) == ["variant", "time"]
    assert len(page.get("download_button")) == 2


def test_a_silent_part_has_its_designed_state(filled_history: str, free_port: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CONSOLE_HISTORY_URL", filled_history)
    monkeypatch.setenv("CONSOLE_ROUTER", f"http://127.0.0.1:{free_port}")
    page = app("routing").run()
    assert not page.exception
    assert "The router is not reachable since" in text(page)


def test_the_alert_in_the_address_opens_its_tree(
    filled_history: str, filled_until_s: float, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("CONSOLE_HISTORY_URL", filled_history)
    page = app("alerts")
    page.query_params["at"] = f"{filled_until_s - 400:.0f}"
    page.query_params["alert"] = "RouterScrapesOld"
    page.run()
    assert not page.exception
    chosen = [box.value for box in page.selectbox if box.label == "Question"]
    assert chosen == ["load_uneven"]
    assert "for the alert RouterScrapesOld" in text(page)


def test_the_paths_are_those_of_the_navigation():
    assert tuple(page.path for pages in SECTIONS.values() for page in pages) == PATHS


def test_engines_in_trouble_are_told_where_one_looks_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    url, now_s = f"sqlite:///{tmp_path}/history.sqlite3", time.time()
    history = History(url)
    history.add([Decision(at_s=now_s - 30, variant="a", namespace="default", model="m", accelerator="h100_sxm",
                          current=2, desired=2, direction=Direction.HOLD, reason=Reason.STEADY,
                          detail="steady")])  # fmt: skip
    history.add([
        Event(at_s=now_s - 200, kind="engine", subject="a-1", severity="warning", message="http://a-1 is down",
              data={"turn": "down", "state": "open", "engines": ["a-1"]}),
        Event(at_s=now_s - 160, kind="engine", subject="a-1", message="http://a-1 is ready again after 40 s",
              data={"turn": "ready", "state": "resolved", "engines": ["a-1"]}),
        Event(at_s=now_s - 100, kind="engine", subject="a", severity="critical", message="2 engines (a-0, a-1) hang",
              data={"turn": "hung", "state": "open", "engines": ["a-0", "a-1"]}),
        *(Event(at_s=now_s - 90 + number, kind="model", subject="predictor", message=f"learned {number} times")
          for number in range(20)),
    ])  # fmt: skip
    monkeypatch.setenv("CONSOLE_HISTORY_URL", url)
    said = text(app("overview").run())
    feed = said[said.index("What happened") :]
    told = [feed.index(words) for words in ("2 engines (a-0, a-1) hang", "is ready again after 40 s", "a-1 is down")]
    assert told == sorted(told), "newest first"
    assert [number for number in range(20) if f"learned {number} times" in feed] == [18, 19]
    assert ("✕" in feed, "✓" in feed, "▲" in feed) == (True, True, True)


def test_a_hang_is_no_crash_and_each_dead_engine_is_one() -> None:
    events = pd.DataFrame([
        {"kind": "engine", "severity": "warning", "data": {"turn": "hung", "engines": ["a"]}},
        {"kind": "engine", "severity": "warning", "data": {"turn": "down", "engines": ["a", "b"]}},
        {"kind": "engine", "severity": "info", "data": {"turn": "ready", "engines": ["a", "b"]}},
        {"kind": "process", "severity": "critical", "data": {}},
        {"kind": "process", "severity": "info", "data": {}},
        {"kind": "config", "severity": "warning", "data": {}},
    ])  # fmt: skip
    assert crashes(events) == 3
    assert crashes(pd.DataFrame()) == 0
