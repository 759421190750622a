"""SIGTERM and SIGINT end a service with code 0 and no traceback, from its first moments on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path

import click
import pytest

from fleet.cli import GROUP, SERVICES

BY_SIGNAL_OR_WHEN_DONE = {"sim replay"}
"""Ends by itself, too, and tells on a signal what it has sent."""
FAILS_ON_ANY_EXCEPTION = """
import time
print("importing", flush=True)
try:
    time.sleep(60)
except BaseException as error:
    raise ImportError("did not load") from error
"""
"""Extension modules may turn whatever is raised while they load into a failed import."""
SIGNALS = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)


def commands(command: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    """Every command below and at ``command``, by its words."""
    if isinstance(command, click.Group):
        for word, inner in command.commands.items():
            yield from commands(inner, f"{name} {word}")
    else:
        yield name, command


def test_every_command_that_can_die_with_its_parent_is_a_service() -> None:
    every = {name: one for point in entry_points(group=GROUP) for name, one in commands(point.load(), point.name)}
    mortal = {name for name, one in every.items() if any("--die-with-parent" in param.opts for param in one.params)}
    assert mortal - BY_SIGNAL_OR_WHEN_DONE == SERVICES - {"up", "router indexer"}
    assert set(every) >= SERVICES


@pytest.mark.integration
@SIGNALS
@pytest.mark.parametrize("command", sorted(SERVICES))
def test_a_signal_amid_an_import_ends_a_service(command: str, number: signal.Signals, tmp_path: Path) -> None:
    (tmp_path / "pydantic.py").write_text(FAILS_ON_ANY_EXCEPTION)
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    with subprocess.Popen([sys.executable, "-m", "fleet.cli", *command.split()], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, env=os.environ | {"PYTHONPATH": path}) as starting:  # fmt: skip
        try:
            assert starting.stdout is not None
            assert starting.stdout.readline() == b"importing\n"
            starting.send_signal(number)
            _, said = starting.communicate(timeout=60)
        finally:
            starting.kill()
    assert (starting.returncode, said) == (0, b"")


@pytest.mark.integration
@SIGNALS
def test_a_signal_ends_the_index_that_serves(number: signal.Signals) -> None:
    command = [sys.executable, "-m", "fleet.cli", "router", "indexer", "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as serving:
        try:
            assert serving.stderr is not None
            assert "listening on http://127.0.0.1:" in serving.stderr.readline()
            serving.send_signal(number)
            _, said = serving.communicate(timeout=60)
        finally:
            serving.kill()
    assert (serving.returncode, said) == (0, "")
