"""``fleet alerts check``: what promtool says, and what only we know (the catalogue, labels, bucket bounds)."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import requests

from alerts import buckets, labels
from alerts.lint import unknown_series
from fleet.errors import ConfigError
from fleet.settings import read_yaml
from fleet.slo import parse_slos
from fleet.sources.exposition import parse


def rule_paths(paths: Iterable[Path]) -> tuple[Path, ...]:
    """The YAML files among ``paths`` and in the folders among them.

    Raises: ConfigError where there is none.
    """
    found: list[Path] = []
    for path in paths:
        inside = [*path.glob("*.yaml"), *path.glob("*.yml")] if path.is_dir() else [path]
        if not inside:
            raise ConfigError("holds no YAML file", where=str(path), next_step="Name a rule file, or their folder.")
        found += sorted(inside)
    return tuple(found)


def deployed_bounds(page: str) -> Mapping[str, tuple[float, ...]]:
    """Our default bounds, with those that a metrics page (file or URL) really has.

    Raises: ConfigError when the page cannot be read.
    """
    text = _read_page(page)
    names = {f"{name}_bucket" for name in buckets.measured_names()}
    found = buckets.page_bounds(
        (point.name, point.labels["le"]) for point in parse(text, names) if "le" in point.labels
    )
    if not found:
        raise ConfigError("has no latency histogram that an SLO uses", where=page,
                          next_step="Name the /metrics page of an engine or router with traffic.")  # fmt: skip
    return {**buckets.BOUNDS, **found}


def _read_page(page: str) -> str:
    try:
        if not page.startswith(("http://", "https://")):
            return Path(page).read_text(encoding="utf-8")
        response = requests.get(page, timeout=10)
        response.raise_for_status()
        return response.text
    except (OSError, UnicodeDecodeError, requests.RequestException) as error:
        raise ConfigError(f"cannot be read: {type(error).__name__}", where=page,
                          next_step="Name a saved page or its URL.") from None  # fmt: skip


def findings(paths: Iterable[Path], bounds: Mapping[str, tuple[float, ...]]) -> Iterator[str]:
    """What is wrong with SLO files and rule files, one line each.

    Raises: ConfigError where a file cannot be read at all.
    """
    documents = {path: read_yaml(path) for path in rule_paths(paths)}
    rules = {path: document for path, document in documents.items() if _is_rules(document)}
    whole = [rule for document in rules.values() for rule in _rules(document)]
    known = {rule["record"] for document in rules.values() for rule in _rules(document) if "record" in rule}
    for path, document in documents.items():
        if path not in rules:
            yield from map(str, buckets.problems(parse_slos(document, where=str(path)), bounds, where=str(path)))
            continue
        for rule in _rules(document):
            for name in unknown_series(str(rule.get("expr", "")), known):
                yield f"{path}: {rule.get('alert') or rule.get('record')}: series {name} is not in the catalogue"
    yield from (f"{name}: {problem}" for name, problem in labels.problems(whole))
    yield from _promtool(list(rules))


def _is_rules(document: Any) -> bool:
    return isinstance(document, dict) and isinstance(document.get("groups"), list)


def _rules(document: Any) -> list[dict[str, Any]]:
    groups = [group for group in document["groups"] if isinstance(group, dict)]
    return [rule for group in groups for rule in group.get("rules") or () if isinstance(rule, dict)]


def promtool_path() -> str | None:
    """Where promtool is, if it is installed."""
    return shutil.which("promtool")


def _promtool(paths: list[Path]) -> Iterator[str]:
    if (tool := promtool_path()) is None or not paths:
        return
    result = subprocess.run([tool, "check", "rules", *map(str, paths)], capture_output=True, text=True, check=False)
    if result.returncode:
        lines = (result.stderr + result.stdout).splitlines()
        yield from (f"promtool: {line.strip()}" for line in lines if line.strip() and "SUCCESS" not in line)
