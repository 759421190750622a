"""What a bench gives back, and how it is judged. Pure."""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

_RULES: Final = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}
_LIMIT = re.compile(r"(>=|<=|>|<)\s*(-?[\d.]+)$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One figure beside the limit it is held to; ``report`` as a limit means that it is only told."""

    value: float | None
    unit: str
    limit: str
    """``>= 10000``, ``<= 6.7``, ``88..92`` or ``report``."""

    @property
    def ok(self) -> bool:
        """Whether the limit is met; an unknown value never is.

        >>> Bar(value=5.0, unit="%", limit="<= 6.7").ok, Bar(value=None, unit="%", limit="<= 6.7").ok
        (True, False)
        """
        if self.limit == "report":
            return True
        if self.value is None:
            return False
        if ".." in self.limit:
            low, high = map(float, self.limit.split(".."))
            return low <= self.value <= high
        match = _LIMIT.match(self.limit)
        if match is None:
            raise ValueError(f"{self.limit!r} is no limit")
        return bool(_RULES[match[1]](self.value, float(match[2])))

    def to_json(self) -> dict[str, Any]:
        """As in a bench's JSON object."""
        return {"value": self.value, "unit": self.unit, "limit": self.limit, "ok": self.ok}


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A titled table of results; cells are written as they are."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[object]]

    def markdown(self) -> str:
        """The table in Markdown."""
        lines = [f"### {self.title}", "", "| " + " | ".join(self.columns) + " |", "|" + "---|" * len(self.columns)]
        return "\n".join([*lines, *("| " + " | ".join(map(_cell, row)) + " |" for row in self.rows)])


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One line of a plot."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    markers_only: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """A plot as data; the shell draws it."""

    title: str
    x_label: str
    y_label: str
    series: Sequence[Series]
    log_y: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Everything that one bench found."""

    results: Mapping[str, Any]
    bars: Mapping[str, Bar]
    tables: Sequence[Table] = ()
    plots: Sequence[Plot] = ()
    notes: Sequence[str] = field(default=())
    """What a reader must know: which data was used, what was missing."""
