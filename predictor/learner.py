"""The learning loop of the service: rows in, fits in a process of their own, the newest good model out."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fleet.errors import FleetError, HistoryError
from fleet.history import Event, TrainingSample
from predictor import artifact
from predictor.evaluate import evaluation
from predictor.features import NAMES
from predictor.fit import FitOutcome, FitResult, fit_once
from predictor.fitting import FitError, FittingProcess, Worker
from predictor.laws import Pair
from predictor.lengths import Lengths
from predictor.model import TARGETS, LatencyModel, Rung
from predictor.pool import Pool
from predictor.samples import Rejection, Sample, dataset
from predictor.settings import PredictorSettings
from predictor.train import Follower
from predictor.versions import Versions

log = logging.getLogger(__name__)

_STANDSTILL_S: Final = 120.0
"""Longest turn: a locked history (30 s) and a fit that is killed at its limit (60 s)."""
_JUDGE_EVERY: Final = 5
"""Boosted trees are tried in every fifth fit, and in each while they are in use: they take most of its time."""


@dataclass(slots=True)
class Totals:
    """What the loop did since it started."""

    fits: int = 0
    failures: int = 0
    """Fits that raised, died or took too long."""
    refusals: int = 0
    """Fits that predicted rows new to both much worse than the served model."""
    drifts: int = 0
    """Endpoints that became faster or slower."""
    good_at_s: float | None = None
    """When a fit last succeeded, served or not (Unix time)."""
    last_error: str = ""
    last_detail: str = ""


class Learner:
    """Owns the pool, the served model and the loop's thread. Reading :attr:`model` never waits for a fit."""

    def __init__(
        self, settings: PredictorSettings, *, history_url: str, model_path: Path, worker: Worker | None = None,
        prior: Callable[[], LatencyModel | None] = lambda: None,
    ) -> None:  # fmt: skip
        """A learner that does nothing yet.

        Args:
            settings: when to fit, and on how much.
            history_url: SQLAlchemy URL.
            model_path: the served artifact.
            worker: where fits run (default: a spawned process).
            prior: makes the model to serve before the first fit; ``None``: not known (now).
        """
        self.settings, self.model_path = settings, model_path
        self.pool, self.totals, self.lengths = Pool(settings.max_rows), Totals(), Lengths()
        self.versions = Versions(model_path)
        self.version, self.history_error = "", ""
        self.evaluation: Mapping[str, Any] | None = None
        self._model: LatencyModel | None = None
        self._prior, self._own = prior, f"http-{uuid.uuid4().hex[:12]}"
        self._follower = Follower(history_url, limit=settings.max_rows, own=self._own)
        self._unwritten: list[Event | TrainingSample] = []
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._fitted_at = self._tried_at = self._turns = 0
        self._changed: dict[Pair, int] = {}
        self._evaluated_s = float("-inf")
        self._turned_at = time.monotonic()
        self._worker = FittingProcess() if worker is None else worker
        self._thread = threading.Thread(target=self._run, name="learner", daemon=True)

    @property
    def model(self) -> LatencyModel | None:
        """The model that is served; ``None`` while cold."""
        return self._model

    @property
    def rung(self) -> Rung:
        """What predictions rest on now."""
        return Rung.HEURISTIC if self._model is None else self._model.rung

    @property
    def broken(self) -> bool:
        """The loop ended or stands still although nobody stopped it: the process should be restarted."""
        if self._thread.ident is None or self._stop.is_set():
            return False
        still_s = time.monotonic() - self._turned_at
        return not self._thread.is_alive() or still_s > _STANDSTILL_S + self.settings.refit_s

    def start(self) -> None:
        """Load the artifact of an earlier run, then learn in a thread."""
        self.restore()
        self._thread.start()

    def stop(self) -> None:
        """End the loop and its fitting process."""
        self._stop.set()
        self._worker.stop()
        if self._thread.is_alive():
            self._thread.join(timeout=1.5)

    def add(self, samples: Sequence[Sample], rejected: Mapping[Rejection, int]) -> None:
        """Samples from another way in (HTTP), and how many of their fellows were refused; the history gets them too."""
        kept = [kept_row(sample, self._own, time.time()) for sample in samples]
        with self._lock:
            self.pool.rejected.update(rejected)
            self._unwritten += kept
            for sample in samples:
                self.pool.add(sample)

    def forget(self) -> int:
        """Drop all samples that are held, not those in the history; returns how many."""
        with self._lock:
            dropped, old = len(self.pool), self.pool
            self.pool = Pool(self.settings.max_rows)
            self.pool.rejected, self.pool.accepted = old.rejected, old.accepted
        return dropped

    def progress(self) -> str:
        """How far from the first model: "12 of 30 ttft samples, 11 of 30 tpot samples"."""
        with self._lock:
            kept = self.pool.samples()
        need = self.settings.min_samples
        ttft, tpot = sum(s.ttft_s is not None for s in kept), sum(s.tpot_s is not None for s in kept)
        return f"{ttft} of {need} ttft samples, {tpot} of {need} tpot samples"

    def step(self) -> FitResult | None:
        """One turn: read new rows, fit when enough came, write what is to be told. ``None`` when there was no fit."""
        self._read()
        if self._model is None and (prior := self._prior()) is not None:
            self._serve(prior)
        result = self._learn()
        self._write()
        self._evaluate()
        return result

    def restore(self) -> None:
        """Serve the artifact of an earlier run, if there is a good one."""
        try:
            self._serve(artifact.read(self.model_path), write=False)
        except FileNotFoundError:
            log.info("no model yet: cold until %d samples", self.settings.min_samples)
        except artifact.ArtifactError as error:
            log.warning("%s", error)
            self._note("warning", str(error))

    def roll_back(self, version: str = "") -> str:
        """Serve an older version until :meth:`release`; the version.

        Raises: ConfigError if there is none such; ArtifactError if it is refused or cannot be written.
        """
        self._serve(self.versions.roll_back(version), write=False)
        self._note("warning", f"rolled back to model {self.version}; new fits are kept and not served")
        return self.version

    def release(self) -> None:
        """Serve new fits again."""
        self.versions.release()
        self._note("info", "new fits are served again")

    # ---- inside

    def _run(self) -> None:
        while not self._stop.is_set():
            started = time.monotonic()
            self.step()
            self._turned_at = time.monotonic()
            self._stop.wait(max(0.1, self.settings.refit_s - (time.monotonic() - started)))
        self._follower.close()

    def _read(self) -> None:
        """All new rows; of a long history, in several helpings."""
        try:
            while (records := self._follower.poll()) and not self._stop.is_set():
                self._count_lengths(records)
                with self._lock:
                    self.pool.add_records(records)
        except HistoryError as error:
            if str(error) != self.history_error:
                log.warning("%s", error)
            self.history_error = str(error)
        else:
            self.history_error = ""

    def _count_lengths(self, records: Sequence[Mapping[str, Any]]) -> None:
        for record in records:
            tokens = record.get("output_tokens")
            if "model" in record and isinstance(tokens, int):
                self.lengths.add(str(record["model"]), str(record.get("tenant") or ""), tokens,
                                 complete=record.get("outcome") == "ok")  # fmt: skip

    def _learn(self) -> FitResult | None:
        with self._lock:
            accepted, samples = self.pool.accepted, self.pool.samples()
        if len(samples) < self.settings.min_samples or accepted - self._tried_at < self.settings.refit_rows:
            return None
        self._tried_at = accepted
        self._turns += 1
        served = None if self._model is None or self._model.cold else self._model
        boosting = self._turns % _JUDGE_EVERY == 1 or (served is not None and served.rung is Rung.BOOSTED)
        try:
            result: FitResult = self._worker.run(
                fit_once, dataset(samples), now_s=time.time(), min_samples=self.settings.min_samples, served=served,
                fresh=min(accepted - self._fitted_at, len(samples)), boosting=boosting,
            )  # fmt: skip
        except FitError as error:
            if not self._stop.is_set():
                self._failed(error)
            return None
        self._take(result, accepted)
        return result

    def _failed(self, error: FitError) -> None:
        self.totals.failures += 1
        first, self.totals.last_error = not self.totals.last_error, str(error)
        log.error("fit failed, the old model stays: %s", self.totals.last_error)
        if first:
            self._note("warning", f"fit failed, the old model stays: {self.totals.last_error}")

    def _take(self, result: FitResult, accepted: int) -> None:
        before, self.totals.last_detail = self.totals.last_detail, result.detail
        if result.outcome is FitOutcome.REFUSED:
            self.totals.refusals += 1
            if not before.startswith("refused"):
                log.warning("%s", result.detail)
                self._note("warning", result.detail)
        if result.model is None:
            return
        self._fitted_at, self.totals.good_at_s = accepted, result.model.fitted_at_s
        first = self.totals.fits == 0
        self.totals.fits += 1
        self.totals.last_error = ""
        if first:
            log.info("first fit: %s", result.detail)
            self._note("info", f"first fit: {result.detail}")
        self._note_drift(result.changed)
        self._serve(result.model)

    def _note_drift(self, changed: Mapping[Pair, int]) -> None:
        """Tell of endpoints whose scale was reset since the last fit."""
        for pair, rows in changed.items():
            if rows < self._changed.get(pair, rows + 1):
                self.totals.drifts += 1
                self._note("warning", f"{pair[0]} became faster or slower {rows} requests ago; its scale starts anew")
        self._changed = dict(changed)

    def _serve(self, model: LatencyModel, *, write: bool = True) -> None:
        """Put ``model`` in place, unless another one is pinned."""
        version = artifact.version_of(artifact.to_dict(model))
        if write:
            try:
                self.versions.publish(model)
            except FleetError as error:
                log.warning("%s", error)
                self.totals.last_error = str(error)
            if self.versions.pinned:
                return
        self._model, self.version = model, version

    def _evaluate(self) -> None:
        """Measure the method on what is held, now and then, in the fitting process."""
        now_s = time.monotonic()
        if self._model is None or now_s - self._evaluated_s < self.settings.evaluate_s:
            return
        self._evaluated_s = now_s
        with self._lock:
            samples = self.pool.samples()
        try:
            self.evaluation = {"at_s": time.time(), **self._worker.run(evaluation, dataset(samples))}
        except FitError as error:
            if not self._stop.is_set():
                log.warning("evaluation failed: %s", error)

    def _note(self, severity: str, message: str) -> None:
        event = Event(at_s=time.time(), kind="model", subject="predictor", message=message, severity=severity)
        with self._lock:
            self._unwritten.append(event)

    def _write(self) -> None:
        with self._lock:
            rows, self._unwritten = self._unwritten, []
        if not rows:
            return
        try:
            self._follower.note(rows)
        except HistoryError as error:
            with self._lock:
                self._unwritten = (rows + self._unwritten)[-self.settings.max_rows :]
            log.warning("%d events and samples wait: %s", len(rows), error)

    def status(self) -> dict[str, Any]:
        """Figures for ``/status``: the pool, the fits, the errors (served and held out, told apart)."""
        model = self._model
        with self._lock:
            error, rejected = self.pool.served_error(), dict(self.pool.rejected)
        for name in TARGETS:
            error[f"held_out_{name}_mape"] = getattr(model, name).score.mape if model else None
        return {
            "cold": model is None or model.cold,
            "rung": {name: getattr(model, name).rung.value if model else Rung.HEURISTIC.value for name in TARGETS},
            "version": self.version,
            "pinned": self.versions.pinned,
            "samples": model.ttft.samples if model else 0,
            "min_samples": self.settings.min_samples,
            "fitted_at_s": model.fitted_at_s if model else None,
            "good_fit_at_s": self.totals.good_at_s or (model.fitted_at_s if model and not model.cold else None),
            "error": error,
            "rejected": {reason.value: count for reason, count in rejected.items()},
            "fits": self.totals.fits,
            "fit_failures": self.totals.failures,
            "fit_refusals": self.totals.refusals,
            "drifts": self.totals.drifts,
            "changed": [[*pair, rows] for pair, rows in self._changed.items()],
            "last_fit": self.totals.last_detail,
            "last_error": self.totals.last_error,
            "history_error": self.history_error,
        }

    def data_status(self) -> dict[str, Any]:
        """What is kept for the next fit, by regime and by endpoint."""
        with self._lock:
            kept, strata, accepted = self.pool.samples(), self.pool.strata(), self.pool.accepted
            rejected = {reason.value: count for reason, count in self.pool.rejected.items()}
        return {
            "kept": len(kept),
            "limit": self.pool.limit,
            "accepted": accepted,
            "rejected": rejected,
            "ttft_samples": sum(sample.ttft_s is not None for sample in kept),
            "tpot_samples": sum(sample.tpot_s is not None for sample in kept),
            "censored": sum(sample.censored for sample in kept),
            "strata": strata,
            "endpoints": Counter(sample.endpoint for sample in kept),
        }


def kept_row(sample: Sample, source: str, now_s: float) -> TrainingSample:
    """The history's row of a sample that did not come through our router."""
    return TrainingSample(
        at_s=now_s, source=source, ttft_s=sample.ttft_s, tpot_s=sample.tpot_s, endpoint=sample.endpoint,
        variant=sample.variant, censored=sample.censored, output_tokens=sample.output_tokens,
        features=dict(zip(NAMES, sample.features, strict=True)),
    )  # fmt: skip
