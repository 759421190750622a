"""A fake cluster for each test, and controllers that are stopped after it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fake_kubernetes import FakeKubernetes, serving
from tests.wva.kube.kube_cluster import Controller


@pytest.fixture
def fake() -> Iterator[FakeKubernetes]:
    with serving() as running:
        yield running


@pytest.fixture
def controller(fake: FakeKubernetes, tmp_path: Path) -> Iterator[Callable[..., Controller]]:
    made: list[Controller] = []

    def make(**options: Any) -> Controller:
        made.append(Controller(fake, tmp_path, **options))
        return made[-1]

    yield make
    fake.faults.clear()
    for each in made:
        each.stop()
