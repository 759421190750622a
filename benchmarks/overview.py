"""One page of all committed results: each bar beside its limit, with command, seeds and machine.

``python -m benchmarks.overview`` prints ``docs/performance.md``; a test keeps the page to the results.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

RESULTS: Final = Path(__file__).parent / "results"
_HEAD: Final = """# Performance evidence

Every figure here was measured by the command beside it; words about speed elsewhere rest on these.
Written by `make generate` from the results in [benchmarks/results](../benchmarks/results/), where each run's tables,
plots and notes are. A bar that is not met stays in the list. Times of one machine are no times of another: read
ratios, and run the command on yours.
"""


def found(folder: Path = RESULTS) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Every committed result: its path below ``folder`` and its JSON object; plain runs before those of workloads."""
    paths = (path.relative_to(folder) for path in folder.rglob("*.json"))
    for path in sorted(paths, key=lambda one: (one.stem, len(one.parts), one)):
        yield path, json.loads((folder / path).read_text(encoding="utf-8"))


def render(folder: Path = RESULTS) -> str:
    """The page as Markdown."""
    blocks = [_HEAD]
    for path, result in found(folder):
        workload = f", {path.parent.name.removeprefix(path.stem + '-')}" if len(path.parts) > 1 else ""
        page = f"../benchmarks/results/{path.with_suffix('.md')}"
        host, seeds = result["machine"], ", ".join(map(str, result["seeds"]))
        rows = [f"| `{name}` | {_figure(bar['value'])} {bar['unit']} | {bar['limit']} | {_verdict(bar)} |"
                for name, bar in result["bars"].items()]  # fmt: skip
        blocks.append("\n".join([
            f"## [{result['bench']}{workload}]({page})", "",
            f"`{result['command']}`; seeds {seeds}; {host['cores']} cores ({host['cpu']}), Python "
            f"{result['versions']['python']}.", "",
            "| bar | measured | limit | met |", "|---|---|---|---|", *rows, "",
        ]))  # fmt: skip
    return "\n".join(blocks)


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:,.4g}" if abs(value) < 10_000 else f"{value:,.0f}"


def _verdict(bar: dict[str, Any]) -> str:
    if bar["limit"] == "report":
        return "told only"
    return "yes" if bar["ok"] else "**no**"


if __name__ == "__main__":
    sys.stdout.write(render())
