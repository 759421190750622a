"""A model at zero wakes when a request waits at the router: between two passes, one variant, the cheapest."""

from __future__ import annotations

from pathlib import Path

import pytest

from fleet.errors import SourceError
from fleet.history import History
from fleet.platform import HttpPlatform
from fleet.sources import RouterQueue
from fleet.sources.scrape import RouterPage, ScrapeSource
from fleet.types import FleetSnapshot
from tests.fleet.fake_engines import serve
from tests.waiting import until
from tests.wva.fake_platform import FakePlatform, serving
from tests.wva.wva_builders import spec, variant
from wva.collect import Collector
from wva.loop import ControlLoop
from wva.types import Policy
from wva.wake import Waker, asleep

DEAR, CHEAP = spec("dear", min_replicas=0, cost_per_hour=4.0), spec("cheap", min_replicas=0, cost_per_hour=1.0)


def snapshot(**requested: int) -> FleetSnapshot:
    found = [variant([], name=name, requested=count, model=name.partition("_")[0]) for name, count in requested.items()]
    return FleetSnapshot(at_s=1.0, variants=tuple(found))


def test_a_model_sleeps_when_none_of_its_variants_was_asked_for():
    assert asleep(None) == frozenset()
    assert asleep(snapshot(x_a=0, x_b=0, y_a=0, y_b=1)) == {"x"}


class Router:
    """A queue that the test fills."""

    def __init__(self) -> None:
        self.queue: dict[str, float] = {}
        self.asked = 0
        self.broken = False

    def __call__(self) -> RouterQueue:
        self.asked += 1
        if self.broken:
            raise SourceError("down", where="router")
        return RouterQueue(waiting=self.queue)


def test_only_a_waiting_request_hurries_and_once_until_the_model_is_awake():
    router, hurried, now = Router(), [], [snapshot(x_a=0)]
    waker = Waker(router, lambda: now[0], lambda: hurried.append(1))
    waker.look()
    assert hurried == []
    router.queue = {"x": 2.0, "other": 5.0}
    waker.look()
    waker.look()
    assert len(hurried) == 1
    now[0] = snapshot(x_a=1)
    waker.look()
    now[0] = snapshot(x_a=0)
    waker.look()
    assert len(hurried) == 2


def test_nobody_is_asked_while_nothing_sleeps_and_a_router_that_fails_is_borne():
    router, hurried = Router(), []
    now = [snapshot(x_a=1)]
    waker = Waker(router, lambda: now[0], lambda: hurried.append(1))
    waker.look()
    assert router.asked == 0
    now[0], router.broken = snapshot(x_a=0), True
    waker.look()
    assert (router.asked, hurried) == (1, [])


def _page(waiting: int) -> str:
    return f'llm_d_epp_flow_control_queue_size{{model_name="toy",target_model_name="toy"}} {waiting}\n'


@pytest.mark.parametrize("analyzer", ["slo", "saturation"])
def test_from_zero_long_before_the_next_pass_and_the_cheapest_variant_alone(tmp_path: Path, analyzer: str):
    waiting = 0
    with serving(FakePlatform(DEAR, CHEAP)) as platform, serve(lambda: _page(waiting)) as router:
        page = RouterPage(router)
        loop = ControlLoop(Collector(HttpPlatform(platform.url), ScrapeSource(), page.queue, page.traffic),
                           HttpPlatform(platform.url), History(f"sqlite:///{tmp_path}/h.sqlite3"),
                           policy=Policy(analyzer=analyzer), state_file=tmp_path / "s.json")  # fmt: skip
        waker = Waker(RouterPage(router).queue, lambda: loop.last.snapshot if loop.last else None, loop.hurry,
                      poll_s=0.05)  # fmt: skip
        loop.start(interval_s=3600.0)
        waker.start()
        try:
            until(lambda: loop.last is not None, "a pass")
            assert platform.scalings == []
            waiting = 3
            until(lambda: platform.scalings, "a scaling")
            assert platform.scalings == [("cheap", 1)]
        finally:
            waker.stop()
            loop.stop()
