"""``fleet predictor train`` and ``evaluate`` on a real history."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from fleet.errors import FleetError
from fleet.history import History, RequestOutcome, RequestRecord
from predictor import artifact
from predictor.cli import predictor
from predictor.features import NAMES


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'h.sqlite3'}"


def _write(url: str, samples) -> None:
    History(url).add(
        RequestRecord(
            at_s=float(number), request_id=str(number), model="m", outcome=RequestOutcome.OK, status=200,
            endpoint=sample.endpoint, variant=sample.variant, streaming=True, ttft_s=sample.ttft_s,
            tpot_s=sample.tpot_s, features=dict(zip(NAMES, sample.features, strict=True)),
        )
        for number, sample in enumerate(samples)
    )  # fmt: skip


def _run(*arguments: str) -> Result:
    return CliRunner().invoke(predictor, arguments)


def test_train_writes_a_model_and_its_held_out_error(url: str, tmp_path: Path, world) -> None:
    _write(url, world(300))
    out = tmp_path / "m.json"
    result = _run("train", "--history-url", url, "--out", str(out), "--json")
    report = json.loads(result.output)
    assert report["samples"] == {"ttft": 300, "tpot": 300}
    assert 0 < report["held_out_error"]["ttft"]["mape"] < 0.3
    assert artifact.read(out).ttft.samples == 300
    assert "held-out error (MAPE): ttft" in _run("train", "--history-url", url, "--out", str(out)).output


def test_evaluate_prints_the_curve(url: str, world) -> None:
    _write(url, world(400))
    report = json.loads(_run("evaluate", "--history-url", url, "--json").output)
    assert {point["n"] for point in report["curve"]} == {20, 50, 100}
    best = next(p["score"] for p in report["curve"] if (p["n"], p["target"], p["regime"]) == (100, "ttft", "all"))
    assert best["n"] == 160
    assert 0 < best["mape"] < 0.3
    table = _run("evaluate", "--history-url", url).output
    assert "400 samples: error on the newest 40 %" in table
    assert "queued" in table


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        pytest.param(("train", "--out", "m.json"), "0 of 30 ttft samples", id="too-few-to-train"),
        pytest.param(("evaluate",), "0 samples are too few to evaluate (limit: >= 67)", id="too-few-to-evaluate"),
    ],
)
def test_too_few_samples_is_one_line(url: str, arguments: tuple[str, ...], says: str) -> None:
    History(url).close()
    result = _run(*arguments, "--history-url", url)
    assert isinstance(result.exception, FleetError)
    assert says in str(result.exception)


def test_a_history_that_cannot_be_opened_is_one_line() -> None:
    result = _run("evaluate", "--history-url", "sqlite:////proc/nowhere/h.sqlite3")
    assert isinstance(result.exception, FleetError)
    assert "\n" not in str(result.exception)


@pytest.mark.parametrize("command", ["serve", "train", "evaluate"])
def test_help_has_examples(command: str) -> None:
    assert f"fleet predictor {command}" in _run(command, "--help").output
