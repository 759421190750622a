"""What the pages compute from history rows: pure functions on pandas frames. No I/O, no clock.

Times are Unix seconds, ratios 0..1. A bin that holds nothing is NaN: a gap in the data stays a gap.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import pandas as pd

_STEPS_S: Final = (1, 2, 3, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400, 43_200, 86_400)

OUTCOMES_FAILED: Final = ("error", "timeout", "rejected")
"""Ends of a request that count against success; one that the client gave up is not ours."""


def bin_width(span_s: float, *, points: int = 120) -> float:
    """A round bin width that cuts ``span_s`` into at most ``points`` bins.

    >>> bin_width(300), bin_width(3600), bin_width(86_400)
    (3.0, 30.0, 900.0)
    """
    wanted = span_s / points
    return float(next((step for step in _STEPS_S if step >= wanted), math.ceil(wanted / 86_400) * 86_400))


def bin_starts(since_s: float, until_s: float, width_s: float) -> np.ndarray:
    """Starts of the bins that touch [since, until), aligned to multiples of the width so that they stay put."""
    first = math.floor(since_s / width_s)
    last = math.ceil(until_s / width_s)
    return np.arange(first, max(last, first + 1), dtype=np.float64) * width_s


def covered_s(starts: np.ndarray, since_s: float, until_s: float, width_s: float) -> np.ndarray:
    """How many seconds of each bin lie inside [since, until)."""
    inside: np.ndarray = np.minimum(starts + width_s, until_s) - np.maximum(starts, since_s)
    return inside.clip(0.0, width_s)


def on_grid(frame: pd.DataFrame, starts: np.ndarray, *, by: Sequence[str]) -> pd.DataFrame:
    """One row for each bin and group; bins without rows are NaN.

    Args:
        frame: has ``bin_s`` and the columns ``by``, at most one row of each group and bin.
        starts: bin starts, from :func:`bin_starts`.
        by: columns that tell the series apart.
    """
    if frame.empty:
        return frame
    keys, group = _groups(frame, by)
    at = frame["bin_s"].to_numpy(dtype=float)
    place = np.searchsorted(starts, at).clip(max=len(starts) - 1)
    known = starts[place] == at
    row = (group * len(starts) + place)[known]
    count = len(keys) * len(starts)
    grid: dict[str, Any] = {name: np.repeat(keys[name].to_numpy(), len(starts)) for name in by}
    grid["bin_s"] = np.tile(starts, len(keys))
    for name in frame.columns.difference([*by, "bin_s"], sort=False):
        values = frame[name].to_numpy()
        whole = np.full(
            count, np.nan if values.dtype.kind in "biuf" else None, float if values.dtype.kind in "biuf" else object
        )
        whole[row] = values[known]
        grid[name] = whole
    return pd.DataFrame(grid)


def _groups(frame: pd.DataFrame, by: Sequence[str]) -> tuple[pd.DataFrame, np.ndarray]:
    """The groups in order, and the number of each row's; without columns all rows are one group."""
    if not by:
        return pd.DataFrame(index=[0]), np.zeros(len(frame), dtype=int)
    group, names = np.zeros(len(frame), dtype=int), []
    for column in by:
        code, known = pd.factorize(frame[column], sort=True)
        group = group * len(known) + code
        names.append(known)
    found, group = np.unique(group, return_inverse=True)
    keys: dict[str, Any] = {}
    for column, known in zip(reversed(by), reversed(names), strict=True):
        found, code = np.divmod(found, len(known))
        keys[column] = known[code]
    return pd.DataFrame({column: keys[column] for column in by}), group


def rates(
    bins: pd.DataFrame, columns: Iterable[str], *, since_s: float, until_s: float, width_s: float
) -> pd.DataFrame:
    """Counts per bin as counts per second.

    A bin that is less than half inside the window is left out, and a partly covered one is divided by what is covered:
    the newest point of a live chart does not dip. Bins without requests between the first and the last one are 0.
    """
    if bins.empty:
        return bins
    starts = bin_starts(since_s, until_s, width_s)
    covered = pd.Series(covered_s(starts, since_s, until_s, width_s), index=starts)
    grid = on_grid(bins, starts[covered.to_numpy() >= width_s / 2], by=("variant",))
    inside = grid["bin_s"].between(bins["bin_s"].min(), bins["bin_s"].max())
    for column in columns:
        grid[column] = grid[column].where(~inside | grid[column].notna(), 0.0) / grid["bin_s"].map(covered)
    return grid


def percentiles(
    frame: pd.DataFrame,
    column: str,
    *,
    starts: np.ndarray,
    width_s: float,
    quantiles: Sequence[float],
    by: Sequence[str] = (),
    at: str = "done_s",
) -> pd.DataFrame:
    """Percentiles of ``column`` in each bin, with the count ``n`` behind them.

    Returns: columns ``by``, ``bin_s``, ``n`` and one per quantile (``p50``, ``p95``); NaN where a bin holds nothing.
    """
    names = [f"p{round(q * 1000) / 10:g}" for q in quantiles]
    rows = frame[[at, column, *by]].dropna(subset=[column]) if not frame.empty else frame
    if rows.empty:
        return pd.DataFrame(columns=[*by, "bin_s", "n", *names])
    keys, group = _groups(rows, by)
    values, bins = rows[column].to_numpy(dtype=float), np.floor(rows[at].to_numpy(dtype=float) / width_s)
    order = np.lexsort((values, bins, group))
    values, bins, group = values[order], bins[order], group[order]
    first = np.flatnonzero(np.r_[True, (np.diff(bins) != 0) | (np.diff(group) != 0)])
    count = np.diff(np.r_[first, len(values)])
    found = {name: keys[name].to_numpy()[group[first]] for name in by}
    found |= {"bin_s": bins[first] * width_s, "n": count.astype(float)}
    for name, share in zip(names, quantiles, strict=True):
        place = share * (count - 1)
        low = np.floor(place).astype(int)
        below, above = values[first + low], values[first + np.minimum(low + 1, count - 1)]
        found[name] = below + (place - low) * (above - below)
    return on_grid(pd.DataFrame(found), starts, by=by)


def percentile(frame: pd.DataFrame, column: str, quantile: float) -> float | None:
    """One percentile of all rows; None without any."""
    values = frame[column].dropna() if column in frame else pd.Series(dtype=float)
    return float(values.quantile(quantile)) if len(values) else None


def ratio(good: float, total: float) -> float | None:
    """``good / total``; None when there was nothing to judge."""
    return good / total if total > 0 else None


def attainment(bins: pd.DataFrame, promise: str) -> float | None:
    """Share of requests that kept a promise (``ttft``, ``tpot``, ``e2e``), or of all promises (``good``)."""
    if bins.empty:
        return None
    if promise == "good":
        return ratio(float(bins["good"].sum()), float((bins["requests"] - bins["aborted"]).sum()))
    return ratio(float(bins[f"{promise}_ok"].sum()), float(bins[f"{promise}_n"].sum()))


def success_rate(bins: pd.DataFrame) -> float | None:
    """Share of requests that ended well, those given up by the client left out."""
    if bins.empty:
        return None
    return ratio(float(bins["ok"].sum()), float((bins["requests"] - bins["aborted"]).sum()))


def attainment_over_time(
    bins: pd.DataFrame, promise: str, starts: np.ndarray, *, by: Sequence[str] = ()
) -> pd.DataFrame:
    """``value`` = attainment of a promise in each bin; NaN where nothing finished."""
    if bins.empty:
        return pd.DataFrame(columns=[*by, "bin_s", "value", "n"])
    judged = bins["requests"].to_numpy(dtype=float) - bins["aborted"].to_numpy(dtype=float)
    good = bins[{"good": "good", "success": "ok"}.get(promise, f"{promise}_ok")].to_numpy(dtype=float)
    total = judged if promise in {"good", "success"} else bins[f"{promise}_n"].to_numpy(dtype=float)
    keys, group = _groups(bins, (*by, "bin_s"))
    kept, among = (np.bincount(group, weights=values, minlength=len(keys)) for values in (good, total))
    share = np.divide(kept, among, out=np.full(len(keys), np.nan), where=among > 0)
    return on_grid(keys.assign(value=share, n=among), starts, by=by)


def budget_left(attained: float | None, objective: float) -> float | None:
    """Share of the error budget that is left, below 0 when overspent.

    >>> round(budget_left(0.98, 0.95), 3), budget_left(None, 0.95)
    (0.6, None)
    """
    return None if attained is None or objective >= 1 else 1 - (1 - attained) / (1 - objective)


def broken_at_gaps(frame: pd.DataFrame, *, at: str, by: Sequence[str], width_s: float) -> pd.DataFrame:
    """Rows with a NaN row put in wherever a series pauses, so that a line chart breaks there.

    A pause is longer than 2.5 times the series' usual spacing and than two bins: sparse scrapes still make a line.
    """
    rows = frame.dropna(subset=["value"]) if len(frame) else frame
    if rows.empty:
        return rows
    ordered = rows.sort_values([*by, at], ignore_index=True)
    series = ordered.groupby(list(by), sort=False)[at]
    spacing = series.diff()
    usual = spacing.groupby([ordered[name] for name in by], sort=False).transform("median")
    gaps = ordered[spacing > (2.5 * usual).clip(lower=2.0 * width_s)]
    if gaps.empty:
        return ordered
    gaps = gaps.assign(value=np.nan)
    gaps[at] -= width_s / 2
    return pd.concat([ordered, gaps], ignore_index=True).sort_values([*by, at], ignore_index=True)


def counter_increase(frame: pd.DataFrame, *, by: Sequence[str]) -> pd.DataFrame:
    """``value`` = increase of a counter since the bin before; a reset counts from zero.

    Args:
        frame: ``bin_s``, ``high`` (the counter's highest value in the bin) and the columns ``by``.
    """
    if frame.empty:
        return frame.assign(value=pd.Series(dtype=float))
    ordered = frame.sort_values([*by, "bin_s"], ignore_index=True)
    step = ordered.groupby(list(by), sort=False)["high"].diff()
    return ordered.assign(value=step.where(~(step < 0), ordered["high"]))


def joined(parts: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """Parts of one table put together; empty ones are left out, as their untyped columns would make all so."""
    found = list(parts)
    full = [part for part in found if len(part)]
    return pd.concat(full, ignore_index=True) if full else found[0]


def pick(signals: pd.DataFrame, name: str | Sequence[str], *, how: str = "mean") -> pd.DataFrame:
    """The bins of one signal (the first of several names that has any), its ``how`` as ``value``."""
    names = [name] if isinstance(name, str) else list(name)
    for candidate in names if not signals.empty else ():
        rows = signals[signals["signal"] == candidate]
        if len(rows):
            return rows.assign(value=rows[how]).reset_index(drop=True)
    return pd.DataFrame(columns=["bin_s", "signal", "model", "variant", "endpoint", "mean", "high", "low", "value"])


def summed(frame: pd.DataFrame, *, by: Sequence[str], columns: Sequence[str] = ("value",)) -> pd.DataFrame:
    """Columns summed over what ``by`` leaves out (endpoints of a variant), bin by bin; nothing at all stays NaN."""
    if frame.empty:
        return frame
    return frame.groupby([*by, "bin_s"])[list(columns)].sum(min_count=1).reset_index()


def averaged(frame: pd.DataFrame, *, by: Sequence[str]) -> pd.DataFrame:
    """``value`` averaged over what ``by`` leaves out, bin by bin."""
    return frame if frame.empty else frame.groupby([*by, "bin_s"])[["value"]].mean().reset_index()


def newest(frame: pd.DataFrame, *, by: Sequence[str], since_s: float = 0.0) -> pd.DataFrame:
    """The last row of each series that has one at or after ``since_s``."""
    rows = frame[frame["bin_s"] >= since_s] if len(frame) else frame
    if rows.empty:
        return rows
    last = rows.sort_values("bin_s", kind="stable").drop_duplicates(list(by), keep="last")
    return last.sort_values(list(by), ignore_index=True)


def fresh_since(signals: pd.DataFrame, *, fresh_s: float = 30.0) -> float:
    """Start of what counts as now: a series that ends before it has gone, it does not stand still."""
    return float(signals["bin_s"].max()) - fresh_s if len(signals) else 0.0


def heat_rows(frame: pd.DataFrame, starts: np.ndarray, *, recent_bins: int = 6) -> pd.DataFrame:
    """A matrix for a heat map: one row an endpoint (``variant``, ``endpoint``), one column a bin, worst at the top."""
    if frame.empty:
        return pd.DataFrame()
    table = frame.pivot_table(index=["variant", "endpoint"], columns="bin_s", values="value", aggfunc="max")
    table = table.reindex(columns=starts)
    known = table.loc[:, table.notna().any()]
    badness = known.iloc[:, -recent_bins:].mean(axis=1).fillna(-1.0)
    return table.loc[badness.sort_values(ascending=False, kind="stable").index]


def thinned(frame: pd.DataFrame, limit: int) -> pd.DataFrame:
    """At most ``limit`` rows, evenly spaced, first and last kept."""
    if len(frame) <= limit:
        return frame
    return frame.iloc[np.unique(np.linspace(0, len(frame) - 1, limit).round().astype(int))]


def alert_spells(events: pd.DataFrame, *, until_s: float) -> pd.DataFrame:
    """Alert events paired up: ``alert``, ``model``, ``severity``, ``message``, ``from_s``, ``to_s`` (NaN: firing).

    An event whose data says ``state: resolved`` ends the spell of the same alert and labels; a repeated firing event
    continues it.
    """
    columns = ["alert", "model", "severity", "message", "from_s", "to_s"]
    running: dict[tuple[str, str], dict[str, object]] = {}
    spells: list[dict[str, object]] = []
    rows = events[events["kind"] == "alert"].sort_values(["at_s", "id"]) if not events.empty else events
    for row in rows.to_dict("records"):
        data: Mapping[str, Any] = row["data"] if isinstance(row["data"], Mapping) else {}
        key = (str(row["subject"]), str(sorted((data.get("labels") or {"model": data.get("model", "")}).items())))
        if str(data.get("state", "firing")) == "resolved":
            if key in running:
                running.pop(key)["to_s"] = float(row["at_s"])
        elif key not in running and float(row["at_s"]) < until_s:
            running[key] = {
                "alert": key[0],
                "model": str(data.get("model", "")),
                "severity": str(row["severity"]),
                "message": str(row["message"]),
                "from_s": float(row["at_s"]),
                "to_s": math.nan,
            }
            spells.append(running[key])
    return pd.DataFrame(spells, columns=columns).sort_values("from_s", ascending=False, ignore_index=True)


def imbalance(running: pd.DataFrame, waiting: pd.DataFrame) -> pd.DataFrame:
    """``value`` = requests on the fullest engine over the mean of its variant, where a variant has several engines."""
    both = pd.concat([running, waiting])
    both = both[both["endpoint"] != ""] if len(both) else both
    if both.empty:
        return pd.DataFrame(columns=["variant", "bin_s", "value"])
    each = both.groupby(["variant", "bin_s", "endpoint"], as_index=False)["value"].sum()
    grouped = each.groupby(["variant", "bin_s"])["value"].agg(["max", "mean", "size"]).reset_index()
    grouped = grouped[(grouped["size"] > 1) & (grouped["mean"] >= 1)]
    rated: pd.DataFrame = grouped.assign(value=grouped["max"] / grouped["mean"])
    return rated[["variant", "bin_s", "value"]]


def burn_rate(bins: pd.DataFrame, promise: str, objective: float, *, since_s: float) -> float | None:
    """How many times too fast the error budget goes since a moment: 1 spends it exactly; None: nothing to judge."""
    recent = bins[bins["bin_s"] >= since_s] if len(bins) else bins
    kept = attainment(recent, promise)
    return None if kept is None or objective >= 1 else (1 - kept) / (1 - objective)
