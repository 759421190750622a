"""The ``fleet`` command: finds each package's commands through entry points and turns errors into one line."""

from __future__ import annotations

import difflib
import sys
from importlib.metadata import entry_points
from typing import Final

import click

from fleet import __version__
from fleet.errors import FleetError
from fleet.stopping import leave_on_stop

GROUP = "llm_fleet.commands"

_SHORT = {
    "up": "Run the whole loop on this machine.",
    "wva": "Autoscaler: run, decide offline, explain, replay, migrate.",
    "router": "Router: serve, pick behind Envoy, API keys.",
    "predictor": "Latency predictor: serve, train, evaluate.",
    "alerts": "Alert rules: generate, check, watch, diagnose.",
    "console": "The console (Streamlit).",
    "bench": "Experiments behind every performance claim.",
    "plan": "Plan a fleet: size, advise, optimise, render manifests.",
    "sim": "Simulated engines and traffic: serve, replay, calibrate.",
    "history": "What was recorded: show, export, prune.",
}

SERVICES: Final = frozenset({
    "up", "console", "alerts watch", "predictor serve", "router indexer", "router picker", "router serve",
    "sim engine", "sim serve", "wva run",
})  # fmt: skip
"""Commands that run until told to stop, which is no failure: they end with code 0 then, even while they load."""


class LazyGroup(click.Group):
    """Imports a command's package only when that command is used, so that ``fleet --help`` is quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of all installed commands."""
        return sorted({point.name for point in entry_points(group=GROUP)}, key=lambda name: (name != "up", name))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported now."""
        for point in entry_points(group=GROUP, name=cmd_name):
            loaded = point.load()
            if isinstance(loaded, click.Command):
                return loaded
        return None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, with the nearest command where the name is unknown."""
        name = args[0] if args else ""
        if name and not name.startswith("-") and name not in self.list_commands(ctx):
            near = difflib.get_close_matches(name, self.list_commands(ctx), n=1)
            ctx.fail(f"No such command {name!r}." + (f" Did you mean {near[0]!r}?" if near else ""))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, _SHORT.get(name, "")) for name in self.list_commands(ctx)])


@click.group(cls=LazyGroup)
@click.version_option(__version__, prog_name="fleet")
def fleet() -> None:
    """Close the loop around a vLLM fleet: scale it, route to it, predict it, watch it.

    \b
    Examples:
      fleet up                                   the whole loop on this machine, no GPU needed
      fleet up --engines http://gpu1:8000        the same around a real vLLM server
      fleet wva decide snapshot.json             one scaling decision, offline
    """


def main() -> None:
    """Entry point of the console script."""
    if not SERVICES.isdisjoint((" ".join(sys.argv[1:2]), " ".join(sys.argv[1:3]))):
        leave_on_stop()
    try:
        fleet(standalone_mode=False)
    except FleetError as error:
        click.echo(f"fleet: {error}", err=True)
        sys.exit(2)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)


if __name__ == "__main__":
    main()
