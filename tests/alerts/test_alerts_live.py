"""A real Prometheus and a real Alertmanager run the shipped rules, thirty times faster, over worlds with a fault in."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.alerts.faults import FAULTS
from benchmarks.alerts.live import name_of, play

NAMES = ("KV cache exhausted", "hung engine", "crash loop", "XID error", "router down")
"""Those that are told within seconds on this scale; `fleet bench alerts-live` plays all of them."""


@pytest.mark.integration
@pytest.mark.needs_prometheus
def test_each_fault_is_told_as_what_it_is_and_health_is_silent(
    prometheus_binary: str, alertmanager_binary: str, tmp_path: Path
) -> None:
    faults = [fault for fault in FAULTS if fault.name in NAMES]
    assert len(faults) == len(NAMES)
    seen, quiet = play(faults, tmp_path / "made by it", seed=1, warm_s=14, fault_s=40)
    assert quiet == []
    for one in seen:
        assert one.after_s is not None, f"{name_of(one.fault)} was not told"
        assert one.pages <= 1, one
        assert one.well == (), one
