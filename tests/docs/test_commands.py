"""Every command in README and docs is one that the command line takes: names, options, values. They are not run."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Final

import click
import pytest

from fleet.cli import fleet
from tests.deploy.commands import parsed
from tests.deploy.helm import CHART, helm
from tests.fleet.all_settings import ALL_SETTINGS, variables_of

ROOT = Path(__file__).parents[2]
PAGES: Final = [ROOT / "README.md", ROOT / "CONTRIBUTING.md",
                *sorted(page for page in (ROOT / "docs").rglob("*.md") if "adr" not in page.parts)]  # fmt: skip
_BLOCK: Final = re.compile(r"^```(?:sh)?\n(.*?)^```", re.S | re.M)
_INLINE: Final = re.compile(r"`(fleet [^`]+)`")
_START: Final = re.compile(r"^((?:[A-Z][A-Z0-9_]*=\S+ )*)(?:\.venv/bin/)?(fleet .*)$")
_ENDS: Final = ("|", "&&", "&", ">", "#")
SETTINGS: Final = frozenset(variable for cls in ALL_SETTINGS for variable in variables_of(cls))


def lines(page: Path) -> Iterator[str]:
    """Lines of its blocks of commands, those that go on joined."""
    for block in _BLOCK.findall(page.read_text("utf-8")):
        yield from block.replace("\\\n", " ").splitlines()


def commands(page: Path) -> Iterator[tuple[str, str]]:
    """Variables set before ``fleet ...``, and that."""
    for line in lines(page):
        if found := _START.match(re.sub(r" {2,}", "  ", line.strip())):
            yield found[1], found[2].partition("  ")[0]  # what follows in a column of its own says what it does


def words(command: str) -> list[str]:
    """Of ``fleet ...``, without its first word and what a shell makes of the rest."""
    every = shlex.split(command)[1:]
    return every[: next((index for index, word in enumerate(every) if word in _ENDS), len(every))]


def complaint(args: Sequence[str]) -> str:
    """What the command line has against it; a file that is not there is the reader's."""
    args = [word for word in args if word not in ("...", "--help")]
    try:
        if not is_group(args):
            parsed(args)
    except click.UsageError as error:
        text = error.format_message()
        return "" if "does not exist" in text else text
    return ""


def is_group(args: Sequence[str]) -> bool:
    """Whether it names a group of commands and none of them."""
    command: click.Command | None = fleet
    for word in args:
        command = command.get_command(click.Context(command), word) if isinstance(command, click.Group) else None
    return isinstance(command, click.Group)


def cases() -> list[object]:
    """Page and command."""
    return [pytest.param(variables, command, id=f"{page.name}: {command[:60]}")
            for page in PAGES for variables, command in commands(page)]  # fmt: skip


@pytest.mark.parametrize(("variables", "command"), cases())
def test_a_command_is_taken(variables: str, command: str) -> None:
    assert complaint(words(command)) == ""
    ours = [one.partition("=")[0] for one in variables.split() if not one.startswith("OTEL_")]
    assert [name for name in ours if name not in SETTINGS] == []


def inline() -> list[str]:
    """Commands in running text, ``a|b`` and ``a / b`` taken apart."""
    found = set()
    for page in PAGES:
        for command in _INLINE.findall(page.read_text("utf-8")):
            text = re.sub(r"\s+", " ", command).replace(" / ", "|")
            choices = [
                word.split("|") if re.fullmatch(r"[a-z-]+(\|[a-z-]+)+", word) else [word] for word in text.split()
            ]
            found |= {" ".join(one) for one in product(*choices)}
    return sorted(found)


@pytest.mark.parametrize("command", inline())
def test_a_command_in_the_text_names_what_there_is(command: str) -> None:
    """Its arguments may be left out, its words and options may not be others."""
    said = complaint(words(command))
    assert not said or "Missing" in said or "requires an argument" in said, said


def test_the_values_that_pages_set_are_values_of_the_chart() -> None:
    pairs = sorted({pair for page in PAGES for line in lines(page) if line.startswith(("helm install", "helm upgrade"))
                    for pair in re.findall(r"--set (\S+)", line)})  # fmt: skip
    assert pairs
    done = helm("template", "fleet", str(CHART), *(word for pair in pairs for word in ("--set-string", pair)
                                                   if not pair.endswith(("=true", "=false"))))  # fmt: skip
    assert done.returncode == 0, done.stderr
