"""A part's ``/metrics`` page as rows: what it exports and the console has no better place for. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import pandas as pd

from dashboards.summary import short_model
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
        """``what`` in words, ``value``, ``of`` (its labels' values); a histogram is its mean."""
        found = {(point.name, tuple(sorted(point.labels.items()))): point.value for point in self.pick(*words)}
        rows = []
        for (name, labels), value in found.items():
            count = found.get((f"{name.removesuffix('_sum')}_count", labels))
            if name.endswith("_count") and (f"{name.removesuffix('_count')}_sum", labels) in found:
                continue
            mean = name.endswith("_sum") and count is not None
            told = (value / count if count else 0.0) if mean and count is not None else value
            of = ", ".join(short_model(text) if "model" in label else text for label, text in labels if text)
            rows.append({"what": in_words(name), "value": told, "of": of})
        return pd.DataFrame(rows, columns=["what", "value", "of"])


_PREFIXES: Final = ("llm_d_epp_", "llm_d_", "fleet_router_", "inference_extension_")
_UNITS: Final = {"_seconds": ", seconds", "_bytes": ", bytes", "_total": ", in all", "_ratio": ", share"}


def in_words(series: str) -> str:
    """A series' name as people say it.

    >>> in_words("llm_d_epp_flow_control_request_queue_duration_seconds_sum")
    'flow control request queue duration, seconds, mean'
    """
    name, tail = series, ""
    if name.endswith("_sum"):
        name, tail = name.removesuffix("_sum"), ", mean"
    name = next((name.removeprefix(prefix) for prefix in _PREFIXES if name.startswith(prefix)), name)
    for end, unit in _UNITS.items():
        if name.endswith(end):
            name, tail = name.removesuffix(end), unit + tail
            break
    return name.replace("_", " ") + tail
