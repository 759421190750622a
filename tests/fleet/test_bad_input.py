"""What a person mistypes is answered with one line that says what to do, whichever command it is."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from fleet.cli import fleet
from fleet.discovery import static_fleet
from fleet.errors import ConfigError, FleetError
from fleet.history import Event, History
from fleet.up.plan import TRAFFIC, TRAFFIC_REPORT, Ports, UpOptions
from fleet.up.run import Up

NO_TEXT = b"\x93\xff\x00garbage\x80\n\xfe\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "bin.dat").write_bytes(NO_TEXT)
    (tmp_path / "text").write_text("garbage{{{\n")
    (tmp_path / "empty").write_text("")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("command", "says"), [
    ("up --config bin.dat", "bin.dat: is no text (UTF-8). Give a YAML file."),
    ("sim serve --config bin.dat", "bin.dat: is no text (UTF-8). Give a YAML file."),
    ("up --host 999.1.1.1", "fleet up 999.1.1.1: is no address of this machine: "),
    ("up --duration nan", "'nan' is no finite number."),
    ("wva run --engines http://a:1 --port 0 --host 192.0.2.1", "wva 192.0.2.1: is no address of this machine: "),
    ("wva run --port 0 --engines http://a:99999", "'http://a:99999' is no engine URL (limit: http or https, host"),
    ("wva run --port 0 --kube --kubeconfig text", "text: no cluster: is no kubeconfig. Give --kubeconfig FILE"),
    ("wva run --port 0 --kube --kubeconfig bin.dat", "bin.dat: no cluster: is no kubeconfig. Give --kubeconfig FILE"),
    ("wva run --port 0 --kube --kubeconfig empty", "empty: no cluster: "),
    ("wva replay --hours nan", "'nan' is no finite number."),
    ("sim workload --mean-rps nan", "'nan' is no finite number."),
    ("sim workload --trace empty", "line 1 is empty (limit: "),
    ("sim workload --trace text", "Give one of these."),
    ("sim calibrate bin.dat", "cannot be read: is no text. Check the path."),
    ("alerts diagnose --at nan", "'nan' is no time (limit: now, -10m"),
    ("console --port 0 --history-url foo", "is no SQLAlchemy URL. Write sqlite:////path/file"),
    ("console --port 0 --wva foo", "--wva: 'foo' is no address"),
])  # fmt: skip
def test_one_line_says_what_and_what_next(folder: Path, command: str, says: str) -> None:
    with pytest.raises((FleetError, click.UsageError)) as raised:
        fleet(command.split(), standalone_mode=False)
    line = raised.value.format_message() if isinstance(raised.value, click.UsageError) else str(raised.value)
    assert says in line
    assert "\n" not in line


def test_lines_that_are_no_text_are_refused_one_by_one(folder: Path) -> None:
    answer = CliRunner().invoke(fleet, ["predictor", "import", "bin.dat", "--home", str(folder)])
    assert (answer.exit_code, answer.output) == (0, "0 samples imported; refused: 2 no_sample\n")


def test_a_diagnosis_of_now_says_so(folder: Path) -> None:
    answer = CliRunner().invoke(fleet, ["alerts", "diagnose", "--history-url", f"sqlite:///{folder}/h.sqlite3"])
    assert answer.output.splitlines()[0] == "TTFT is suddenly high? all models, 300 s to now"


@pytest.mark.parametrize("url", ["http://a:0", "http://", "ftp://a:1", "http://a:x", "a:8000", "http://[::1"])
def test_what_is_no_engine_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="is no engine URL"):
        static_fleet([url])


def test_figures_of_an_earlier_run_in_the_same_folder_are_not_shown(folder: Path) -> None:
    for left in (TRAFFIC, TRAFFIC_REPORT):
        (folder / left).write_text('{"sent": 58, "ok": 58}')
    url = f"sqlite:///{folder}/h.sqlite3"
    run = Up(UpOptions(home=folder, history_url=url, model="m"), Ports(), History(url), lambda _line: None)
    assert run.collector.traffic() == {}
    assert run.summary()["client"] == {}


@pytest.mark.parametrize("command", [
    "history show events --url sqlite:///{}", "history export events --url sqlite:///{}",
    "history prune --url sqlite:///{}", "wva explain x --history-url sqlite:///{}",
    "wva replay --history-url sqlite:///{}", "predictor evaluate --history-url sqlite:///{}",
    "predictor export --out samples.jsonl --history-url sqlite:///{}",
])  # fmt: skip
def test_looking_at_a_history_that_is_not_there_says_so_and_makes_none(folder: Path, command: str) -> None:
    with pytest.raises(FleetError, match=r"there is no history yet\. Start the fleet with: fleet up"):
        fleet(command.format(folder / "nowhere" / "h.sqlite3").split(), standalone_mode=False)
    assert not (folder / "nowhere").exists()


def test_a_copy_that_can_only_be_read_can_be_looked_at(folder: Path) -> None:
    History(f"sqlite:///{folder}/h.sqlite3").add([Event(at_s=1.0, kind="engine", subject="a-0", message="is down")])
    url = f"sqlite:///file:{folder}/h.sqlite3?mode=ro&uri=true"
    answer = CliRunner().invoke(fleet, ["history", "show", "events", "--url", url])
    assert (answer.exit_code, "is down" in answer.output) == (0, True)
