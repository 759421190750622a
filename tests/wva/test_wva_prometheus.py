"""The loop on a real Prometheus: what it loses is old, never an empty queue."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from fleet.sources.prometheus import PrometheusSource
from fleet.types import FleetSnapshot, Replica, Variant
from tests.fleet.fake_engines import Engine, serve
from tests.fleet.real_prometheus import prometheus
from tests.waiting import until
from tests.wva.wva_builders import spec
from wva.build import build_queue, build_traffic
from wva.collect import Collector

pytestmark = [pytest.mark.integration, pytest.mark.needs_prometheus]


class Fixed:
    """A platform with one variant of one engine."""

    name, can_scale = "fixed", False

    def __init__(self, url: str) -> None:
        replica = Replica(name="r", url=url, variant="a", since_s=1.0)
        self._variants = (Variant(spec=spec(), requested=1, replicas=(replica,)),)

    def variants(self) -> tuple[Variant, ...]:
        return self._variants

    def scale(self, variant: str, replicas: int) -> None:
        raise AssertionError((variant, replicas))


def test_a_router_that_is_not_scraped_any_more_keeps_its_queue_which_grows_old(
    prometheus_binary: str, tmp_path: Path, free_port: int
) -> None:
    alive = True

    def page() -> str | None:
        line = 'llm_d_epp_flow_control_queue_size{target_model_name="toy",model_name="toy"} 4\n'
        return line if alive else None

    with ExitStack() as stack:
        engine, router = stack.enter_context(serve(Engine(100.0).page)), stack.enter_context(serve(page))
        jobs = {"engines": [engine], "router": [router]}
        source = PrometheusSource(stack.enter_context(prometheus(prometheus_binary, tmp_path, free_port, jobs)))
        collector = Collector(Fixed(engine), source, build_queue(None, source), build_traffic(None, source))

        def seen() -> FleetSnapshot:
            snapshot, problems = collector.collect(time.time())
            assert problems == ()
            return snapshot

        until(lambda: seen().router_queue == {"toy": 4.0} and seen().variants[0].replicas[0].sample, "all is seen")
        assert (seen().router_age_of("toy") or 0.0) < 5.0
        alive = False
        until(lambda: source.router_queue().ages_s == {}, "Prometheus has lost the router")
        first = seen()
        time.sleep(1.0)
        then = seen()
        alive = True
        until(lambda: source.router_queue().ages_s, "Prometheus has it again")
        back = seen()
    assert first.router_queue == then.router_queue == {"toy": 4.0}
    assert (then.router_age_s or 0.0) >= (first.router_age_s or 0.0) + 1.0
    assert (then.variants[0].replicas[0].age_s or 0.0) < 5.0, "the engine is fresh all the time"
    assert (back.router_age_of("toy") or 0.0) < (then.router_age_of("toy") or 0.0)


def test_without_any_router_nothing_is_old(prometheus_binary: str, tmp_path: Path, free_port: int) -> None:
    with (
        serve(Engine(100.0).page) as engine,
        prometheus(prometheus_binary, tmp_path, free_port, {"engines": [engine]}) as url,
    ):
        source = PrometheusSource(url)
        collector = Collector(Fixed(engine), source, build_queue(None, source))
        until(lambda: collector.collect(time.time())[0].variants[0].replicas[0].sample, "the engine is seen")
        snapshot, _ = collector.collect(time.time())
    assert (snapshot.router_queue, snapshot.router_age_s, snapshot.router_age_of("toy")) == ({}, None, None)
