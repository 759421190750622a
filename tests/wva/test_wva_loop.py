"""The shell: passes against a platform over HTTP, a real SQLite, and everything that can break."""

from __future__ import annotations

import json
import logging
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from fleet.errors import ConfigError
from fleet.history import History
from fleet.platform import HttpPlatform
from fleet.signals import BY_ANY_NAME, CATALOGUE, Origin, base_name
from fleet.sources.scrape import RouterPage, ScrapeSource
from fleet.types import Reason
from tests.waiting import until
from tests.wva.fake_platform import FakePlatform, serving
from tests.wva.wva_builders import spec
from wva import snapshot_file
from wva.app import make_app
from wva.collect import Collector
from wva.loop import ControlLoop
from wva.types import Policy, WvaState

START = 1_800_000_000.0
"""After any time at which a replica of the fake platform became ready."""


class Clock:
    """Time that only the test moves."""

    def __init__(self) -> None:
        self.now_s = START

    def __call__(self) -> float:
        return self.now_s


class Rig:
    """A controller in front of a fake platform."""

    def __init__(self, platform: FakePlatform, folder: Path, **options: Any) -> None:
        self.platform, self.clock = platform, Clock()
        self.url = f"sqlite:///{folder / 'history.sqlite3'}"
        self.state_file = folder / "state.json"
        client = HttpPlatform(platform.url)
        collector = Collector(client, ScrapeSource(timeout_s=1.0), options.pop("queue", None),
                              inventory=client.inventory)  # fmt: skip
        policy = options.pop("policy", Policy(scale_down_stabilisation_s=60.0))
        self.history = History(self.url)
        self.loop = ControlLoop(collector, client, self.history, policy=policy, state_file=self.state_file,
                                clock=self.clock, **options)  # fmt: skip

    def passes(self, count: int, *, every_s: float = 15.0) -> None:
        for _ in range(count):
            self.loop.run_once()
            self.clock.now_s += every_s

    def desired(self) -> int:
        assert self.loop.last is not None
        return self.loop.last.decisions[0].desired

    def metric(self, name: str, **labels: str) -> float | None:
        return self.loop.metrics.registry.get_sample_value(name, labels)

    def rows(self, table: str, **equals: str) -> list[dict[str, Any]]:
        """What the history holds once the writer has written."""
        self.loop.stop()
        return History(self.url).read(table, **equals)


FULL = {"kv": 1.0, "waiting": 10.0, "running": 8.0}
IDLE = {"kv": 0.05, "waiting": 0.0, "running": 0.0}
CAREFUL = {"saturation_threshold": 0.75}
"""So that a full fleet is above the threshold without any learned speed."""


@pytest.fixture
def platform() -> Iterator[FakePlatform]:
    with serving(FakePlatform(spec("a", max_replicas=4, **CAREFUL))) as running:
        yield running


@pytest.fixture
def rig(platform: FakePlatform, tmp_path: Path) -> Iterator[Rig]:
    found = Rig(platform, tmp_path)
    yield found
    found.loop.stop()


def test_load_scales_up_and_idling_scales_down_again(rig: Rig) -> None:
    rig.platform.load = FULL
    rig.passes(2)
    assert rig.platform.scalings == [("a", 2), ("a", 3)]
    rig.platform.load = IDLE
    rig.passes(6)
    assert rig.platform.scalings == [("a", 2), ("a", 3), ("a", 2)]
    assert rig.metric("wva_replica_scaling_total", variant_name="a", namespace="default", accelerator_type="toy",
                      direction="up", reason="saturated") == 2  # fmt: skip
    events = rig.rows("events", kind="scale")
    assert [(each["data"]["from"], each["data"]["to"], each["data"]["direction"]) for each in events] == [
        (1, 2, "up"), (2, 3, "up"), (3, 2, "down")
    ]  # fmt: skip
    assert [each["data"]["reason"] for each in events] == ["saturated", "saturated", "idle"]


def test_a_pass_leaves_its_signals_and_decisions_in_the_history(rig: Rig) -> None:
    rig.passes(3)
    samples = rig.rows("samples")
    values = {each["signal"]: each["value"] for each in samples}
    assert values["vllm:kv_cache_usage_perc"] == 0.5
    assert values["generation_tps"] > 0
    assert (values["wva_desired_replicas"], values["wva_current_replicas"], values["requested_replicas"]) == (1, 1, 1)
    assert 0.25 <= values["wva_saturation_utilization"] <= 0.46
    assert {each["endpoint"] for each in samples if each["signal"] == "generation_tps"} == {f"{rig.platform.url}/a/0"}


def test_unchanged_decisions_are_written_every_thirty_seconds_only(rig: Rig) -> None:
    rig.passes(16, every_s=4.0)
    assert [each["at_s"] - START for each in rig.rows("decisions")] == [0.0, 32.0]


def test_dry_run_and_fixed_engines_publish_but_scale_nothing(platform: FakePlatform, tmp_path: Path) -> None:
    platform.load = FULL
    rig = Rig(platform, tmp_path, dry_run=True)
    rig.passes(3)
    assert platform.scalings == []
    assert rig.desired() == 2
    assert rig.metric("wva_desired_replicas", variant_name="a", namespace="default", accelerator_type="toy") == 2
    assert rig.rows("events") == []


def test_a_platform_that_does_not_answer_holds_everything(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    rig.platform.load = FULL
    rig.passes(1)
    rig.platform.broken = True
    rig.passes(3)
    assert rig.platform.scalings == [("a", 2)]
    labels = {"variant_name": "a", "namespace": "default", "accelerator_type": "toy"}
    assert rig.metric("wva_desired_replicas", **labels) == 2
    assert rig.metric("wva_metrics_freshness_status", variant_name="a", status="unavailable") == 1
    assert rig.metric("wva_errors_total", component="platform", error_type="HTTPError") == 3
    lines = [record.getMessage() for record in caplog.records if "GET /fleet failed" in record.getMessage()]
    assert len(lines) == 1, "a lasting problem is logged once a minute"
    rig.platform.broken = False
    rig.passes(1)
    assert rig.metric("wva_metrics_freshness_status", variant_name="a", status="fresh") == 1


def test_engines_that_fall_silent_grow_stale_and_hold(rig: Rig) -> None:
    rig.platform.scale("a", 3)
    rig.platform.load = IDLE
    rig.passes(1)
    rig.platform.blind = True
    rig.passes(8)
    assert rig.loop.last is not None
    decision = rig.loop.last.decisions[0]
    assert (decision.desired, decision.reason) == (3, Reason.STALE)
    assert rig.metric("fleet_wva_signal_age_seconds", variant_name="a") == pytest.approx(120.0, abs=2.0)
    assert rig.metric("wva_metrics_freshness_status", variant_name="a", status="stale") == 1
    assert rig.platform.scalings == []


def test_a_router_that_does_not_answer_is_counted_and_blocks_the_way_down(
    platform: FakePlatform, tmp_path: Path, free_port: int
) -> None:
    rig = Rig(platform, tmp_path, queue=RouterPage(f"http://127.0.0.1:{free_port}").queue)
    platform.scale("a", 2)
    platform.load = IDLE
    rig.passes(10)
    assert rig.metric("wva_errors_total", component="router", error_type="ConnectionError") == 10
    assert platform.scalings == []
    rig.loop.stop()


def test_a_locked_history_is_counted_and_the_rows_come_later(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locker = sqlite3.connect(tmp_path / "history.sqlite3", isolation_level=None)
    rig.history._engine.dispose()
    monkeypatch.setattr("fleet.history.store._sqlite_pragmas", lambda connection, _: None)
    real = rig.history.add

    def hurried(rows: Any) -> int:
        with rig.history._engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA busy_timeout=10")
        return real(rows)

    monkeypatch.setattr(rig.history, "add", hurried)
    locker.execute("BEGIN EXCLUSIVE")
    rig.passes(1)
    until(lambda: rig.loop._writer.failures > 0, "a failed write")
    rig.passes(1)
    assert (rig.metric("wva_errors_total", component="history", error_type="write") or 0) >= 1
    locker.execute("ROLLBACK")
    locker.close()
    assert {each["at_s"] for each in rig.rows("samples")} >= {START, START + 15.0}


def test_a_state_file_that_cannot_be_written_is_counted(platform: FakePlatform, tmp_path: Path) -> None:
    rig = Rig(platform, tmp_path)
    rig.loop._state_file = tmp_path / "history.sqlite3" / "state.json"
    rig.passes(1)
    assert rig.metric("wva_errors_total", component="state", error_type="FileExistsError") == 1
    rig.loop.stop()


def test_after_an_upgrade_it_goes_on_with_what_the_other_version_learned(
    platform: FakePlatform, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Keys that only the other version knows, at any depth, cost nothing else."""
    before = Rig(platform, tmp_path)
    before.passes(3)
    kept = before.loop.state
    document = json.loads(before.state_file.read_text())
    (variant,) = document["variants"].values()
    variant["of_another_version_s"] = {"replica-0": 1.0}
    before.state_file.write_text(json.dumps(document))
    caplog.set_level(logging.INFO)
    assert Rig(platform, tmp_path).loop.state == kept
    assert "written by another version" in caplog.text and "of_another_version_s is left out" in caplog.text
    assert "anew" not in caplog.text
    with pytest.raises(ConfigError, match="unknown key"):  # whoever writes one by hand mistyped it
        snapshot_file.read(WvaState, before.state_file)


def test_a_damaged_state_file_is_said_and_begun_anew(
    platform: FakePlatform, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "state.json").write_text('{"variants": {"a": 3}}')
    rig = Rig(platform, tmp_path)
    assert rig.loop.state == WvaState()
    assert "Expected `object`, got `int`" in caplog.text
    rig.loop.stop()


def test_a_restart_goes_on_where_the_last_one_ended(platform: FakePlatform, tmp_path: Path) -> None:
    """Three passes of idling before the restart count: the window of 60 s ends where it would have."""
    platform.scale("a", 3)
    platform.load = IDLE
    first = Rig(platform, tmp_path)
    first.passes(3)
    first.loop.stop()
    second = Rig(platform, tmp_path)
    second.clock.now_s = first.clock.now_s
    second.passes(2)
    assert platform.scalings == []
    second.passes(1)
    assert platform.scalings == [("a", 2)]
    second.loop.stop()


def test_a_defect_in_a_pass_is_counted_and_the_next_pass_comes(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real, calls = rig.loop.run_once.__func__, []

    def sometimes(loop: ControlLoop) -> Any:
        calls.append(loop)
        if len(calls) == 1:
            raise ZeroDivisionError("a defect")
        return real(loop)

    monkeypatch.setattr(ControlLoop, "run_once", sometimes)
    rig.loop.start(0.05)
    until(lambda: rig.loop.last is not None, "a pass")
    assert rig.metric("wva_errors_total", component="loop", error_type="ZeroDivisionError") == 1
    assert "a defect" in caplog.text


def test_history_is_pruned_by_age(platform: FakePlatform, tmp_path: Path) -> None:
    rig = Rig(platform, tmp_path, keep_s=100.0)
    rig.passes(1)
    rig.loop._writer.close()
    assert rig.history.count("samples") > 0
    rig.clock.now_s = START + 99.0
    rig.loop.prune()
    assert rig.history.count("samples") > 0
    rig.clock.now_s = START + 101.0
    rig.loop.prune()
    assert rig.history.count("samples") == 0


def test_series_of_a_variant_that_went_away_are_removed(rig: Rig) -> None:
    rig.passes(1)
    other = spec("b", accelerator="h100_sxm")
    rig.platform.variants = {"b": type(rig.platform.variants["a"])(spec=other, requested=1)}
    rig.passes(1)
    page = rig.loop.metrics.page().decode()
    assert 'wva_desired_replicas{accelerator_type="h100_sxm",namespace="default",variant_name="b"} 1.0' in page
    gauges = [line for line in page.splitlines() if 'variant_name="a"' in line]
    assert gauges == []


def test_being_at_the_maximum_is_exported(rig: Rig) -> None:
    labels = {"variant_name": "a", "namespace": "default", "accelerator_type": "toy"}
    rig.passes(1)
    assert rig.metric("fleet_wva_at_max", **labels) == 0
    rig.platform.load = FULL
    rig.passes(4)
    assert rig.desired() == 4
    assert rig.metric("fleet_wva_at_max", **labels) == 1


def test_a_variant_at_zero_as_wanted_is_not_blind(platform: FakePlatform, tmp_path: Path) -> None:
    dear = spec("dear", cost_per_hour=5.0, min_replicas=0)
    platform.variants["dear"] = type(platform.variants["a"])(spec=dear, requested=0)
    rig = Rig(platform, tmp_path)
    rig.passes(1)
    assert rig.metric("wva_metrics_freshness_status", variant_name="dear", status="fresh") == 1
    assert rig.metric("wva_metrics_freshness_status", variant_name="dear", status="unavailable") == 0
    rig.loop.stop()


def test_every_catalogued_series_of_ours_is_exported(rig: Rig) -> None:
    """A name in the catalogue that nothing exports would make an alert on it dead."""
    rig.platform.load = FULL
    rig.passes(1)
    rig.platform.broken = True
    rig.passes(1)
    page = rig.loop.metrics.page().decode()
    ours = [signal.name for signal in CATALOGUE.values() if signal.origin is Origin.WVA]
    assert [name for name in ours if f"# TYPE {name} " not in page] == []


def test_every_series_is_in_the_catalogue(rig: Rig) -> None:
    rig.platform.load = FULL
    rig.passes(2)
    text = rig.loop.metrics.page().decode()
    names = {sample.name for family in text_string_to_metric_families(text) for sample in family.samples}
    ours = {base_name(name) for name in names if not name.endswith("_created")}
    assert {name for name in ours if name not in BY_ANY_NAME} == set()
    assert len(ours) >= 10
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if not sample.name.endswith("_created"):
                assert set(sample.labels) - {"le"} == set(BY_ANY_NAME[base_name(sample.name)].labels), sample.name


def test_the_http_side_shows_the_last_pass(rig: Rig) -> None:
    with TestClient(make_app(rig.loop, rig.clock)) as client:
        assert client.get("/healthz").status_code == 503
        assert client.get("/fleet").json() == {"snapshot": None, "decisions": [], "problems": []}
        rig.passes(1)
        health = client.get("/healthz")
        assert (health.status_code, health.json()["last_pass_age_s"]) == (200, 15.0)
        fleet = client.get("/fleet").json()
        assert fleet["decisions"][0]["variant"] == "a"
        assert fleet["snapshot"]["variants"][0]["replicas"][0]["sample"]["kv_utilisation"] == 0.5
        assert "wva_desired_replicas" in client.get("/metrics").text
        state = snapshot_file.parse(WvaState, client.get("/state").content, where="/state")
        assert state == rig.loop.state


def test_gpus_that_the_fleet_file_names_limit_what_is_decided(tmp_path: Path) -> None:
    """As ``fleet up`` has it: the platform says what there is."""
    with serving(FakePlatform(spec("a", max_replicas=4, saturation_threshold=0.4))) as platform:
        platform.load, platform.gpus = FULL, {"toy": 2}
        platform.scale("a", 2)
        rig = Rig(platform, tmp_path)
        rig.passes(2)
        assert platform.scalings == []
        assert rig.loop.last is not None
        assert rig.loop.last.decisions[0].reason is Reason.NO_GPU
        platform.gpus = {"toy": 3}
        rig.passes(2)
        assert platform.scalings == [("a", 3)]
        rig.loop.stop()


def test_a_pass_that_outlasts_its_interval_is_said_once_a_minute(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An engine that never answers holds up every pass; the scheduler's own words are not shown."""
    with serving(FakePlatform(spec())) as platform:
        rig = Rig(platform, tmp_path)
        go = threading.Event()
        collect = rig.loop._collector.collect

        def slow(now_s: float) -> Any:
            go.wait(60.0)
            return collect(now_s)

        rig.loop._collector.collect = slow  # type: ignore[method-assign]
        logging.getLogger("apscheduler").setLevel(logging.ERROR)
        rig.loop.start(0.1)
        until(lambda: "a pass takes longer than the interval of 0.1 s" in caplog.text, "late")
        time.sleep(0.5)
        go.set()
        rig.loop.stop()
    assert caplog.text.count("a pass takes longer") == 1
    assert "maximum number of running instances" not in caplog.text
