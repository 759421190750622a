"""Grades of the figures that people look at first. Pure."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass


class Grade(enum.StrEnum):
    """How good a figure is."""

    GOOD = "good"
    ACCEPTABLE = "acceptable"
    WEAK = "weak"
    """Between acceptable and to improve: the documents leave this range open."""
    TO_IMPROVE = "to improve"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """Where one grade ends and the next begins."""

    name: str
    unit: str
    good: float
    acceptable: float
    to_improve: float
    higher_is_better: bool = False

    def grade(self, value: float | None) -> Grade:
        """The grade of ``value``; unknown where it is None or NaN.

        >>> SCALES["ttft"].grade(0.4), SCALES["gpu_utilisation"].grade(0.7)
        (<Grade.GOOD: 'good'>, <Grade.ACCEPTABLE: 'acceptable'>)
        """
        if value is None or value != value:  # noqa: PLR0124  # NaN is the value that differs from itself
            return Grade.UNKNOWN
        sign = -1.0 if self.higher_is_better else 1.0
        if sign * value < sign * self.good:
            return Grade.GOOD
        if sign * value < sign * self.acceptable:
            return Grade.ACCEPTABLE
        return Grade.TO_IMPROVE if sign * value > sign * self.to_improve else Grade.WEAK


SCALES: Mapping[str, Scale] = {
    scale.name: scale
    for scale in (
        Scale(name="ttft", unit="s", good=1.0, acceptable=3.0, to_improve=5.0),
        Scale(name="tpot", unit="s", good=0.05, acceptable=0.1, to_improve=0.2),
        Scale(name="hit_ratio", unit="ratio", good=0.3, acceptable=0.1, to_improve=0.1, higher_is_better=True),
        Scale(name="gpu_utilisation", unit="ratio", good=0.8, acceptable=0.6, to_improve=0.4, higher_is_better=True),
    )
}
"""TTFT < 1 / < 3 / > 5 s, TPOT < 50 / < 100 / > 200 ms, hit rate > 30 / > 10 / < 10 %, GPU > 80 / > 60 / < 40 %."""


def grade(name: str, value: float | None) -> Grade:
    """The grade of a figure by the name of its scale.

    >>> grade("tpot", 0.15)
    <Grade.WEAK: 'weak'>
    """
    return SCALES[name].grade(value)
