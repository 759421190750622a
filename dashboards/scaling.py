"""What the controller decided and what came of it: pure functions on pandas frames of decisions. No I/O."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import pandas as pd

from dashboards.queries import pick


def replica_timeline(signals: pd.DataFrame, signal_names: Mapping[str, str]) -> pd.DataFrame:
    """Planned, requested and observed replicas: ``bin_s``, ``variant``, ``mark``, ``value``.

    Args:
        signals: bins from the history.
        signal_names: mark -> signal, e.g. ``{"planned": "wva_desired_replicas"}``.
    """
    marks = [pick(signals, name, how="high").assign(mark=mark) for mark, name in signal_names.items()]
    table = pd.concat([mark[["bin_s", "variant", "mark", "value"]] for mark in marks], ignore_index=True)
    return table.sort_values(["variant", "mark", "bin_s"], ignore_index=True)


def decision_runs(decisions: pd.DataFrame) -> pd.DataFrame:
    """Decisions with repetitions folded: one row for each stretch of the same variant, reason and replicas.

    Returns: the last row of each stretch with ``first_s`` and ``times``, newest first.
    """
    if decisions.empty:
        return decisions.assign(first_s=pd.Series(dtype=float), times=pd.Series(dtype=int))
    ordered = decisions.sort_values(["variant", "at_s", "id"])
    same = ["variant", "direction", "reason", "current", "desired"]
    stretch = (ordered[same] != ordered[same].shift()).any(axis=1).cumsum()
    grouped = ordered.groupby(stretch, sort=False)
    folded = grouped.last().assign(first_s=grouped["at_s"].first(), times=grouped.size())
    return folded.sort_values(["at_s", "id"], ascending=False, ignore_index=True)


def scalings(decisions: pd.DataFrame) -> pd.DataFrame:
    """Decisions that changed the replicas, the first of each stretch, oldest first."""
    if decisions.empty:
        return decisions
    moves = decisions[decisions["direction"] != "hold"].sort_values(["variant", "at_s", "id"])
    before = map(_asked_before, moves["signals"], moves["current"])
    moves = moves.assign(before=list(before))
    again = (
        (moves["variant"] == moves["variant"].shift())
        & (moves["desired"] == moves["desired"].shift())
        & (moves["direction"] == moves["direction"].shift())
        & (moves["at_s"].diff() < 60)
    )
    return moves[~again].sort_values("at_s", ignore_index=True)


def replicas_before(decision: Mapping[Hashable, Any]) -> int:
    """Replicas that the platform had been asked for when a decision was taken; where it does not say, those ready."""
    return _asked_before(decision["signals"], decision["current"])


def _asked_before(signals: object, current: float) -> int:
    asked = signals.get("requested") if isinstance(signals, Mapping) else None
    return int(current if asked is None else asked)


def thresholds(decision: Mapping[Hashable, Any]) -> tuple[float, float] | None:
    """Saturation below and above which a decision's analyzer acts; None: it decides by latency targets, or says none.

    >>> thresholds({"signals": {"scale_down_below": 0.3, "scale_up_above": 0.8}})
    (0.3, 0.8)
    >>> thresholds({"signals": {"scale_down_below": 0.3, "scale_up_above": 0.8, "demand_rps": 4.0}})
    """
    signals = decision.get("signals")
    if not isinstance(signals, Mapping) or "demand_rps" in signals:
        return None
    low, high = signals.get("scale_down_below"), signals.get("scale_up_above")
    return None if low is None or high is None else (float(low), float(high))


def decision_series(decisions: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Inputs of decisions over time: ``bin_s``, ``model``, ``variant`` and a column for each name; NaN: not known."""
    rows = []
    for row in decisions.to_dict("records") if len(decisions) else ():
        inputs = row["signals"] if isinstance(row["signals"], Mapping) else {}
        values = {name: inputs.get(name) for name in names}
        if any(value is not None for value in values.values()):
            rows.append({"bin_s": float(row["at_s"]), "model": row["model"], "variant": row["variant"],
                         "current": row["current"], **values})  # fmt: skip
    table = pd.DataFrame(rows, columns=["bin_s", "model", "variant", "current", *names])
    typed: pd.DataFrame = table.astype(dict.fromkeys(names, float))
    return typed.sort_values("bin_s", ignore_index=True)


_STANDS_S: Final = 60.0
"""A decision that stays the same is written every half a minute: so long what it said stands."""


def _borne(latest: pd.DataFrame, width_s: float) -> pd.Series:
    """By bin what all variants bear together; one that did not decide in a bin bears what it did before."""
    each = latest.pivot_table(index="bin_s", columns=["model", "variant"], values="bears")
    if each.empty:
        return pd.Series(dtype=float, name="bears")
    bins = np.arange(each.index.min(), each.index.max() + width_s / 2, width_s)
    stands = each.reindex(bins).ffill(limit=max(1, round(_STANDS_S / width_s)))
    return stands.sum(axis=1, min_count=1).rename_axis("bin_s")


def planned_load(said: pd.DataFrame, *, width_s: float) -> pd.DataFrame:
    """What decisions expected, by bin over all models: ``demand``, ``forecast``, ``high`` (90 %), ``capacity``.

    Demand and forecast are the model's, told alike by each of its variants; capacity is the variants' own, by replica.
    A forecast stands at the time it speaks of: the decision's own plus the lead time.
    """
    columns = ["bin_s", "demand", "forecast", "high", "capacity"]
    if said.empty:
        return pd.DataFrame(columns=columns)
    work = said.assign(bin_s=(said["bin_s"] // width_s) * width_s, bears=said["capacity_rps"] * said["current"],
                       then_s=((said["bin_s"] + said["lead_s"].fillna(0.0)) // width_s) * width_s)  # fmt: skip
    latest = work.groupby(["model", "variant", "bin_s"], as_index=False).last()
    bears = _borne(latest, width_s)
    demand = latest.groupby(["model", "bin_s"])["demand_rps"].last().groupby("bin_s").sum(min_count=1)
    ahead = work.groupby(["model", "then_s"])[["forecast_rps", "forecast_p90_rps"]].last()
    told = ahead.groupby("then_s").sum(min_count=1)
    table = pd.DataFrame({"demand": demand, "capacity": bears}).join(told, how="outer")
    table = table.rename(columns={"forecast_rps": "forecast", "forecast_p90_rps": "high"})
    return table.rename_axis("bin_s").reset_index()[columns]
