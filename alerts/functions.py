"""What Prometheus computes over a range of samples and over buckets, in plain Python. Pure.

Each function follows Prometheus 2.x to the letter (extrapolation included), so that a rule means the same in a
Prometheus and in :mod:`alerts.evaluate`; an integration test holds the two against each other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

Times = Sequence[float]
Values = Sequence[float]
RangeFunction = Callable[[Times, Values, float, float], float | None]
"""(times, values, start_s, end_s) -> value, or ``None`` where the range gives none."""


def _grown(values: Values) -> float:
    """Increase of a counter; a fall is a reset, after which it counts from zero."""
    resets = sum(before for before, after in pairwise(values) if after < before)
    return values[-1] - values[0] + resets


def increase(times: Times, values: Values, start_s: float, end_s: float) -> float | None:
    """Increase over the range, extrapolated to its ends as Prometheus does.

    >>> increase([0.0, 10.0, 20.0], [0.0, 5.0, 10.0], 0.0, 20.0)
    10.0
    """
    if len(times) < 2:
        return None
    grown, sampled = _grown(values), times[-1] - times[0]
    step = sampled / (len(times) - 1)
    to_start, to_end = times[0] - start_s, end_s - times[-1]
    if grown > 0 and values[0] >= 0:
        to_start = min(to_start, sampled * (values[0] / grown))
    reach = sum(gap if gap < step * 1.1 else step / 2 for gap in (to_start, to_end))
    return grown * ((sampled + reach) / sampled)


def rate(times: Times, values: Values, start_s: float, end_s: float) -> float | None:
    """Increase per second."""
    grown = increase(times, values, start_s, end_s)
    return None if grown is None else grown / (end_s - start_s)


def changes(times: Times, values: Values, start_s: float, end_s: float) -> float | None:
    """How often the value changed."""
    return float(sum(before != after for before, after in pairwise(values))) if values else None


def _plain(function: Callable[[Values], float]) -> RangeFunction:
    return lambda times, values, start_s, end_s: function(values) if len(values) else None


RANGE_FUNCTIONS: Mapping[str, RangeFunction] = {
    "rate": rate,
    "increase": increase,
    "changes": changes,
    "min_over_time": _plain(min),
    "max_over_time": _plain(max),
    "sum_over_time": _plain(math.fsum),
    "avg_over_time": _plain(lambda values: math.fsum(values) / len(values)),
}
"""PromQL's name of the function -> the function."""

COUNTER_FUNCTIONS = frozenset({"rate", "increase"})
"""Functions that mean nothing on a gauge."""

AGGREGATIONS: Mapping[str, Callable[[Sequence[float]], float]] = {
    "sum": math.fsum,
    "max": max,
    "min": min,
    "count": lambda values: float(len(values)),
    "group": lambda values: 1.0,
}
"""PromQL's name of the aggregation -> the aggregation."""


def bucket_quantile(q: float, buckets: Sequence[tuple[float, float]]) -> float:
    """Quantile of a classic histogram.

    Args:
        q: in 0..1.
        buckets: (upper bound, cumulative count), ascending, the last bound infinite.
    Returns: linear interpolation inside the bucket; the highest finite bound where it lies above; NaN where there is
        nothing to say.

    >>> bucket_quantile(0.95, [(0.1, 0.0), (0.25, 100.0), (math.inf, 100.0)])
    0.2425
    """
    if len(buckets) < 2 or not math.isinf(buckets[-1][0]) or not buckets[-1][1] > 0:
        return math.nan
    bounds, counts = _monotonic(buckets)
    rank = q * counts[-1]
    index = next((i for i, count in enumerate(counts[:-1]) if count >= rank), len(counts) - 1)
    if index == len(counts) - 1:
        return bounds[-2]
    if index == 0 and bounds[0] <= 0:
        return bounds[0]
    low, below = (bounds[index - 1], counts[index - 1]) if index else (0.0, 0.0)
    inside = counts[index] - below
    return low + (bounds[index] - low) * ((rank - below) / inside) if inside else math.nan


def _monotonic(buckets: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """Equal bounds merged, counts made non-decreasing (scrapes of several series are not atomic)."""
    merged: dict[float, float] = {}
    for bound, count in buckets:
        merged[bound] = merged.get(bound, 0.0) + count
    bounds, counts, highest = sorted(merged), [], 0.0
    for bound in bounds:
        highest = max(highest, merged[bound])
        counts.append(highest)
    return bounds, counts
