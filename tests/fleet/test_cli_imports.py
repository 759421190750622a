"""What a command loads before it runs: Streamlit belongs to the console's server alone."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points

import pytest

from benchmarks.registry import BENCHES, MODULES
from fleet.cli import GROUP

COMMANDS = sorted({point.name for point in entry_points(group=GROUP)})


def loaded(code: str) -> subprocess.CompletedProcess[str]:
    ends = "; import sys; print(sorted({name.split('.')[0] for name in sys.modules} & {'streamlit', 'playwright'}))"
    return subprocess.run([sys.executable, "-c", code + ends], capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_loads_streamlit_to_show_its_help(command: str):
    points = f"entry_points(group={GROUP!r}, name={command!r})"
    answer = loaded(f"from importlib.metadata import entry_points; [point.load() for point in {points}]")
    assert answer.stderr == ""
    assert answer.stdout.strip() == "[]"


def test_no_bench_loads_streamlit():
    answer = loaded("from benchmarks.registry import BENCHES; list(BENCHES.values())")
    assert answer.stderr == ""
    assert answer.stdout.strip() == "[]"


def test_help_of_bench_says_nothing_on_standard_error():
    answer = subprocess.run([sys.executable, "-m", "fleet.cli", "bench", "--help"], capture_output=True, text=True,
                            timeout=120, check=False)  # fmt: skip
    assert (answer.returncode, answer.stderr) == (0, "")
    assert "fleet bench --list" in answer.stdout


def test_every_bench_is_found_by_its_name():
    assert {bench.name for bench in BENCHES.values()} == set(MODULES)
