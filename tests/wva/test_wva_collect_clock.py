"""How old request counts are when the clock that told them is not ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from fleet.errors import SourceError
from fleet.sources import EngineReading
from fleet.types import ModelTraffic, Replica, Variant
from wva.collect import Collector

NOW = 1_000_000.0


class Parts:
    """A platform without variants, a source without engines, and counts that are read as set."""

    name, can_scale = "parts", False

    def __init__(self) -> None:
        self.counts: Mapping[str, ModelTraffic] | None = {}

    def variants(self) -> tuple[Variant, ...]:
        return ()

    def scale(self, variant: str, replicas: int) -> None:
        raise AssertionError((variant, replicas))

    def read(self, replicas: Sequence[Replica], *, now_s: float) -> Mapping[str, EngineReading]:
        return {}

    def traffic(self) -> Mapping[str, ModelTraffic]:
        if self.counts is None:
            raise SourceError("does not answer")
        return self.counts


@pytest.mark.parametrize("ahead_s", [-7200.0, 0.0, 7200.0])
def test_an_offset_that_lasts_is_no_age(ahead_s: float) -> None:
    parts = Parts()
    collector = Collector(parts, parts, traffic=parts.traffic)
    parts.counts = {"asked": ModelTraffic(at_s=NOW + ahead_s - 7.5, asked_s=NOW + ahead_s),
                    "read": ModelTraffic(at_s=NOW - 3.0)}  # fmt: skip
    first, _ = collector.collect(NOW)
    assert [first.traffic_age_of(model, NOW) for model in ("asked", "read", "none")] == [7.5, 3.0, None]
    assert first.traffic_age_of("asked", NOW + 5.0) == 12.5, "a snapshot grows old as well"
    parts.counts = None
    late, problems = collector.collect(NOW + 90.0)
    assert len(problems) == 1
    assert late.traffic_age_of("asked", NOW + 90.0) == 97.5, "what is not read any more grows old"
    collector.forget(500.0)
    jumped, _ = collector.collect(NOW + 590.0)
    assert jumped.traffic_age_of("asked", NOW + 590.0) == 97.5, "when our clock jumps, its offset does"
