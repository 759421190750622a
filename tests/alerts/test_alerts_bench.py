"""The bench of the alerts: inhibitions, single faults, health."""

from __future__ import annotations

import pytest

from alerts.alertmanager import muted
from alerts.facts import facts
from alerts.trees import EVIDENCE
from benchmarks.alerts.bench import WARM_S, Run, pages, try_fault
from benchmarks.alerts.faults import FAULTS, SICK, WELL
from benchmarks.alerts.world import World
from benchmarks.registry import BENCHES

MODEL = {"namespace": "prod", "model_name": "m"}
PAGE, TICKET = {"alertname": "A", "severity": "critical"}, {"alertname": "B", "severity": "warning"}


@pytest.mark.parametrize(
    ("target", "source", "quiet"),
    [
        pytest.param(TICKET | MODEL, PAGE | MODEL, True, id="a page silences its model's tickets"),
        pytest.param(TICKET | MODEL, PAGE | MODEL | {"model_name": "n"}, False, id="not those of another model"),
        pytest.param(TICKET | MODEL, PAGE | MODEL | {"namespace": "dev"}, False, id="nor of another namespace"),
        pytest.param(TICKET, PAGE, False, id="two alerts without a model have nothing in common"),
        pytest.param(PAGE | MODEL, PAGE | MODEL, False, id="a page does not silence a page"),
        pytest.param(PAGE | MODEL | {"alertname": "HighTTFT"}, PAGE | MODEL | {"alertname": "EngineStalled"}, True,
                     id="a cause silences its symptom"),
        pytest.param(PAGE | {"alertname": "GPUHung", "pod": "p"}, PAGE | {"alertname": "EngineStalled", "pod": "q"},
                     False, id="another pod's cause does not"),
    ],
)  # fmt: skip
def test_inhibition(target: dict[str, str], source: dict[str, str], quiet: bool) -> None:
    assert muted(target, [source, target]) is quiet


def test_fifteen_faults_with_a_name_and_a_cause_of_their_own() -> None:
    assert len(FAULTS) == len({fault.name for fault in FAULTS}) == len({fault.cause for fault in FAULTS}) == 15
    assert {fault.layer for fault in FAULTS} == {1, 2, 3, 4}


@pytest.mark.parametrize("name", ["hung engine", "XID error", "router down"])
def test_a_fault_pages_once_and_is_understood(name: str) -> None:
    verdict = try_fault(next(fault for fault in FAULTS if fault.name == name), seed=7)
    assert verdict.paged_right and verdict.diagnosed, verdict.row()
    assert pages(verdict.told) == 1


def test_a_healthy_world_is_quiet_and_alive() -> None:
    run = Run(World(seed=7))
    run.advance(WARM_S)
    assert run.told == []
    found = {name: run.ask(expr, run.now_s) for name, expr in facts(WELL).items()}
    assert 0 < (found["ttft_p95_s"] or 0) < 0.2
    assert (found["request_rps"] or 0) > 3
    assert found["replicas_ready"] == 3


def test_an_alert_on_the_other_model_spoils_the_verdict() -> None:
    fault = next(fault for fault in FAULTS if fault.name == "XID error")
    verdict = try_fault(fault, seed=7)
    assert verdict.paged_right
    verdict.told.append(type(verdict.told[0])(at_s=0.0, name="X", severity="warning", labels={"pod": f"{WELL}-0"},
                                              tree=""))  # fmt: skip
    assert not verdict.paged_right


def test_facts_are_evidence_that_trees_know() -> None:
    assert set(facts(SICK)) <= set(EVIDENCE)


def test_the_bench_is_registered_with_its_bars() -> None:
    assert BENCHES["alerts"].bars == ("faults_paged_right", "false_pages_per_hour", "diagnosis_first_right")
