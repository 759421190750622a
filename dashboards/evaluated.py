"""The predictor's own live evaluation (its ``/evaluation``) as frames: what ``fleet predictor evaluate`` prints. Pure.

A console may be newer or older than the predictor it asks: what is missing or of another shape is left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import pandas as pd

FIGURES: Final = ("mape", "median_ape", "bias", "coverage", "width", "pinball_s")
METHODS: Final = {"ours": "ours", "upstream": "upstream's settings", "token-load": "token load", "lmetric": "LMetric"}


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan


def _entries(document: object, name: str) -> list[Mapping[str, Any]]:
    found = document.get(name) if isinstance(document, Mapping) else None
    return [one for one in found if isinstance(one, Mapping)] if isinstance(found, Sequence) else []


def _figures(score: object) -> dict[str, float]:
    known = score if isinstance(score, Mapping) else {}
    return {name: _number(known.get(name)) for name in FIGURES}


def curve(document: object) -> pd.DataFrame:
    """``method``, ``target``, ``regime``, ``n`` (rows trained on), ``rows`` (predicted) and the figures as ratios."""
    rows: list[dict[str, Any]] = []
    for point in _entries(document, "curve"):
        score = point.get("score")
        rows.append({"method": str(point.get("method", "")), "target": str(point.get("target", "")),
                     "regime": str(point.get("regime", "")), "n": _number(point.get("n")),
                     "rows": _number(score.get("n") if isinstance(score, Mapping) else None),
                     **_figures(score)})  # fmt: skip
    return pd.DataFrame(rows, columns=["method", "target", "regime", "n", "rows", *FIGURES])


def newest(points: pd.DataFrame) -> pd.DataFrame:
    """The points of the largest training size."""
    return points[points["n"] == points["n"].max()] if len(points) else points


def figure_of(points: pd.DataFrame, target: str, figure: str, *, regime: str = "all") -> float | None:
    """One figure of our method after the largest training; None: not measured."""
    rows = newest(points)
    rows = rows[(rows["method"] == "ours") & (rows["target"] == target) & (rows["regime"] == regime)]
    value = float(rows[figure].iloc[0]) if len(rows) else math.nan
    return value if math.isfinite(value) else None


def interval(document: object, target: str, *, fewest: int = 20) -> tuple[float, float] | None:
    """How wide the 90 % interval was: its ends over the prediction, medians of the evaluated rows."""
    pairs = document.get("pairs") if isinstance(document, Mapping) else None
    rows = pairs.get(target) if isinstance(pairs, Mapping) else None
    whole = (
        [row[:4] for row in rows if isinstance(row, Sequence) and len(row) >= 4] if isinstance(rows, Sequence) else []
    )
    table = np.array(whole, dtype=float).reshape(-1, 4)
    table = table[(table[:, 1] > 0) & (table[:, 3] > table[:, 2])]
    if len(table) < fewest:
        return None
    low, high = np.median(table[:, 2] / table[:, 1]), np.median(table[:, 3] / table[:, 1])
    return float(low), float(high)


def by_endpoint(document: object) -> pd.DataFrame:
    """``endpoint``, ``target``, and its figures; with those of the endpoint left out of training, where measured."""
    found = document.get("endpoints") if isinstance(document, Mapping) else None
    rows: list[dict[str, Any]] = []
    for target, own in found.items() if isinstance(found, Mapping) else ():
        rows += [{"endpoint": str(name), "target": str(target), **_figures(score)}
                 for name, score in (own.items() if isinstance(own, Mapping) else ())]  # fmt: skip
    table = pd.DataFrame(rows, columns=["endpoint", "target", *FIGURES])
    left = [{"endpoint": str(one.get("endpoint", "")), "target": str(one.get("target", "")),
             "unseen": _figures(one.get("unseen"))["mape"], "after": _figures(one.get("after"))["mape"]}
            for one in _entries(document, "left_out")]  # fmt: skip
    return table.merge(pd.DataFrame(left, columns=["endpoint", "target", "unseen", "after"]), how="left")


def share_inside(
    pairs: pd.DataFrame, starts: np.ndarray, width_s: float, ends: tuple[float, float], *, fewest: int = 4
) -> pd.DataFrame:
    """``value`` = share of requests whose actual latency lay within ``ends`` times the prediction, bin by bin.

    Args:
        pairs: from :func:`dashboards.predictions.prediction_pairs`.
        starts: of the bins, Unix seconds.
        width_s: of the bins.
        ends: lower and upper end of the interval over the prediction.
        fewest: a bin of fewer requests says nothing.
    """
    if pairs.empty:
        return pd.DataFrame(columns=["bin_s", "value", "n"])
    ratio = pairs["actual"] / pairs["predicted"].where(pairs["predicted"] > 0)
    work = pd.DataFrame({"bin_s": np.floor(pairs["done_s"] / width_s) * width_s, "held": ratio.between(*ends)})
    table = work.groupby("bin_s", as_index=False).agg(value=("held", "mean"), n=("held", "size"))
    table["value"] = table["value"].where(table["n"] >= fewest)
    return pd.DataFrame({"bin_s": starts}).merge(table, on="bin_s", how="left")


def changed(status: Mapping[str, Any]) -> list[str]:
    """Endpoints that became faster or slower, in words, as the predictor's status tells them."""
    found = status.get("changed")
    rows = [row for row in found if isinstance(row, Sequence) and len(row) >= 2] if isinstance(found, Sequence) else []
    return [f"{row[0]} became faster or slower {row[-1]} requests ago: its own scale began anew" for row in rows]
