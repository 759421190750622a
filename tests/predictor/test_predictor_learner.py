"""The learning loop on a real history: cold, first fit, refusal, failure, restart."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from fleet.history import History, RequestOutcome, RequestRecord
from predictor import artifact
from predictor.features import NAMES
from predictor.fit import FitOutcome, fit_once
from predictor.fitting import FitError, FittingProcess, Worker
from predictor.learner import Learner
from predictor.samples import dataset
from predictor.settings import PredictorSettings
from tests.waiting import until


class Home:
    """A history and a model path, and learners on them."""

    def __init__(self, folder: Path) -> None:
        self.url, self.model_path = f"sqlite:///{folder / 'history.sqlite3'}", folder / "model.json"
        self.history, self.number = History(self.url), 0

    def learner(self, worker: Worker | None = None) -> Learner:
        settings = PredictorSettings(refit_rows=10, min_samples=30, evaluate_s=1e9)
        learner = Learner(settings, history_url=self.url, model_path=self.model_path, worker=worker or Here())
        learner._evaluated_s = time.monotonic()
        return learner

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
    made.history.close()


class Here:
    """Fits in this process."""

    def run(self, work, *arguments, **named):
        return work(*arguments, **named)

    def stop(self) -> None:
        """Nothing to stop."""


class Broken(Here):
    """Fits that never come back."""

    def run(self, work, *arguments, **named):
        raise FitError("its process died", where="fit")


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
    assert "its process died" in learner.status()["last_error"]
    assert [message.split(":")[0] for message in home.messages()] == ["first fit", "fit failed, the old model stays"]


def test_recovers_after_a_failed_fit(home: Home, world) -> None:
    learner = home.learner(Broken())
    home.write(world(60))
    assert learner.step() is None
    learner._worker = Here()
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


def test_drift_of_one_endpoint_is_told(home: Home, world) -> None:
    learner, samples = home.learner(), world(700)
    home.write(samples[:500])
    learner.step()
    slowed = [replace(s, ttft_s=2.5 * (s.ttft_s or 1), tpot_s=2.5 * (s.tpot_s or 1)) for s in samples[500:]
              if s.endpoint == "http://a:1"]  # fmt: skip
    others = [s for s in samples[500:] if s.endpoint != "http://a:1"]
    home.write([s for pair in zip(slowed, others, strict=False) for s in pair])
    learner.step()
    assert learner.status()["drifts"] == 1
    assert learner.status()["changed"][0][0] == "http://a:1"
    assert learner.model is not None
    assert learner.model.tpot.scales["http://a:1", "h100"] > 1.8 * learner.model.tpot.scales["http://b:1", "h100"]
    assert "http://a:1 became faster or slower" in home.messages()[-1]


def test_rolled_back_fits_are_kept_and_not_served_until_released(home: Home, world) -> None:
    learner, samples = home.learner(), world(120)
    for rows in (samples[:60], samples[60:80]):
        home.write(rows)
        learner.step()
    newest, versions = learner.version, learner.versions.kept()
    assert [one.version for one in versions][-1] == newest
    assert learner.roll_back() == versions[0].version == learner.status()["pinned"]
    home.write(samples[80:100])
    assert learner.step() is not None
    assert learner.version == versions[0].version
    assert artifact.version_of(artifact.to_dict(artifact.read(home.model_path))) == versions[0].version
    learner.release()
    home.write(samples[100:])
    learner.step()
    assert learner.version not in {one.version for one in versions}


def test_samples_over_http_survive_a_restart(home: Home, world) -> None:
    first = home.learner()
    first.add(world(40), {})
    first.step()
    assert home.history.count("training") == 40
    second = home.learner()
    second.step()
    assert second.data_status()["kept"] == 40
    first.step()
    assert first.data_status()["kept"] == 40, "its own rows are not read twice"


def test_a_fit_that_takes_too_long_is_killed_and_the_next_one_works() -> None:
    worker = FittingProcess(limit_s=0.5)
    with pytest.raises(FitError, match="no answer"):
        worker.run(time.sleep, 60)
    worker._limit_s = 60.0
    assert worker.run(abs, -3) == 3
    worker.stop()


def test_a_killed_fitting_process_is_replaced() -> None:
    worker = FittingProcess()
    pid = worker.run(os.getpid)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(FitError, match="died"):
        worker.run(os.getpid)
    assert worker.run(os.getpid) not in (pid, os.getpid())
    worker.stop()


def test_a_fit_that_raises_is_told_with_its_type() -> None:
    worker = FittingProcess()
    with pytest.raises(FitError, match="ZeroDivisionError"):
        worker.run(divmod, 1, 0)
    worker.stop()


def test_stopping_ends_a_fit_in_progress(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "data")
    worker = FittingProcess()
    assert worker.run(abs, -1) == 1
    failed: list[FitError] = []

    def ask() -> None:
        try:
            worker.run((tmp_path / "data").read_bytes)
        except FitError as error:
            failed.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    # nobody can open it for writing before the fit reads, and its end never comes
    writing = until(lambda: os.open(tmp_path / "data", os.O_WRONLY | os.O_NONBLOCK), "the fit is at work")
    worker.stop()
    thread.join(60)
    os.close(writing)
    assert len(failed) == 1
