"""The measurements that the bench is judged by, and those that the roofline is fitted to."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Final

from benchmarks.simulator.experiments import Experiment
from fleet.errors import ConfigError
from simulator.calibrate import Run
from simulator.published import MAX_NUM_SEQS, WORKLOADS
from simulator.runs import measurement, read_runs

ACTUALS: Final = Path("calibration") / "blis_trainval_actuals.csv"
"""In the folder of traces."""
BUSIEST: Final = 0.8
"""Of the batch's limit: where more requests were in flight, bursts queued, and the mean is no steady state."""


def experiments(traces: Path | None) -> tuple[list[Experiment], str]:
    """The measured experiments, and where they were read: the folder of traces, else the committed copy.

    Raises: ConfigError for a file that is no such table.
    """
    found = traces / ACTUALS if traces else None
    if found is not None and found.is_file():
        return _read(found), f"{ACTUALS.as_posix()} of the traces"
    with resources.as_file(resources.files("benchmarks.simulator") / "data" / "measured_runs.csv") as path:
        return _read(path), "the committed copy of calibration/blis_trainval_actuals.csv"


def fitted_runs() -> list[Run]:
    """Runs of three models that the roofline's efficiencies are fitted to; those near saturation are left out."""
    return [run for run in _packaged("fitted_runs.csv") if run.in_flight <= BUSIEST * MAX_NUM_SEQS]


def held_out_runs() -> list[Run]:
    """Further runs of a model that nothing is fitted to."""
    return _packaged("held_out_runs.csv")


def _packaged(name: str) -> list[Run]:
    with resources.as_file(resources.files("benchmarks.simulator") / "data" / name) as path:
        return read_runs(path)


def _read(path: Path) -> list[Experiment]:
    rows: dict[str, list[dict[str, str]]] = defaultdict(list)
    for row in _table(path.read_text(encoding="utf-8").splitlines()):
        rows[row.get("exp_id", "")].append(row)
    try:
        return [_experiment(name, found) for name, found in rows.items()]
    except (KeyError, ValueError, StopIteration) as error:
        raise ConfigError(f"is no table of measured experiments: {error}", where=str(path)) from None


def _table(lines: Iterable[str]) -> Iterable[dict[str, str]]:
    return csv.DictReader(line for line in lines if not line.startswith("#"))


def _experiment(name: str, rows: list[dict[str, str]]) -> Experiment:
    by_stage = {int(row["stage_index"]): row for row in rows}
    whole, workload = by_stage[-1], WORKLOADS[rows[0]["workload"]]
    stages = [measurement(by_stage[index], index) for index in range(len(workload.stages_rps))]
    return Experiment(name=name, workload_name=whole["workload"], workload=workload, whole=measurement(whole, -1),
                      stages=stages, measured_itl_s=float(whole["itl_mean"]) / 1000)  # fmt: skip
