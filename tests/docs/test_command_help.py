"""Lists of commands are read whole on a terminal of eighty columns."""

from __future__ import annotations

from collections.abc import Iterator

import click
import pytest

from fleet.cli import fleet

COLUMNS = 80


def groups(command: click.Command, parent: click.Context | None = None) -> Iterator[click.Context]:
    """Every group of commands, from the root on."""
    if isinstance(command, click.Group):
        context = click.Context(command, info_name=command.name, parent=parent, terminal_width=COLUMNS)
        yield context
        for name in command.list_commands(context):
            if (found := command.get_command(context, name)) is not None:
                yield from groups(found, context)


GROUPS = list(groups(fleet))


def test_all_groups_are_looked_at() -> None:
    assert {"fleet", "fleet wva", "fleet sim", "fleet plan"} <= {context.command_path for context in GROUPS}


@pytest.mark.parametrize("context", [pytest.param(one, id=one.command_path) for one in GROUPS])
def test_a_list_of_commands_is_whole(context: click.Context) -> None:
    assert isinstance(context.command, click.Group)
    names = context.command.list_commands(context)
    listed = context.get_help().partition("\nCommands:\n")[2].rstrip("\n").splitlines()
    assert [line.split()[0] for line in listed] == names, "one line each"
    for line in listed:
        assert len(line) <= COLUMNS
        assert len(line.split()) > 1, "says something"
        assert not line.endswith("..."), line
