"""Work spread over processes gives what it gives in one."""

from __future__ import annotations

import pytest

from benchmarks.disaggregation.layouts import Layout
from benchmarks.parallel import spread
from fleet.errors import ConfigError


def gpus(layout: Layout) -> int:
    if not layout.decode:
        raise ConfigError("no engine answers")
    return layout.gpus


@pytest.mark.parametrize("jobs", [1, 2])
def test_results_come_in_the_tasks_order(jobs: int) -> None:
    told: list[tuple[float, Layout]] = []
    tasks = [Layout(decode=count) for count in (3, 1, 2)]
    assert spread(gpus, tasks, jobs=jobs, tell=lambda share, task: told.append((share, task))) == [6, 2, 4]
    assert told == [(0.0, tasks[0]), (1 / 3, tasks[1]), (2 / 3, tasks[2])]


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_error_comes_through_as_it_is(jobs: int) -> None:
    with pytest.raises(ConfigError, match="no engine answers"):
        spread(gpus, [Layout(decode=0)], jobs=jobs, tell=lambda _share, _task: None)
