"""``fleet wva``: the offline decision, explain, and the one clear line for each thing that can be wrong."""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from fleet.cli import main
from fleet.history import History
from fleet.types import FleetSnapshot, Reason
from tests.wva.wva_builders import decided, several, snapshot
from wva import snapshot_file
from wva.settings import WvaSettings
from wva.types import Policy, VariantState, WvaState

EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "examples" / "snapshot.json"


def fleet(*argv: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> tuple[int, str, str]:
    """Run ``fleet wva ...`` as its console script does; exit code, output, errors."""
    monkeypatch.setattr(sys, "argv", ["fleet", "wva", *argv])
    try:
        main()
    except SystemExit as stop:
        code = int(stop.code or 0)
    else:
        code = 0
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("COLUMNS", "200")  # a narrow terminal breaks cells into lines
    return lambda *argv: fleet(*map(str, argv), capsys=capsys, monkeypatch=monkeypatch)


def test_the_example_snapshot_decides_up_and_down(run: Any) -> None:
    code, out, _ = run("decide", EXAMPLE, "--json")
    found = {each["variant"]: each for each in json.loads(out)["decisions"]}
    assert code == 0
    assert (found["llama-8b-h100"]["desired"], found["llama-8b-h100"]["reason"]) == (3, "saturated")
    assert found["llama-8b-a100"]["reason"] == "other_variant"
    assert (found["qwen-32b-h100x2"]["desired"], found["qwen-32b-h100x2"]["reason"]) == (1, "idle")


def test_the_table_names_every_variant_with_its_reason(run: Any) -> None:
    code, out, _ = run("decide", EXAMPLE)
    assert code == 0
    for word in ("llama-8b-h100", "saturated", "llama-8b-a100", "other_variant", "qwen-32b-h100x2", "idle", "2 -> 3"):
        assert word in out


def test_the_state_of_one_pass_is_taken_by_the_next(run: Any, tmp_path: Path) -> None:
    """With a state there is a past: the window of the way down has only begun."""
    _, out, _ = run("decide", EXAMPLE, "--json")
    state = tmp_path / "state.json"
    state.write_text(json.dumps(json.loads(out)["state"]))
    _, out, _ = run("decide", EXAMPLE, "--state", state, "--json")
    found = {each["variant"]: each["reason"] for each in json.loads(out)["decisions"]}
    assert found["qwen-32b-h100x2"] == "stabilising"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param("", "is no FleetSnapshot: Input data was truncated", id="empty"),
        pytest.param("hello", "is no FleetSnapshot: JSON is malformed", id="no JSON"),
        pytest.param("[]", "Expected `object`, got `array`", id="a list"),
        pytest.param('{"at_s": 1}', "missing required field `variants`", id="a key is missing"),
        pytest.param('{"at_s": 1, "variants": [{"spec": {"name": "a", "modell": "m"}}]}',
                     "unknown key $.variants[0].spec.modell", id="a key is misspelt"),
        pytest.param('{"at_s": 1, "variants": [{"requested": "2", "spec": {"name": "a", "model": "m", '
                     '"accelerator": "x"}}]}',
                     "Expected `int`, got `str` - at `$.variants[0].requested`", id="a value has another type"),
    ],
)  # fmt: skip
def test_a_garbage_snapshot_gives_one_line_naming_the_key(run: Any, tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "snapshot.json"
    path.write_text(text)
    code, _, errors = run("decide", path)
    assert code == 2
    assert says in errors
    assert str(path) in errors
    assert len(errors.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        pytest.param(["run"], "give either a platform or a list of engines", id="nothing to watch"),
        pytest.param(["run", "--platform", "localhost:8060"], "'localhost:8060' is no URL",
                     id="a platform without scheme"),
        pytest.param(["run", "--engines", "gpu1:8000"], "'gpu1:8000' is no engine URL", id="an engine without scheme"),
        pytest.param(["run", "--platform", "http://x", "--source", "prometheus"], "'' is no URL",
                     id="no Prometheus URL"),
        pytest.param(["run", "--platform", "http://x", "--source", "prometheus", "--prometheus-url", "nowhere"],
                     "'nowhere' is no URL", id="a malformed Prometheus URL"),
        pytest.param(["run", "--platform", "http://x", "--interval-s", "0"], "WVA_INTERVAL_S: 0.0", id="no interval"),
        pytest.param(["run", "--platform", "http://x", "--interval-s", "45"], "60 s is under two intervals of 45 s",
                     id="a window under two intervals"),
        pytest.param(["run", "--platform", "http://x", "--history-url", "sqlite:////proc/no/h.db"], "cannot be made",
                     id="a history that cannot be written"),
        pytest.param(["decide", "/no/such/file"], "/no/such/file: cannot be read", id="no such snapshot"),
        pytest.param(["explain", "nobody"], "there is no history yet", id="nothing recorded"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_on_one_line(run: Any, argv: list[str], says: str) -> None:
    code, _, errors = run(*argv, *(["--port", "0"] if argv[0] == "run" else []))
    assert code == 2
    assert says in errors
    assert len(errors.strip().splitlines()) == 1


def test_an_unreachable_prometheus_ends_the_start_with_one_line(run: Any, free_port: int) -> None:
    url = f"http://127.0.0.1:{free_port}"
    code, _, errors = run(
        "run", "--platform", "http://x", "--source", "prometheus", "--prometheus-url", url, "--port", "0"
    )
    assert code == 2
    assert f"Prometheus {url}: cannot be reached" in errors
    assert "--wait" in errors
    assert len(errors.strip().splitlines()) == 1


def test_a_taken_port_is_said_on_one_line(run: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, _, errors = run("run", "--platform", "http://x", "--port", port)
    assert code == 2
    assert f"port {port} cannot be used" in errors


def test_an_unknown_setting_in_the_environment_is_refused(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WVA_INTERVALL_S", "5")
    code, _, errors = run("decide", EXAMPLE)
    assert code == 2
    assert "Did you mean WVA_INTERVAL_S?" in errors


def test_explain_says_the_newest_decision_with_its_inputs(run: Any, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'h.sqlite3'}"
    older = decided(snapshot(several(2, 0.7)))["a"]
    newer = decided(snapshot(several(2, 0.1), at_s=older.at_s + 60), now_s=older.at_s + 60)["a"]
    History(url).add([older, newer])
    code, out, _ = run("explain", "a", "--history-url", url)
    assert code == 0
    for words in ("down: 2 ready, 1 desired", "idle", newer.detail, "KV-cache utilisation, mean over replicas: 0.1"):
        assert words in out
    code, out, _ = run("explain", "a", "--history-url", url, "--json")
    assert json.loads(out)["desired"] == 1
    code, _, errors = run("explain", "b", "--history-url", url)
    assert "Known variants: a" in errors


def test_each_policy_setting_is_read_by_the_policy() -> None:
    settings = WvaSettings(queue_full=7.0, stale_after_s=99.0)
    assert settings.policy().queue_full == 7.0
    assert settings.policy().stale_after_s == 99.0
    assert WvaSettings().policy() == Policy(), "the two sets of defaults are the same"


def test_snapshots_and_states_survive_their_files(tmp_path: Path) -> None:
    fleet_now = snapshot(several(2, 0.3), router_queue={"toy": 3.0}, router_age_s=1.0)
    state = WvaState(variants={"default/a": VariantState(requested=2, requested_at_s=5.0)})
    for record, cls in ((fleet_now, FleetSnapshot), (state, WvaState)):
        snapshot_file.write(tmp_path / "deep" / "record.json", record)
        assert snapshot_file.read(cls, tmp_path / "deep" / "record.json") == record


def test_every_setting_and_every_reason_is_documented() -> None:
    text = (EXAMPLE.parents[1] / "wva.md").read_text(encoding="utf-8")
    assert [name for name in WvaSettings.model_fields if f"`WVA_{name.upper()}`" not in text] == []
    assert [str(reason) for reason in Reason if f"`{reason}`" not in text] == []
