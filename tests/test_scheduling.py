"""The suite's own order: groups of files that one worker runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.scheduling import HELM, LOOP, SHARED, group, place

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("file", [*LOOP, *HELM, *SHARED])
def test_a_file_that_is_named_is_there(file: str):
    assert (ROOT / file).is_file()


def test_whole_loops_come_first_then_what_is_shared():
    files = ("tests/fleet/test_up.py::test_x[a::b]", f"{SHARED[0]}::test_y", f"{LOOP[0]}::test_z")
    assert sorted(files, key=place) == list(reversed(files))


def test_a_group_is_one_unit_of_work_and_any_other_test_is_its_own():
    one, two = (f"{file}::test_x" for file in LOOP)
    assert group(one) == group(two)
    assert group(f"{SHARED[0]}::test_x") == group(f"{SHARED[0]}::test_y[a::b]")
    assert group("tests/fleet/test_up.py::test_x") == "tests/fleet/test_up.py::test_x"
