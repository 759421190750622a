"""Does the command line really take what manifests pass? Parsed by the commands themselves, types and all; not run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import click

from fleet.cli import fleet
from tests.fleet.all_settings import ALL_SETTINGS, prefix_of, variables_of


def parsed(args: Sequence[str]) -> click.Context:
    """The context of the innermost command of ``fleet ARGS``.

    Raises: click.UsageError for an unknown command or option, or a value of the wrong type.
    """
    command: click.Command = fleet
    context, rest = None, list(args)
    while isinstance(command, click.Group):  # our groups have no options of their own
        context = click.Context(command, parent=context, info_name=command.name)
        inner = command.get_command(context, rest[0])
        if inner is None:
            raise click.UsageError(f"no command {rest[0]!r} in {context.command_path}")
        command, rest = inner, rest[1:]
    return command.make_context(command.name, rest, parent=context)


def complaint(container: dict[str, Any]) -> str:
    """Why ``fleet`` would end at once with a container's arguments or settings; empty: it would not."""
    try:
        context = parsed(container["args"])
    except click.UsageError as error:
        return error.format_message()
    unknown = sorted(
        entry["name"] for entry in container.get("env", ()) if "_" in entry["name"] and not _known(entry["name"])
    )
    if unknown:
        return f"{context.command_path}: unknown settings {', '.join(unknown)}"
    return ""


def _known(variable: str) -> bool:
    """A setting of ours, or nothing that we look at."""
    mine = [cls for cls in ALL_SETTINGS if variable.startswith(prefix_of(cls))]
    return not mine or any(variable in variables_of(cls) for cls in mine)


def own_containers(documents: Iterable[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Workload's name and container of everything that runs ``fleet`` (our image's entry point)."""
    for document in documents:
        for pod in _pods(document):
            for container in [*pod.get("initContainers", ()), *pod.get("containers", ())]:
                if "llm-fleet" in container["image"]:
                    yield document["metadata"]["name"], container


def _pods(value: Any) -> Iterator[dict[str, Any]]:
    """Every pod specification inside, wherever a kind keeps it."""
    if isinstance(value, dict):
        if isinstance(value.get("containers"), list):
            yield value
        for inner in value.values():
            yield from _pods(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _pods(inner)
