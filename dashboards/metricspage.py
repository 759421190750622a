"""A part's ``/metrics`` page as rows: what it exports and the console has no better place for. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from fleet.sources.exposition import Point


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """The newest samples of one part."""

    points: Sequence[Point] = ()

    def pick(self, *words: str) -> list[Point]:
        """Samples whose name holds one of the words; buckets and creation times are left out."""
        return [point for point in self.points if any(word in point.name for word in words)
                and not point.name.endswith(("_bucket", "_created"))]  # fmt: skip

    def highest(self, *words: str) -> float | None:
        """The largest of them; None: there are none."""
        return max((point.value for point in self.pick(*words)), default=None)

    def total(self, name: str) -> float | None:
        """Sum of one series over its labels; None: the page does not have it."""
        values = [point.value for point in self.points if point.name == name]
        return sum(values) if values else None

    def by(self, name: str, label: str) -> dict[str, float]:
        """One series summed by a label."""
        found: dict[str, float] = {}
        for point in self.points:
            if point.name == name:
                key = point.labels.get(label, "")
                found[key] = found.get(key, 0.0) + point.value
        return found

    def table(self, *words: str) -> pd.DataFrame:
        """``series``, ``labels``, ``value``."""
        rows = [
            {"series": point.name, "labels": ", ".join(f"{k}={v}" for k, v in sorted(point.labels.items())),
             "value": point.value}
            for point in self.pick(*words)
        ]  # fmt: skip
        return pd.DataFrame(rows, columns=["series", "labels", "value"])
