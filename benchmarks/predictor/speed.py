"""How long predictions take: in this process for 100 endpoints, and over HTTP for 100 rows."""

from __future__ import annotations

import http.client
import json
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import uvicorn

from fleet.shell import bind
from fleet.types import EngineSample
from predictor import artifact
from predictor.fit import fit_once
from predictor.learner import Learner
from predictor.model import LatencyModel
from predictor.samples import Dataset
from predictor.server import make_app
from predictor.settings import PredictorSettings
from router.predict import Desk
from router.types import EndpointView, InferenceRequest

ENDPOINTS: Final = 100
CALLS: Final = 4000
BULK_CALLS: Final = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """Percentiles."""

    p50_us: float
    """Features and predictions of 100 endpoints; time of one core, so that a busy machine does not count."""
    p99_us: float
    high_p50_us: float
    """The same and the 90 % quantile at each endpoint."""
    high_p99_us: float
    wall_p50_us: float
    """The same by the clock on the wall."""
    wall_p99_us: float
    list_p50_us: float
    """The same as a list of records, with slowness."""
    list_p99_us: float
    bulk_p50_ms: float
    """``/predict/bulk/strict`` with 100 rows over loopback, client included."""
    bulk_p99_ms: float

    def to_json(self) -> dict[str, float]:
        """Rounded."""
        return {name: round(getattr(self, name), 2) for name in self.__slots__}

    def rows(self) -> list[list[object]]:
        """For a table."""
        return [
            ["features and prediction, 100 endpoints, us of one core", round(self.p50_us, 1), round(self.p99_us, 1)],
            [
                "the same with a quantile of each, us of one core",
                round(self.high_p50_us, 1),
                round(self.high_p99_us, 1),
            ],
            ["features and prediction on the wall clock, us", round(self.wall_p50_us, 1), round(self.wall_p99_us, 1)],
            ["the same as records with slowness, us", round(self.list_p50_us, 1), round(self.list_p99_us, 1)],
            ["HTTP bulk of 100 rows, ms", round(self.bulk_p50_ms, 2), round(self.bulk_p99_ms, 2)],
        ]


def measure(data: Dataset) -> Speed:
    """Times with a model fitted on ``data``, boosted if that wins there."""
    model = fit_once(data, now_s=1.0).model
    if model is None:
        raise RuntimeError("no model could be fitted")
    views, request = _views(), InferenceRequest(request_id="r", model="m", input_tokens=900)
    desk = Desk(model, views)
    one = _timed(lambda: desk.look(request, views), CALLS, time.thread_time)
    high = _timed(lambda: desk.look(request, views).quantiles(0.9), CALLS, time.thread_time)
    other = _timed(lambda: desk.predictions(request, views), CALLS, time.thread_time)
    wall = _timed(lambda: desk.look(request, views), CALLS, time.perf_counter)
    bulk = _bulk(model)
    return Speed(
        p50_us=_at(one, 50) * 1e6, p99_us=_at(one, 99) * 1e6, high_p50_us=_at(high, 50) * 1e6,
        high_p99_us=_at(high, 99) * 1e6, wall_p50_us=_at(wall, 50) * 1e6,
        wall_p99_us=_at(wall, 99) * 1e6, list_p50_us=_at(other, 50) * 1e6, list_p99_us=_at(other, 99) * 1e6,
        bulk_p50_ms=_at(bulk, 50) * 1e3, bulk_p99_ms=_at(bulk, 99) * 1e3,
    )  # fmt: skip


def _views() -> list[EndpointView]:
    rng = np.random.default_rng(7)
    return [
        EndpointView(url=f"http://pod-{index}", variant="pods", requests_in_flight=int(rng.integers(0, 60)),
                     prefill_tokens_in_flight=int(rng.integers(0, 6000)),
                     context_tokens_in_flight=int(rng.integers(0, 80_000)), matched_tokens=int(rng.integers(0, 800)),
                     sample=EngineSample(at_s=0.0, waiting=0.0, running=20.0, kv_utilisation=0.3))
        for index in range(ENDPOINTS)
    ]  # fmt: skip


def _timed(call: Callable[[], object], calls: int, clock: Callable[[], float]) -> list[float]:
    """Seconds of each call; the first tenth is warm-up."""
    times = []
    for _ in range(calls):
        start_s = clock()
        call()
        times.append(clock() - start_s)
    return times[calls // 10 :]


def _at(times: list[float], percentile: float) -> float:
    return float(np.percentile(times, percentile))


def _bulk(model: LatencyModel) -> list[float]:
    """Round trips of 100 rows over one connection to the real app."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        artifact.write(model, home / artifact.FILE_NAME)
        learner = Learner(PredictorSettings(), history_url=f"sqlite:///{home / 'h.sqlite3'}",
                          model_path=home / artifact.FILE_NAME)  # fmt: skip
        learner.restore()
        sock = bind("127.0.0.1", 0, what="bench", setting="nothing")
        server = uvicorn.Server(uvicorn.Config(make_app(learner), log_level="error", access_log=False))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]}, daemon=True)
        thread.start()
        try:
            return _round_trips(sock.getsockname()[1])
        finally:
            server.should_exit = True
            thread.join(5.0)


def _round_trips(port: int) -> list[float]:
    row: dict[str, Any] = {"kv_cache_percentage": 0.3, "input_token_length": 900, "num_request_waiting": 0,
                           "num_request_running": 12, "num_tokens_generated": 0, "prefix_cache_score": 0.4,
                           "prefill_tokens_in_flight": 500, "decode_tokens_in_flight": 9000}  # fmt: skip
    body = json.dumps({"requests": [row] * ENDPOINTS})
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10.0)

    def ask() -> None:
        connection.request("POST", "/predict/bulk/strict", body, {"content-type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        if answer.status != 200:
            raise RuntimeError(f"the predictor answered {answer.status}")

    try:
        return _timed(ask, BULK_CALLS, time.perf_counter)
    finally:
        connection.close()
