"""The evaluator: pending, firing, resolved, compressed, and what it leaves out."""

from __future__ import annotations

import pytest

from alerts.algebra import Over, Select
from alerts.evaluate import Evaluator, State
from alerts.model import Alert, Recording, Rulebook, Severity, recorded
from alerts.rules import rulebook
from alerts.store import SeriesStore, labels_of
from fleet import signals as s
from fleet.signals import Layer
from fleet.slo import DEFAULT_SLOS

POD = labels_of({"pod": "a", "model_name": "m"})
DOUBLE = recorded("model:double", "requests", "Twice the queue.", "pod")
YEAR = recorded("model:year", "requests", "A year of queue.", "pod")


def alert(name: str, expr, for_s: float = 60.0, **more) -> Alert:
    return Alert(name=name, expr=expr, for_s=for_s, severity=Severity.WARNING, layer=Layer.APPLICATION, summary="",
                 group="l2_application", description="", means="", check=(), do=(), **more)  # fmt: skip


RULES = Rulebook(
    recordings=(
        Recording(signal=DOUBLE, expr=Select(s.WAITING) * 2, labels={"slo": "default"}),
        Recording(signal=YEAR, expr=Over("sum_over_time", s.WAITING, 31_536_000)),
    ),
    alerts=(
        alert("Long", Select(DOUBLE) > 10),
        alert("AtOnce", Select(DOUBLE) > 10, 0.0),
        alert("Yearly", Select(YEAR) > 10),
        alert("Cluster", Select(s.GPU_TEMP) > 10, local=False),
    ),
)


def run(evaluator: Evaluator, values: dict[float, float | None]) -> list[tuple[float, str, bool]]:
    """Feed the queue's value at each time (None: gone); the changes with their times."""
    store, seen = SeriesStore(), []
    for at_s, value in values.items():
        if value is None:
            store.end(s.WAITING.name, POD, at_s)
        else:
            store.append(s.WAITING.name, POD, at_s, value)
        seen += [(at_s, change.instance.alert.name, change.firing) for change in evaluator.step(store, at_s)]
    return seen


@pytest.mark.parametrize(
    ("values", "changes"),
    [
        pytest.param({0: 9, 30: 9, 59: 9}, [(0, "AtOnce", True)], id="a long one waits its time"),
        pytest.param({0: 9, 30: 9, 60: 9, 90: 1}, [(0, "AtOnce", True), (60, "Long", True), (90, "Long", False),
                     (90, "AtOnce", False)], id="fires and resolves"),
        pytest.param({0: 9, 30: 1, 60: 9, 90: 9}, [(0, "AtOnce", True), (30, "AtOnce", False), (60, "AtOnce", True)],
                     id="a gap starts the wait anew"),
        pytest.param({0: 9, 60: 9, 90: None}, [(0, "AtOnce", True), (60, "Long", True), (90, "Long", False),
                     (90, "AtOnce", False)], id="a series that goes away resolves"),
        pytest.param({0: 1, 60: 1}, [], id="silent"),
    ],
)  # fmt: skip
def test_life_of_an_alert(values: dict[float, float | None], changes: list[tuple[float, str, bool]]) -> None:
    assert run(Evaluator(RULES), values) == changes


def test_compression_shortens_the_wait() -> None:
    assert (6, "Long", True) in run(Evaluator(RULES, scale=0.1), {0: 9, 3: 9, 6: 9})


def test_labels_of_rule_and_recording_come_along() -> None:
    evaluator = Evaluator(RULES)
    run(evaluator, {0: 9})
    (pending,) = (i for i in evaluator.active() if i.alert.name == "Long")
    assert pending.state is State.PENDING
    assert dict(pending.labels) == {
        "pod": "a",
        "model_name": "m",
        "slo": "default",
        "severity": "warning",
        "layer": "2",
    }
    assert pending.value == 18.0


def test_rules_that_cannot_be_evaluated_are_named() -> None:
    evaluator = Evaluator(RULES)
    assert set(evaluator.left_out) == {"Yearly", "Cluster"}
    assert "longer than the 21600 s" in evaluator.left_out["Yearly"]
    assert evaluator.evaluated == 2


def test_a_rule_that_fails_keeps_its_state_and_says_why() -> None:
    clash = alert("Clash", Select(s.WAITING).matching("/", Select(s.WAITING), "model_name") > 0, 0.0)
    evaluator, store = Evaluator(Rulebook(recordings=(), alerts=(clash,))), SeriesStore()
    store.append(s.WAITING.name, POD, 1.0, 5.0)
    assert len(evaluator.step(store, 1.0)) == 1
    store.append(s.WAITING.name, labels_of({"pod": "b", "model_name": "m"}), 2.0, 5.0)
    assert evaluator.step(store, 2.0) == []
    assert "several series match" in evaluator.errors["Clash"]
    assert [i.alert.name for i in evaluator.active()] == ["Clash"]


def test_on_one_machine_the_paging_windows_are_evaluated_and_the_slow_ones_named() -> None:
    real = Evaluator(rulebook(DEFAULT_SLOS))
    assert "TTFTErrorBudgetBurn,long_window=6h,short_window=30m" not in real.left_out
    assert "TTFTErrorBudgetBurn,long_window=1d,short_window=2h" in real.left_out
    assert "GPUHung" in real.left_out
    wanted = real.wanted()
    assert wanted["vllm:num_requests_running"] >= 900 + 300  # the offset of ModelVanished and the look-back
    quick = Evaluator(rulebook(DEFAULT_SLOS), scale=0.1)
    assert "TTFTErrorBudgetBurn,long_window=1d,short_window=2h" not in quick.left_out
