"""Writes a bench's result: JSON, Markdown with a table, and a plot, with command, seeds, versions and machine."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.drawing import draw
from benchmarks.options import Bench
from benchmarks.result import Outcome

_PACKAGES = ("llm-fleet", "numpy", "scipy", "scikit-learn", "xxhash", "uvloop", "httptools", "fastapi", "streamlit")


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1024**3
    return {"cpu": _cpu(), "cores": os.cpu_count(), "memory_gib": round(memory, 1), "system": platform.system()}


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def versions() -> dict[str, str]:
    """Versions of what the benches run on."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def document(bench: Bench, outcome: Outcome, *, command: str, seeds: tuple[int, ...]) -> dict[str, Any]:
    """The one JSON object of a bench."""
    return {
        "bench": bench.name,
        "command": command,
        "seeds": list(seeds),
        "machine": machine(),
        "versions": versions(),
        "results": outcome.results,
        "bars": {name: bar.to_json() for name, bar in outcome.bars.items()},
        "notes": list(outcome.notes),
    }


def markdown(found: Mapping[str, Any], outcome: Outcome) -> str:
    """The result for a reader: the bars first, then the tables."""
    bars = ["| bar | value | unit | limit | met |", "|---|---|---|---|---|"]
    bars += [f"| `{name}` | {_figure(bar.value)} | {bar.unit} | {bar.limit} | {'yes' if bar.ok else '**no**'} |"
             for name, bar in outcome.bars.items()]  # fmt: skip
    host = found["machine"]
    head = [
        f"# fleet bench {found['bench']}", "", f"`{found['command']}`, seeds {', '.join(map(str, found['seeds']))}.",
        f"{host['cores']} cores ({host['cpu']}), {host['memory_gib']} GiB, Python {found['versions']['python']}.", "",
    ]  # fmt: skip
    notes = [f"- {note}" for note in outcome.notes]
    plots = [f"![{plot.title}]({found['bench']}-{index}.svg)" for index, plot in enumerate(outcome.plots, 1)]
    blocks = ["\n".join(head + bars), *(["\n".join(notes)] if notes else []), *plots]
    return "\n\n".join([*blocks, *(table.markdown() for table in outcome.tables)]) + "\n"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:,.4g}" if abs(value) < 10_000 else f"{value:,.0f}"


def write(folder: Path, bench: Bench, outcome: Outcome, found: Mapping[str, Any]) -> list[Path]:
    """Write ``NAME.json``, ``NAME.md`` and a plot each; returns what was written."""
    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / f"{bench.name}.json", folder / f"{bench.name}.md"]
    written[0].write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    written[1].write_text(markdown(found, outcome), encoding="utf-8")
    for index, plot in enumerate(outcome.plots, 1):
        written.append(folder / f"{bench.name}-{index}.svg")
        draw(plot, written[-1])
    return written
