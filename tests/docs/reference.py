"""Reference pages from the code itself: ``python -m tests.docs.reference docs/reference`` (``make generate``).

``settings.md`` has every setting of every part, with the words beside its definition; ``metrics.md`` every series of
the catalogue. A test holds both against the code.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from fleet import signals
from fleet.settings import Settings
from fleet.signals import Origin, Signal
from tests.fleet.all_settings import ALL_SETTINGS, prefix_of

PARTS: Final[Mapping[str, str]] = {
    "FleetSettings": "All parts", "RouterSettings": "Router and picker", "PickerSettings": "Picker only",
    "WvaSettings": "Controller", "PredictorSettings": "Predictor", "ConsoleSettings": "Console",
    "AlertsSettings": "Alert watcher", "SimSettings": "Platform API of simulated and local engines",
    "UpSettings": "`fleet up`",
}  # fmt: skip
ORIGINS: Final[Mapping[Origin, str]] = {
    Origin.ENGINE: "Engines (read)", Origin.ROUTER: "Router and picker", Origin.WVA: "Controller",
    Origin.PREDICTOR: "Predictor", Origin.ALERTS: "Alert watcher", Origin.SIMULATOR: "Simulator",
    Origin.DCGM: "GPUs, from DCGM exporter (read)", Origin.NODE: "Nodes, from node exporter (read)",
    Origin.KUBE_STATE: "Kubernetes, from kube-state-metrics (read)", Origin.PROMETHEUS: "Prometheus itself (read)",
}  # fmt: skip

_SETTINGS_HEAD = """# Settings

Written by `make generate` from the settings classes; a test holds it against the code. Every setting is an
environment variable; most are options of the command as well, which win. An unknown variable with one of these prefixes
is refused at the start, with the nearest right name.
"""
_METRICS_HEAD = """# Metrics

Written by `make generate` from the catalogue (`fleet/signals.py`); a test holds it against the code. Every series that
the project writes or reads is here. Engines differ: the name is vLLM 0.32's, the others are the same quantity
elsewhere, tried in order. A histogram is shown by its base name.
"""


def settings_page() -> str:
    """``settings.md``."""
    return "\n".join([_SETTINGS_HEAD, *map(_settings_table, ALL_SETTINGS)])


def _settings_table(cls: type[Settings]) -> str:
    rows = [
        f"| `{prefix_of(cls)}{name.upper()}` | {_default(field)} | {_limits(field)} | {_cell(words)} |"
        for (name, field), words in zip(cls.model_fields.items(), _words(cls), strict=True)
    ]
    head = [f"## {PARTS[cls.__name__]} (`{prefix_of(cls)}`)", "", "| variable | default | limits | meaning |",
            "|---|---|---|---|"]  # fmt: skip
    return "\n".join([*head, *rows, ""])


def _words(cls: type[Settings]) -> Iterator[str]:
    """What stands below each field, in their order; nothing where nothing does."""
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(body, ast.ClassDef)
    for node, after in zip(body.body, [*body.body[1:], None], strict=True):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id in cls.model_fields:
            said = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            yield inspect.cleandoc(str(after.value.value)) if said else ""  # type: ignore[union-attr]


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if value is None or value == "" or value is PydanticUndefined:
        return "none"
    return f"`{value:.10g}`" if isinstance(value, float) else f"`{value}`"


def _limits(field: FieldInfo) -> str:
    signs = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    found = [f"{words} {getattr(one, sign):g}" for one in field.metadata for sign, words in signs.items()
             if hasattr(one, sign)]  # fmt: skip
    return ", ".join(found)


def _cell(text: str) -> str:
    """One line of a table, with Markdown's code marks."""
    return re.sub(r"\s+", " ", text).replace("``", "`").replace("|", "\\|")


def metrics_page() -> str:
    """``metrics.md``."""
    catalogue = [one for one in vars(signals).values() if isinstance(one, Signal)]
    parts = [_METRICS_HEAD]
    for origin, title in ORIGINS.items():
        rows = {one.name: _metric_row(one) for one in catalogue if one.origin is origin}
        parts += [f"## {title}", "", "| name | type | unit | labels | meaning |", "|---|---|---|---|---|",
                  *(rows[name] for name in sorted(rows)), ""]  # fmt: skip
    return "\n".join(parts)


def _metric_row(one: Signal) -> str:
    labels = ", ".join(f"`{label}`" for label in one.labels)
    also = f" Elsewhere: {', '.join(f'`{name}`' for name in one.aliases)}." if one.aliases else ""
    return f"| `{one.name}` | {one.kind} | {one.unit} | {labels} | {_cell(one.meaning)}{also} |"


PAGES: Final = {"settings.md": settings_page, "metrics.md": metrics_page}


def main(folder: Path) -> None:
    """Write all pages."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, made in PAGES.items():
        (folder / name).write_text(made(), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
