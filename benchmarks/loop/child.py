"""One fleet in a process of its own: ``python -m benchmarks.loop.child VARIANTS ENDPOINTS SEED`` prints JSON.

The very parts of ``fleet wva run`` over recorded answers: the requests library gets them from an adapter in place of a
socket, so parsing, collecting, deciding, publishing, saving the state and writing history are all in the time.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import parse_qs, urlsplit

import requests
from requests.adapters import BaseAdapter

from benchmarks.loop.answers import EPOCH_S, PASS_S, LargeFleet, Size
from fleet.history import History
from fleet.settings import load
from fleet.sources.prometheus import PrometheusSource
from fleet.types import Variant
from wva.build import build_queue, build_traffic, tune_memory
from wva.collect import Collector
from wva.decide import decide
from wva.loop import ControlLoop
from wva.settings import WvaSettings

PASSES = 6
"""The first two are not counted: code and state warm up."""
URL = "http://prometheus:9090"


class Recorded(BaseAdapter):
    """Answers from memory; counts the queries of a pass."""

    def __init__(self) -> None:
        super().__init__()
        self.answers: Mapping[str, bytes] = {}
        self.asked = 0

    def send(self, request: requests.PreparedRequest, *_: Any, **__: Any) -> requests.Response:
        """The answer to the query in the URL."""
        self.asked += 1
        query = parse_qs(urlsplit(request.url or "").query)["query"][0]
        response = requests.Response()
        response.status_code, response.url, response.request = 200, request.url or "", request
        response._content = self.answers[query]
        return response

    def close(self) -> None:
        """Nothing is open."""


class Fixed:
    """A platform that says what the fleet says."""

    name, can_scale = "recorded", False

    def __init__(self, variants: tuple[Variant, ...]) -> None:
        self._variants = variants

    def variants(self) -> tuple[Variant, ...]:
        """See :class:`fleet.platform.Platform`."""
        return self._variants

    def scale(self, variant: str, replicas: int) -> None:
        """An HPA would."""


def measure(size: Size, seed: int, analyzer: str) -> dict[str, float]:
    """Medians over the counted passes."""
    fleet, recorded = LargeFleet(size, seed), Recorded()
    source = PrometheusSource(URL, window_s=30.0, adapter=recorded)
    settings = load(WvaSettings, analyzer=analyzer)
    platform = Fixed(fleet.variants())
    collector = Collector(platform, source, build_queue(None, source), build_traffic(None, source))
    clock = [EPOCH_S]
    with tempfile.TemporaryDirectory() as folder:
        loop = ControlLoop(collector, platform, History(f"sqlite:///{folder}/history.sqlite3"),
                           policy=settings.policy(), state_file=Path(folder) / "state.json", dry_run=True,
                           clock=lambda: clock[0])  # fmt: skip
        tune_memory()
        passes, walls, decides, asked = [], [], [], []
        for index in range(PASSES):
            recorded.answers, recorded.asked = fleet.answers(index), 0
            clock[0] = EPOCH_S + index * PASS_S
            before, started, begun = loop.state, time.process_time(), time.perf_counter()
            done = loop.run_once()
            passes.append(time.process_time() - started)
            walls.append(time.perf_counter() - begun)
            asked.append(recorded.asked)
            if done is None or done.problems:
                raise RuntimeError(f"the pass failed: {done and done.problems}")
            specs = tuple(entry.spec for entry in done.snapshot.variants)
            started = time.thread_time()  # the history's writer still writes the pass, in a thread of its own
            decide(done.snapshot, specs, before, clock[0], settings.policy())
            decides.append(time.thread_time() - started)
            held = sum(len(entry.replicas) for entry in done.snapshot.variants)
        loop.stop()
    return {"pass_s": median(passes[2:]), "wall_s": median(walls[2:]), "decide_s": median(decides[2:]),
            "queries": max(asked), "endpoints": held,
            "answers_mb": sum(map(len, recorded.answers.values())) / 1e6,
            "rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}  # fmt: skip


if __name__ == "__main__":
    variants, endpoints, given_seed = map(int, sys.argv[1:4])
    print(json.dumps(measure(Size(variants=variants, endpoints=endpoints), given_seed, sys.argv[4])))  # noqa: T201
