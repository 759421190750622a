"""The learning loop on a real history: cold, first fit, refusal, failure, restart."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path

import pytest

from fleet.history import History, RequestOutcome, RequestRecord
from predictor import artifact
from predictor.features import NAMES
from predictor.fit import FitOutcome, fit_once
from predictor.learner import Learner
from predictor.samples import dataset
from predictor.settings import PredictorSettings


class Home:
    """A history and a model path, and learners on them."""

    def __init__(self, folder: Path) -> None:
        self.url, self.model_path = f"sqlite:///{folder / 'history.sqlite3'}", folder / "model.json"
        self.history, self.executor, self.number = History(self.url), ThreadPoolExecutor(1), 0

    def learner(self, executor: Executor | None = None) -> Learner:
        return Learner(
            PredictorSettings(refit_rows=10, min_samples=30), history_url=self.url, model_path=self.model_path,
            start_executor=lambda: executor or self.executor,
        )  # fmt: skip

    def write(self, samples) -> None:
        self.history.add([self._record(sample) for sample in samples])

    def _record(self, sample) -> RequestRecord:
        self.number += 1
        return RequestRecord(
            at_s=float(self.number), request_id=str(self.number), model="m", outcome=RequestOutcome.OK, status=200,
            endpoint=sample.endpoint, variant=sample.variant, streaming=True, ttft_s=sample.ttft_s,
            tpot_s=sample.tpot_s, predicted_ttft_s=sample.predicted_ttft_s,
            features=dict(zip(NAMES, sample.features, strict=True)),
        )  # fmt: skip

    def messages(self) -> list[str]:
        return [row["message"] for row in self.history.read("events", kind="model")]


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    made = Home(tmp_path)
    yield made
    made.executor.shutdown()
    made.history.close()


class Broken(Executor):
    """Fits that never come back."""

    def submit(self, fn, /, *args, **kwargs) -> Future:
        future: Future = Future()
        future.set_exception(BrokenProcessPool("the process died"))
        return future


def test_cold_until_there_are_enough(home: Home, world) -> None:
    learner = home.learner()
    home.write(world(29))
    assert learner.step() is None
    assert learner.model is None
    assert learner.progress() == "29 of 30 ttft samples, 29 of 30 tpot samples"
    assert learner.status()["cold"] is True
    assert home.messages() == []


def test_first_fit_is_served_written_and_told(home: Home, world) -> None:
    learner = home.learner()
    home.write(world(60))
    result = learner.step()
    assert result is not None
    assert result.outcome is FitOutcome.FITTED
    status = learner.status()
    assert (status["samples"], status["cold"], status["fits"]) == (60, False, 1)
    assert 0 < status["error"]["held_out_ttft_mape"] < 0.6
    assert artifact.read(home.model_path).ttft.samples == 60
    assert [message.split(":")[0] for message in home.messages()] == ["first fit"]


def test_refits_only_when_enough_new_rows_came(home: Home, world) -> None:
    learner, samples = home.learner(), world(80)
    home.write(samples[:60])
    learner.step()
    home.write(samples[60:69])
    assert learner.step() is None
    home.write(samples[69:])
    result = learner.step()
    assert result is not None
    assert learner.status()["samples"] == 80


def test_served_error_comes_from_what_the_router_served(home: Home, world) -> None:
    learner = home.learner()
    home.write(replace(sample, predicted_ttft_s=1.25 * (sample.ttft_s or 1)) for sample in world(40))
    learner.step()
    error = learner.status()["error"]
    assert error["n"] == 40
    assert error["ttft_mape"] == pytest.approx(0.25)
    assert error["tpot_mape"] is None


def test_a_dying_fit_leaves_the_old_model_and_is_told_once(home: Home, world, caplog) -> None:
    first = home.learner()
    home.write(world(60))
    first.step()
    learner = home.learner(Broken())
    learner.restore()
    served = learner.model
    with caplog.at_level(logging.ERROR):
        for seed in (1, 2):
            home.write(world(20, seed=seed))
            assert learner.step() is None
    assert learner.model is served is not None
    assert learner.status()["fit_failures"] == 2
    assert "BrokenProcessPool" in learner.status()["last_error"]
    assert [message.split(":")[0] for message in home.messages()] == ["first fit", "fit failed, the old model stays"]


def test_recovers_after_a_failed_fit(home: Home, world) -> None:
    starts: list[Executor] = [Broken(), home.executor]
    learner = home.learner()
    learner._start_executor = lambda: starts.pop(0)
    home.write(world(60))
    assert learner.step() is None
    home.write(world(20, seed=1))
    result = learner.step()
    assert result is not None
    assert learner.status()["last_error"] == ""


def test_a_refused_fit_is_told_once_and_the_old_model_stays(home: Home, world) -> None:
    samples = world(370)
    served = fit_once(dataset(samples), now_s=0.0).model
    assert served is not None
    artifact.write(served, home.model_path)
    learner = home.learner()
    learner.restore()
    before = learner.model
    home.write(replace(sample, ttft_s=20 * (sample.ttft_s or 1)) for sample in samples[:230])  # a spell of lies
    for rows in (samples[230:300], samples[300:]):
        home.write(rows)
        result = learner.step()
        assert result is not None
        assert result.outcome is FitOutcome.REFUSED
    assert learner.model is before is not None
    assert learner.status()["fit_refusals"] == 2
    assert [message.split(":")[0] for message in home.messages()] == ["refused"]


def test_a_restarted_learner_serves_the_old_artifact_at_once(home: Home, world) -> None:
    home.write(world(60))
    home.learner().step()
    learner = home.learner()
    learner.restore()
    assert learner.model is not None
    assert learner.status()["samples"] == 60


def test_a_refused_artifact_means_cold_and_an_event(home: Home) -> None:
    home.model_path.write_text('{"schema": 1}')
    learner = home.learner()
    learner.restore()
    learner.step()
    assert learner.model is None
    assert "model refused" in home.messages()[0]


def test_an_absent_history_is_told_once_and_found_later(home: Home, tmp_path: Path, world, caplog) -> None:
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where a folder should be")
    home.url = f"sqlite:///{blocked / 'history.sqlite3'}"
    learner = home.learner()
    with caplog.at_level(logging.WARNING):
        learner.step()
        learner.step()
    assert len(caplog.records) == 1
    assert learner.status()["history_error"]
    blocked.unlink()
    home.history = History(home.url)
    home.write(world(40))
    assert learner.step() is not None
    assert learner.status()["history_error"] == ""
