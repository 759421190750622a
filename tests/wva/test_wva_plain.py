"""Decisions in plain words: one sentence a reason, for both analyzers, and whatever was not recorded is left out."""

from __future__ import annotations

import doctest
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.types import Reason
from wva import explain, plain

SLO: dict[str, float | None] = {
    "demand_rps": 12.0, "forecast_p90_rps": 14.1, "lead_s": 8.3, "capacity_rps": 4.1, "needed": 3.4, "reference": 1.0,
    "expected_misses": 0.003, "expected_misses_as_is": 0.081, "in_flight": 6.0, "ready": 3, "fresh": 3, "pending": 0,
    "min_replicas": 1, "max_replicas": 8, "retention_s": 600.0, "scale_up_above": 0.8, "scale_down_below": 0.3,
}  # fmt: skip
SATURATION: dict[str, float | None] = {
    "kv_utilisation": 0.78, "waiting_per_replica": 3.25, "model_saturation": 0.85, "ready": 3, "fresh": 3, "pending": 0,
    "min_replicas": 1, "max_replicas": 8, "scale_up_above": 0.8, "scale_down_below": 0.3, "retention_s": None,
}  # fmt: skip


def row(reason: str, change: tuple[int, int], base: dict[str, float | None], **inputs: float | None) -> dict[str, Any]:
    before, after = change
    return {
        "at_s": 0.0, "variant": "v", "model": "m", "accelerator": "a", "namespace": "n", "reason": reason,
        "direction": "hold" if after == before else "up" if after > before else "down", "current": before,
        "desired": after, "saturation": 0.82 if base is SATURATION else None, "detail": "its own words",
        "signals": {"requested": before, **base, **inputs},
    }  # fmt: skip


LOAD = "12 requests/s now, up to 14.1 expected within 8 s; one replica carries 4.1"


@pytest.mark.parametrize(
    ("decision", "said"),
    [
        pytest.param(row("demand", (3, 4), SLO),
                     f"Added 1 replica (3 → 4): {LOAD}; 8.1 % of requests would miss a latency target without it, "
                     "0.3 % with it.", id="demand"),
        pytest.param(row("demand", (3, 5), SLO, expected_misses_as_is=0.003),
                     f"Added 2 replicas (3 → 5): {LOAD}.", id="demand-that-changes-no-misses"),
        pytest.param(row("forecast", (3, 4), SLO, expected_misses_as_is=None),
                     "Added 1 replica (3 → 4): up to 14.1 requests/s expected within 8 s, 12 now; one replica carries "
                     "4.1.", id="forecast"),
        pytest.param(row("idle", (5, 4), SLO), f"Removed 1 replica (5 → 4): fewer are enough for {LOAD}.",
                     id="idle-by-targets"),
        pytest.param(row("idle", (5, 4), SATURATION, model_saturation=0.12) | {"saturation": 0.14},
                     "Removed 1 replica (5 → 4): its engines have little to do (saturation 0.12, limit 0.30); the "
                     "others can take over.", id="idle-by-saturation"),
        pytest.param(row("saturated", (3, 4), SATURATION),
                     "Added 1 replica (3 → 4): its engines are too busy (saturation 0.85, limit 0.80): KV cache 78 % "
                     "full, 3.2 requests waiting per replica.", id="saturated"),
        pytest.param(row("saturated", (3, 4), SATURATION, model_saturation=0.5) | {"saturation": 0.6},
                     "Added 1 replica (3 → 4): its engines run short of room (saturation 0.60): KV cache 78 % full, "
                     "3.2 requests waiting per replica.", id="saturated-by-upstreams-rules"),
        pytest.param(row("steady", (3, 3), SLO), f"Stays at 3 replicas: enough for {LOAD}.", id="steady-by-targets"),
        pytest.param(row("steady", (1, 1), SATURATION, model_saturation=0.5) | {"saturation": 0.5},
                     "Stays at 1 replica: its engines are neither too busy nor idle (saturation 0.50, between 0.30 "
                     "and 0.80).", id="steady-by-saturation"),
        pytest.param(row("steady", (0, 0), SATURATION), "Stays without replicas: none is needed.", id="none-needed"),
        pytest.param(row("stabilising", (5, 5), SLO),
                     f"Stays at 5 replicas: fewer would do, and it waits until that has lasted long enough: {LOAD}.",
                     id="a-decrease-waits"),
        pytest.param(row("stabilising", (3, 3), SATURATION),
                     "Stays at 3 replicas: more are wanted, and it waits until that has lasted long enough: KV cache "
                     "78 % full, 3.2 requests waiting per replica.", id="an-increase-waits"),
        pytest.param(row("pending", (4, 4), SLO, pending=1),
                     f"Stays at 4 replicas: waits for 1 replica that still starts: {LOAD}.", id="pending"),
        pytest.param(row("pending", (4, 4), SATURATION, kv_utilisation=None, waiting_per_replica=None),
                     "Stays at 4 replicas: waits for replicas of its model that still start.", id="pending-elsewhere"),
        pytest.param(row("at_max", (8, 8), SATURATION),
                     "Stays at 8 replicas: that is its maximum, and more are wanted: KV cache 78 % full, 3.2 requests "
                     "waiting per replica; raise the maximum or send less.", id="at-max"),
        pytest.param(row("at_min", (1, 1), SLO),
                     f"Stays at 1 replica: that is its minimum, and it has little to do: {LOAD}.", id="at-min"),
        pytest.param(row("below_min", (0, 1), SLO), "Added 1 replica (0 → 1): its minimum is 1.", id="below-min"),
        pytest.param(row("above_max", (9, 8), SATURATION), "Removed 1 replica (9 → 8): its maximum is 8.",
                     id="above-max"),
        pytest.param(row("stale_metrics", (3, 3), SLO, age_s=95.0, traffic_age_s=400.0),
                     "Stays at 3 replicas: figures that it needs are missing or too old (the oldest 7 min old); it "
                     "removes nothing before fresh ones come.", id="stale"),
        pytest.param(row("no_signal", (3, 3), SATURATION, fresh=0),
                     "Stays at 3 replicas: none of 3 replicas that should serve reports; it waits for their figures.",
                     id="none-reports"),
        pytest.param(row("no_signal", (3, 3), SATURATION, fresh=1),
                     "Stays at 3 replicas: 2 of 3 replicas do not report; it removes nothing before they do.",
                     id="some-do-not-report"),
        pytest.param(row("no_signal", (3, 3), SATURATION, stuck=1),
                     "Stays at 3 replicas: 1 of 3 replicas computes no token for the requests it has; it removes "
                     "nothing while that lasts, look at the engine.", id="hung"),
        pytest.param(row("no_signal", (3, 3), SLO, needed=None),
                     "Stays at 3 replicas: it has not watched the traffic for long enough yet.", id="too-early"),
        pytest.param(row("no_signal", (3, 3), SLO),
                     "Stays at 3 replicas: what its engines and GPUs report is missing or contradicts itself; it "
                     "removes nothing on doubt.", id="doubt"),
        pytest.param(row("stale_metrics", (2, 2), SLO, age_s=0.4, router_age_s=1.0, stale=0, missing=0),
                     "Stays at 2 replicas: its own figures are fresh, but an engine of another variant of its model is "
                     "silent; it removes nothing while that lasts.", id="another variant's engine is silent"),
        pytest.param(row("no_signal", (2, 2), SLO, stale=0, missing=0, stuck=0),
                     "Stays at 2 replicas: an engine of another variant of its model is silent or hangs, or its GPUs "
                     "contradict it; it removes nothing on doubt.", id="another variant's engine hangs"),
        pytest.param(row("other_variant", (3, 3), SATURATION),
                     "Stays at 3 replicas: another variant of the same model takes the change at a lower cost.",
                     id="other-variant"),
        pytest.param(row("no_headroom", (3, 3), SLO),
                     f"Stays at 3 replicas: fewer would do, but the others could not take over its load yet: {LOAD}.",
                     id="no-headroom"),
        pytest.param(row("wake", (0, 1), SLO),
                     "Added 1 replica (0 → 1): requests wait, and no replica of the model runs.", id="wake"),
        pytest.param(row("unused", (2, 0), SLO),
                     "Removed 2 replicas (2 → 0): no request came for 10 min or longer.", id="to-zero"),
        pytest.param(row("unused", (0, 0), SLO), "Stays without replicas: no request waits.", id="at-zero"),
        pytest.param(row("no_gpu", (3, 3), SLO),
                     f"Stays at 3 replicas: more are wanted, but GPUs, quota or its share allow no more: {LOAD}.",
                     id="no-gpu"),
        pytest.param(row("flapping", (4, 4), SLO),
                     "Stays at 4 replicas: it went up and down too often of late and waits longer before it removes "
                     f"any: {LOAD}.", id="flapping"),
        pytest.param(row("paused", (4, 4), SATURATION),
                     "Stays at 4 replicas: an operator holds it there (paused, or a dry run).", id="paused"),
        pytest.param(row("a_new_reason", (4, 4), SLO), "Stays at 4 replicas: its own words.", id="not-known"),
        pytest.param(row("steady", (3, 3), SLO, overdue=2),
                     f"Stays at 3 replicas: enough for {LOAD}. 2 replicas did not start in time.", id="late-starts"),
    ],
)  # fmt: skip
def test_a_decision_is_told_so(decision: dict[str, Any], said: str) -> None:
    assert plain.sentence(decision) == said


def test_every_reason_has_words_of_its_own() -> None:
    assert {str(reason) for reason in plain._WHY} == {str(reason) for reason in Reason}


_NAMES = st.sampled_from([*SLO, *SATURATION, "age_s", "overdue"])
_NUMBERS = st.one_of(st.none(), st.floats(), st.floats(0, 1e6), st.integers(0, 50), st.just("text"))


@given(
    st.sampled_from(sorted(Reason)), st.integers(0, 20), st.integers(0, 20), st.one_of(st.none(), st.floats()),
    st.one_of(st.none(), st.floats(), st.dictionaries(_NAMES, _NUMBERS)),
)  # fmt: skip
def test_whatever_is_missing_it_is_one_sentence(
    reason: str, current: int, desired: int, saturation: float | None, signals: object
) -> None:
    said = plain.sentence(
        {"reason": reason, "current": current, "desired": desired, "saturation": saturation, "signals": signals}
    )
    assert said.endswith(".")
    assert [word for word in ("nan", "inf", "None", "::", ": .", "e+", " ;") if word in said] == []


def test_explain_says_it_first() -> None:
    lines = list(explain.in_words(row("forecast", (3, 4), SLO)))
    assert lines[1] == f"  in short   {plain.sentence(row('forecast', (3, 4), SLO))}"
    assert "  why        its own words" in lines


def test_examples_in_docstrings_hold() -> None:
    assert doctest.testmod(plain).failed == 0
