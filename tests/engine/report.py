"""The proof as JSON and as a page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from tests.engine.checks import Check

_HEAD = """# The platform on real vLLM

Written by `{command}`: vLLM {vllm} on the CPU with torch {torch}, two servers with a random two-layer Llama (one thread
each), `{cpu}`, {cores} cores, Python {python}. The figures are in `real-engines.json`. Latencies are those of a tiny
model on a CPU: they test the method, not a GPU. A check whose latencies matter says how busy the machine was.

{table}
"""


def table(found: Sequence[Check]) -> str:
    """A row for each check."""
    rows = [f"| {one.name.replace('_', ' ')} | {one.promise} | {_verdict(one)} |" for one in found]
    return "\n".join(["| check | promise | |", "|---|---|---|", *rows])


def _verdict(one: Check) -> str:
    if one.promise.startswith("stated") and one.ok:
        return "stated, no limit"
    return "holds" if one.ok else "**does not hold**"


def markdown(found: Sequence[Check], about: Mapping[str, Any]) -> str:
    """The page."""
    parts = [_HEAD.format(**about, table=table(found))]
    parts += [f"## {_title(one.name)}\n\n{_sentence(one)}\n\n{_figures(one.figures)}\n" for one in found]
    return "\n".join(parts)


def _title(name: str) -> str:
    return name.replace("_", " ").capitalize()


def _sentence(one: Check) -> str:
    when = f"{one.measured['date']}, {one.measured['seconds']} s, load {one.measured['load_average_5m']}"
    first = one.promise if one.promise.startswith("vLLM") else one.promise[0].upper() + one.promise[1:]
    return f"{first}. ({when}) {one.note}".strip()


def _figures(figures: Mapping[str, Any]) -> str:
    lines, tables = [], []
    for name, value in figures.items():
        title = name.replace("_", " ")
        if isinstance(value, list) and value and isinstance(value[0], dict):
            tables.append(_rows(value))
        elif isinstance(value, dict) and value and all(isinstance(one, dict) for one in value.values()):
            tables.append(_rows([{title: key, **one} for key, one in value.items()]))
        elif isinstance(value, dict):
            lines.append(f"- {title}: " + ("; ".join(f"`{key}` {one}" for key, one in value.items()) or "none"))
        elif isinstance(value, list):
            lines.append(f"- {title}: " + (", ".join(f"`{one}`" for one in value) or "none"))
        else:
            lines.append(f"- {title}: {value}")
    return "\n\n".join(["\n".join(lines), *tables]).strip()


def _rows(rows: Sequence[Mapping[str, Any]]) -> str:
    head = [name for name in rows[0] if not isinstance(rows[0][name], list)]  # lists are for the JSON
    lines = [[str(row.get(name, "")) for name in head] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in [[one.replace("_", " ") for one in head],
                                                               ["---"] * len(head), *lines])  # fmt: skip


ORDER: Final = ("same_answers", "prefix_routing", "index_is_the_cache", "cancellation", "metric_names",
                "rendered_flags", "predictor_error",
                "predictor_error_busy", "simulator_error", "console")  # fmt: skip


def merged(before: Sequence[Mapping[str, Any]], found: Sequence[Check]) -> list[Check]:
    """Results in their order; of a check that was not run the earlier one."""
    known = {one["name"]: Check(**one) for one in before} | {one.name: one for one in found}
    return [known[name] for name in ORDER if name in known]


def write(folder: Path, found: Sequence[Check], about: Mapping[str, Any]) -> None:
    """Both files in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "real-engines.json"
    found = merged(json.loads(path.read_text(encoding="utf-8"))["checks"] if path.exists() else (), found)
    text = json.dumps({"about": about, "checks": [asdict(one) for one in found]}, indent=1)
    path.write_text(text + "\n", encoding="utf-8")
    (folder / "real-engines.md").write_text(markdown(found, about), encoding="utf-8")
