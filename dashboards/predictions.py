"""How good predictions were: pure functions on pandas frames of requests and of the predictor's events. No I/O.

Times are Unix seconds, errors relative to the actual value: +0.2 means 20 % too slow a guess.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd


def prediction_pairs(latencies: pd.DataFrame, what: str) -> pd.DataFrame:
    """Requests with a predicted and an actual latency (``ttft`` or ``tpot``): ``predicted``, ``actual``, ``error``.

    ``error`` is relative to the actual value: +0.2 means 20 % too slow a guess.
    """
    columns = {f"predicted_{what}_s": "predicted", f"{what}_s": "actual"}
    if latencies.empty:
        return pd.DataFrame(columns=["done_s", "variant", "endpoint", "predicted", "actual", "error"])
    rows = latencies.dropna(subset=list(columns)).rename(columns=columns)
    rows = rows[rows["actual"] > 0]
    return rows.assign(error=rows["predicted"] / rows["actual"] - 1)[
        ["done_s", "variant", "endpoint", "predicted", "actual", "error"]
    ].reset_index(drop=True)


def mean_absolute_error(pairs: pd.DataFrame) -> float | None:
    """Mean absolute relative error (MAPE as a ratio); None without pairs."""
    return float(pairs["error"].abs().mean()) if len(pairs) else None


def error_over_time(pairs: pd.DataFrame, starts: np.ndarray, width_s: float, *, fewest: int = 4) -> pd.DataFrame:
    """Median absolute and median signed relative error in each bin: ``bin_s``, ``absolute``, ``signed``, ``n``.

    A bin of fewer than ``fewest`` requests says nothing.
    """
    if pairs.empty:
        return pd.DataFrame(columns=["bin_s", "absolute", "signed", "n"])
    work = pairs.assign(bin_s=np.floor(pairs["done_s"] / width_s) * width_s, size=pairs["error"].abs())
    table = work.groupby("bin_s", as_index=False).agg(
        absolute=("size", "median"), signed=("error", "median"), n=("error", "size")
    )
    table.loc[table["n"] < fewest, ["absolute", "signed"]] = np.nan
    return pd.DataFrame({"bin_s": starts}).merge(table, on="bin_s", how="left")


def close_share(
    pairs: pd.DataFrame, starts: np.ndarray, width_s: float, *, within: float, fewest: int = 4
) -> pd.DataFrame:
    """``value`` = share of guesses within ``within`` of the actual value, bin by bin."""
    if pairs.empty:
        return pd.DataFrame(columns=["bin_s", "value", "n"])
    work = pairs.assign(bin_s=np.floor(pairs["done_s"] / width_s) * width_s, close=pairs["error"].abs() <= within)
    table = work.groupby("bin_s", as_index=False).agg(value=("close", "mean"), n=("close", "size"))
    table["value"] = table["value"].where(table["n"] >= fewest)
    return pd.DataFrame({"bin_s": starts}).merge(table, on="bin_s", how="left")


def drift(pairs: Mapping[str, pd.DataFrame], since_s: float, until_s: float) -> pd.DataFrame:
    """Median absolute error by target and variant: the newest quarter of a window, and what came before."""
    cut, rows = until_s - (until_s - since_s) / 4, []
    for target, table in pairs.items():
        for variant, own in table.groupby("variant") if len(table) else ():
            size = own["error"].abs()
            new, old = size[own["done_s"] >= cut], size[own["done_s"] < cut]
            rows.append({"target": target.upper(), "variant": str(variant), "before": _median(old),
                         "newest": _median(new), "requests": len(new)})  # fmt: skip
    return pd.DataFrame(rows, columns=["target", "variant", "before", "newest", "requests"])


def _median(values: pd.Series, *, fewest: int = 10) -> float:
    return float(values.median()) if len(values) >= fewest else math.nan
