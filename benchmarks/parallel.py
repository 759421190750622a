"""The same work on many tasks, in several processes where that is wanted; results never depend on how many."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")


def spread(
    work: Callable[[Task], Result], tasks: Sequence[Task], *, jobs: int, tell: Callable[[float, Task], object]
) -> list[Result]:
    """``work`` of every task, in the tasks' order.

    Args:
        work: a function that a new process can import; tasks and results are pickled.
        jobs: processes; with 1 everything is done in this one.
        tell: called with the share done and the task that is waited for.
    """
    found = []
    if jobs <= 1:
        for index, task in enumerate(tasks):
            tell(index / len(tasks), task)
            found.append(work(task))
        return found
    with ProcessPoolExecutor(min(jobs, len(tasks)), mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = [pool.submit(work, task) for task in tasks]
        try:
            for index, (task, future) in enumerate(zip(tasks, futures, strict=True)):
                tell(index / len(tasks), task)
                found.append(future.result())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return found
