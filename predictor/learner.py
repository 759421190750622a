"""The learning loop of the service: rows in, fits in a process of their own, the newest good model out."""

from __future__ import annotations

import logging
import multiprocessing
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError, Executor, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

from fleet.errors import FleetError, HistoryError
from fleet.history import Event
from fleet.shell import die_with_parent
from predictor import artifact
from predictor.fit import FitOutcome, FitResult, fit_once
from predictor.model import TARGETS, LatencyModel
from predictor.pool import Pool
from predictor.samples import Rejection, Sample, dataset
from predictor.settings import PredictorSettings
from predictor.train import Follower

log = logging.getLogger(__name__)

_STANDSTILL_S = 90.0
"""A turn takes well under a second; the longest wait inside one is for a locked history (30 s)."""


@dataclass(slots=True)
class Totals:
    """What the loop did since it started."""

    fits: int = 0
    failures: int = 0
    """Fits that raised."""
    refusals: int = 0
    """Fits that predicted the newest rows much worse than the served model."""
    last_error: str = ""
    last_detail: str = ""


class Learner:
    """Owns the pool, the served model and the loop's thread. Reading :attr:`model` never waits for a fit."""

    def __init__(
        self,
        settings: PredictorSettings,
        *,
        history_url: str,
        model_path: Path,
        start_executor: Callable[[], Executor] | None = None,
    ) -> None:
        """A learner that does nothing yet; ``start_executor`` makes where fits run (default: a spawned process)."""
        self.settings, self.model_path = settings, model_path
        self.pool, self.totals = Pool(settings.max_rows), Totals()
        self.history_error = ""
        self._model: LatencyModel | None = None
        self._follower = Follower(history_url, limit=settings.max_rows)
        self._events: list[Event] = []
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._fitted_at = 0
        self._turned_at = time.monotonic()
        self._start_executor = start_executor or _fitting_process
        self._executor: Executor | None = None
        self._thread = threading.Thread(target=self._run, name="learner", daemon=True)

    @property
    def model(self) -> LatencyModel | None:
        """The model that is served; ``None`` while cold."""
        return self._model

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
        if self._thread.is_alive():
            self._thread.join(timeout=1.5)  # a fit in progress takes well under a second
        if self._executor is not None:
            self._executor.shutdown(cancel_futures=True)

    def add(self, samples: Sequence[Sample], rejected: Mapping[Rejection, int]) -> None:
        """Samples from another way in (HTTP), and how many of their fellows were refused."""
        with self._lock:
            self.pool.rejected.update(rejected)
            for sample in samples:
                self.pool.add(sample)

    def progress(self) -> str:
        """How far from the first model: "12 of 30 ttft samples, 11 of 30 tpot samples"."""
        with self._lock:
            kept = self.pool.samples()
        need = self.settings.min_samples
        ttft, tpot = sum(s.ttft_s is not None for s in kept), sum(s.tpot_s is not None for s in kept)
        return f"{ttft} of {need} ttft samples, {tpot} of {need} tpot samples"

    def step(self) -> FitResult | None:
        """One turn: read new rows, fit when enough came, write events. ``None`` when there was no fit."""
        self._read()
        result = self._learn()
        if self._events:
            self._write_events()
        return result

    # ---- inside

    def _learn(self) -> FitResult | None:
        with self._lock:
            accepted, samples = self.pool.accepted, self.pool.samples()
        if len(samples) < self.settings.min_samples or accepted - self._fitted_at < self.settings.refit_rows:
            return None
        self._fitted_at = accepted
        result = self._fit(samples)
        if result is not None:
            self._take(result)
        return result

    def _run(self) -> None:
        while not self._stop.is_set():
            started = time.monotonic()
            self.step()
            self._turned_at = time.monotonic()
            self._stop.wait(max(0.1, self.settings.refit_s - (time.monotonic() - started)))
        self._follower.close()

    def restore(self) -> None:
        """Serve the artifact of an earlier run, if there is a good one."""
        try:
            self._model = artifact.read(self.model_path)
            log.info("model of %d samples loaded from %s", self._model.ttft.samples, self.model_path)
        except FileNotFoundError:
            log.info("no model yet: cold until %d samples", self.settings.min_samples)
        except artifact.ArtifactError as error:
            log.warning("%s", error)
            self._note("warning", str(error))

    def _read(self) -> None:
        try:
            records = self._follower.poll()
        except HistoryError as error:
            if str(error) != self.history_error:
                log.warning("%s", error)
            self.history_error = str(error)
            return
        self.history_error = ""
        with self._lock:
            self.pool.add_records(records)

    def _fit(self, samples: Sequence[Sample]) -> FitResult | None:
        executor = self._executor = self._executor or self._start_executor()
        try:
            return executor.submit(fit_once, dataset(samples), now_s=time.time(),
                                   min_samples=self.settings.min_samples, served=self._model).result()  # fmt: skip
        except CancelledError:
            return None  # stopping
        except BrokenProcessPool as error:
            self._executor = None  # the next fit starts a new process
            self._failed(error)
        except (ArithmeticError, RuntimeError, ValueError, OSError) as error:
            if not self._stop.is_set():
                self._failed(error)
        return None

    def _failed(self, error: BaseException) -> None:
        self.totals.failures += 1
        first, self.totals.last_error = not self.totals.last_error, f"{type(error).__name__}: {error}"
        log.error("fit failed, the old model stays: %s", self.totals.last_error)
        if first:
            self._note("warning", f"fit failed, the old model stays: {self.totals.last_error}")

    def _take(self, result: FitResult) -> None:
        before, self.totals.last_detail = self.totals.last_detail, result.detail
        if result.outcome is FitOutcome.REFUSED:
            self.totals.refusals += 1
            if not before.startswith("refused"):
                log.warning("%s", result.detail)
                self._note("warning", result.detail)
        if result.model is None:
            return
        first, self._model = self.totals.fits == 0, result.model
        self.totals.fits += 1
        self.totals.last_error = ""
        if first:
            log.info("first fit: %s", result.detail)
            self._note("info", f"first fit: {result.detail}")
        try:
            artifact.write(result.model, self.model_path)
        except FleetError as error:
            log.warning("%s", error)
            self.totals.last_error = str(error)

    def _note(self, severity: str, message: str) -> None:
        self._events.append(
            Event(at_s=time.time(), kind="model", subject="predictor", message=message, severity=severity)
        )

    def _write_events(self) -> None:
        try:
            self._follower.note(self._events)
            self._events.clear()
        except HistoryError as error:
            log.warning("%d events wait: %s", len(self._events), error)

    def status(self) -> dict[str, Any]:
        """Figures for ``/status``: the pool, the fits, the errors (served and held out, told apart)."""
        model = self._model
        with self._lock:
            error, rejected = self.pool.served_error(), dict(self.pool.rejected)
        for name in TARGETS:
            error[f"held_out_{name}_mape"] = getattr(model, name).score.mape if model else None
        return {
            "cold": model is None,
            "samples": model.ttft.samples if model else 0,
            "min_samples": self.settings.min_samples,
            "fitted_at_s": model.fitted_at_s if model else None,
            "error": error,
            "rejected": {reason.value: count for reason, count in rejected.items()},
            "fits": self.totals.fits,
            "fit_failures": self.totals.failures,
            "fit_refusals": self.totals.refusals,
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
            "strata": strata,
            "endpoints": Counter(sample.endpoint for sample in kept),
        }


def _fitting_process() -> ProcessPoolExecutor:
    """One spawned process, so that a fit takes no time from predictions, nor its death the service."""
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(max_workers=1, mp_context=context, initializer=_in_fitting_process)


def _in_fitting_process() -> None:
    die_with_parent()
    threadpool_limits(1)  # small matrices: threads of the linear algebra only fight over the cores
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the service ends its process
