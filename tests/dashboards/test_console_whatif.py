"""What if: the record goes through the real decide; the comparison is like with like."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from dashboards import whatif, world
from dashboards.pages.whatif import record_of
from fleet.types import VariantSpec
from wva.types import Policy

STEPS, STEP_S = 120, 30.0
SPEC = VariantSpec(name="a", model="m", accelerator="h100_sxm", cost_per_hour=4.0, min_replicas=1, max_replicas=6)


def record(*, replicas: float = 2.0, crest: float = 1.0) -> whatif.Record:
    """A rise and fall: at the crest the replicas are full and queue."""
    share = np.sin(np.linspace(0, np.pi, STEPS)) * crest
    running = np.minimum(share * 20.0, 16.0) * replicas
    waiting = np.maximum(share * 20.0 - 16.0, 0.0) * replicas
    load = whatif.Load(spec=SPEC, replicas=np.full(STEPS, replicas), running=running, waiting=waiting,
                       kv=np.minimum(running / replicas / 17.0, 1.0), generation_tps=running * 40.0)  # fmt: skip
    kept = np.where(waiting > 0, 0.5, 0.99)
    at_s = 1e9 + STEP_S * np.arange(STEPS)
    return whatif.Record(model="m", at_s=at_s, step_s=STEP_S, requests=running * 6.0, kept=kept, loads=(load,),
                         prompt_tokens=running * 6000.0, output_tokens=running * 600.0)  # fmt: skip


def test_a_lower_threshold_buys_attainment_with_money() -> None:
    calm = whatif.replay(record(), {"a": replace(SPEC, saturation_threshold=0.9)}, Policy())
    early = whatif.replay(record(), {"a": replace(SPEC, saturation_threshold=0.4)}, Policy())
    assert early.cost > calm.cost
    assert (early.attained or 0) >= (calm.attained or 0)
    assert early.worst_wait <= calm.worst_wait


def test_a_price_changes_the_cost_alone() -> None:
    one = whatif.replay(record(), {"a": SPEC}, Policy())
    dear = whatif.replay(record(), {"a": replace(SPEC, cost_per_hour=8.0)}, Policy())
    assert dear.cost == pytest.approx(2 * one.cost)
    assert dear.attained == one.attained
    assert dear.replica_hours == one.replica_hours


def test_bounds_are_kept() -> None:
    found = whatif.replay(record(), {"a": replace(SPEC, min_replicas=2, max_replicas=2)}, Policy())
    assert set(found.replicas["value"]) == {2}
    assert found.changes == 0
    assert found.replica_hours == pytest.approx(2 * STEPS * STEP_S / 3600)


def test_too_few_replicas_queue_and_break_the_promise() -> None:
    enough = whatif.replay(record(), {"a": replace(SPEC, min_replicas=3, max_replicas=3)}, Policy())
    short = whatif.replay(record(), {"a": replace(SPEC, min_replicas=1, max_replicas=1)}, Policy())
    assert short.worst_wait > enough.worst_wait
    assert (short.attained or 0) < (enough.attained or 0)


def test_the_slo_analyzer_replays_too() -> None:
    found = whatif.replay(record(), {"a": SPEC}, Policy(analyzer="slo", slo_ttft_s=1.0))
    assert len(found.replicas) == STEPS
    assert 0 <= (found.attained or 0) <= 1


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        pytest.param({"at_s": np.array([1.0])}, "only 1 steps", id="too short"),
        pytest.param({"loads": ()}, "no variant", id="nothing sampled"),
        pytest.param({"requests": np.zeros(STEPS)}, "no request", id="no traffic"),
    ],
)
def test_what_cannot_be_replayed_says_why(changed: dict, words: str) -> None:
    assert words in whatif.usable(replace(record(), **changed))


def test_a_full_replica_is_what_was_seen_while_requests_waited() -> None:
    found = record()
    assert whatif.physics(found, found.loads[0]).full == pytest.approx(16.0)
    levels, shares = whatif.kept_at(found, {"a": 16.0})
    assert list(shares) == sorted(shares, reverse=True)
    assert levels[-1] > 1.0


def test_what_was_before_the_first_record_is_not_replayed():
    """Of a range of ten steps the controller ran in the last six; the bins before hold nothing."""
    starts = np.arange(0.0, 110.0, 10.0)
    names = (world.RUNNING, world.WAITING, world.KV, world.GENERATION, world.CURRENT)
    rows = [{"signal": name, "variant": "a", "endpoint": "", "bin_s": at_s, "mean": 2.0 if at_s >= 40.0 else np.nan}
            for name in names for at_s in starts]  # fmt: skip
    view = SimpleNamespace(
        starts=starts, width_s=10.0, signals=lambda *_: pd.DataFrame(rows),
        request_bins=lambda: pd.DataFrame(columns=["model", "bin_s"]), latencies=lambda: (pd.DataFrame(), False),
    )  # fmt: skip
    found = record_of(view, "m", {"a": SPEC}, limit_s=0.2)
    assert found.at_s.tolist() == [50.0, 60.0, 70.0, 80.0, 90.0, 100.0]
    assert found.loads[0].replicas.tolist() == [2.0] * 6
