"""A Prometheus's answers as the frames that pages draw, in the shapes that the history's have. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd

from dashboards.promqueries import ADDED
from fleet import signals as s

COLUMNS: Final = ("bin_s", "signal", "model", "variant", "endpoint", "mean", "high", "low")
CODES: Final = {"429": "rejected", "503": "rejected", "408": "timeout", "504": "timeout", "499": "aborted"}
"""What an error code of the router means to the console; client faults count as answered, others as errors."""
_CLIENT: Final = re.compile(r"40[0134567]|411|413|415|422|431|BadRequest")


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One series of an answer: its labels, times (Unix seconds) and values of one length."""

    labels: Mapping[str, str]
    at_s: np.ndarray
    values: np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Bins of a window that are over, and when each is asked for: at its end."""

    first_s: float
    last_s: float
    width_s: float

    @classmethod
    def of(cls, since_s: float, until_s: float, width_s: float) -> Grid:
        """The bins of a stretch of time, aligned to multiples of the width.

        >>> Grid.of(95.0, 300.0, 60.0)
        Grid(first_s=120.0, last_s=300.0, width_s=60.0)
        """
        first = since_s // width_s * width_s + width_s
        return cls(first_s=first, last_s=max(first, until_s // width_s * width_s), width_s=width_s)

    @property
    def points(self) -> int:
        """How many bins."""
        return round((self.last_s - self.first_s) / self.width_s) + 1


def request_bins(answers: Mapping[str, Sequence[Series]], grid: Grid) -> pd.DataFrame:
    """Requests by bin and model with the columns that the history's have; ``variant`` is empty.

    Requests count as the router counts them, else as the engines do. ``good`` is a lower bound: histograms do not say
    whether two broken promises were one request's.
    """
    rates = {name: _by_model(series, grid) for name, series in answers.items() if name != "codes"}
    models = sorted({model for table in rates.values() for model in table} - {""})
    rows = [_requests_of(model, rates, answers.get("codes", ()), grid) for model in models]
    return pd.concat(rows, ignore_index=True) if rows else pd.DataFrame(columns=[*_REQUEST_COLUMNS])


_REQUEST_COLUMNS: Final = (
    "bin_s", "model", "variant", "requests", "ok", "error", "timeout", "rejected", "aborted", "input_tokens",
    "output_tokens", "cached_tokens", "ttft_n", "ttft_ok", "tpot_n", "tpot_ok", "e2e_n", "e2e_ok", "good",
)  # fmt: skip


def _by_model(series: Iterable[Series], grid: Grid) -> dict[str, pd.Series]:
    found: dict[str, pd.Series] = {}
    for one in series:
        values = pd.Series(one.values, index=_bins(one.at_s, grid))
        model = one.labels.get("model_name", "")
        found[model] = found[model].add(values, fill_value=0.0) if model in found else values
    return found


def _bins(at_s: np.ndarray, grid: Grid) -> np.ndarray:
    """Starts of the bins that were asked for at their ends."""
    starts: np.ndarray = np.round(at_s - grid.width_s, 3)
    return starts


def _requests_of(
    model: str, rates: Mapping[str, Mapping[str, pd.Series]], codes: Sequence[Series], grid: Grid
) -> pd.DataFrame:
    def counted(name: str) -> pd.Series | None:
        values = rates.get(name, {}).get(model)
        return None if values is None else values.fillna(0.0) * grid.width_s

    total = next((one for name in ("router", "finished", "ttft_n") if (one := counted(name)) is not None),
                 pd.Series(dtype=float))  # fmt: skip
    frame = pd.DataFrame({"requests": total}).astype(float)
    failed = {name: pd.Series(0.0, index=frame.index) for name in ("error", "timeout", "rejected", "aborted")}
    for answer in codes:
        code = answer.labels.get("error_code", "")
        if answer.labels.get("model_name", "") == model and not _CLIENT.fullmatch(code):
            values = pd.Series(answer.values, index=_bins(answer.at_s, grid)).fillna(0.0) * grid.width_s
            name = CODES.get(code, "error")
            failed[name] = failed[name].add(values, fill_value=0.0).reindex(frame.index).fillna(0.0)
    frame = frame.assign(**failed)
    frame["ok"] = (frame["requests"] - sum(failed.values())).clip(lower=0.0)
    for name in ("input_tokens", "output_tokens", "cached_tokens"):
        frame[name] = _or_zero(counted(name), frame.index)
    broken = pd.Series(0.0, index=frame.index)
    for promise in ("ttft", "tpot", "e2e"):
        frame[f"{promise}_n"] = _or_zero(counted(f"{promise}_n"), frame.index)
        frame[f"{promise}_ok"] = np.minimum(_or_zero(counted(f"{promise}_ok"), frame.index), frame[f"{promise}_n"])
        broken += frame[f"{promise}_n"] - frame[f"{promise}_ok"]
    frame["good"] = (frame["ok"] - broken).clip(lower=0.0)
    frame = frame.rename_axis("bin_s").reset_index().assign(model=model, variant="")
    return frame[list(_REQUEST_COLUMNS)]


def _or_zero(values: pd.Series | None, index: Any) -> pd.Series:
    return pd.Series(0.0, index=index) if values is None else values.reindex(index).fillna(0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """How labels become the console's variants."""

    models: Mapping[str, str]
    """Variant -> model, as the controller tells; empty where it does not say."""

    def variant(self, labels: Mapping[str, str]) -> str:
        """The variant of a series: said by itself, by its workload, or the only one of its model; else the workload."""
        if name := labels.get("variant_name") or labels.get("variant"):
            return name
        workload, model = labels.get("workload", ""), labels.get("model_name", "")
        if workload in self.models:
            return workload
        own = [name for name, of in self.models.items() if of and of == model]
        return own[0] if len(own) == 1 else workload or model

    def model(self, labels: Mapping[str, str]) -> str:
        """The model of a series."""
        return labels.get("model_name") or self.models.get(labels.get("variant_name") or labels.get("workload", ""), "")


def signal_frame(name: str, series: Iterable[Series], grid: Grid, names: Names, *, endpoints: bool) -> pd.DataFrame:
    """One signal as the history's bins have it."""
    parts = []
    for one in series:
        values = one.values
        if name == s.PREEMPTIONS.name:  # pages take a counter: grow one from the rates
            values = np.cumsum(np.nan_to_num(values) * grid.width_s)
        instance = one.labels.get("instance", "") or one.labels.get("pod", "")
        parts.append(pd.DataFrame({
            "bin_s": _bins(one.at_s, grid), "signal": name, "model": names.model(one.labels),
            "variant": names.variant(one.labels), "endpoint": f"http://{instance}" if endpoints and instance else "",
            "mean": values, "high": values, "low": values,
        }))  # fmt: skip
    if not parts:
        return pd.DataFrame(columns=list(COLUMNS))
    frame = pd.concat(parts, ignore_index=True)
    finite = frame[np.isfinite(frame["mean"].to_numpy(dtype=float))]
    keys = ["bin_s", "signal", "model", "variant", "endpoint"]
    how = "sum" if name in ADDED else "mean"
    folded: pd.DataFrame = finite.groupby(keys, as_index=False).agg(
        mean=("mean", how), high=("high", "max"), low=("low", "min"))  # fmt: skip
    return folded.loc[:, list(COLUMNS)]


def percentile_frame(by_quantile: Mapping[float, Sequence[Series]], grid: Grid, starts: np.ndarray) -> pd.DataFrame:
    """``bin_s``, ``n`` (not known: NaN) and a column a quantile, for series of all models together."""
    frame = pd.DataFrame({"bin_s": starts, "n": np.nan})
    for q, series in by_quantile.items():
        values = pd.Series(dtype=float)
        for one in series:
            values = pd.Series(one.values, index=_bins(one.at_s, grid))
        frame[quantile_name(q)] = frame["bin_s"].round(3).map(values).astype(float)
    return frame


def percentile_by_model(series: Sequence[Series], q: float, grid: Grid) -> pd.DataFrame:
    """``variant`` (here: the model), ``bin_s`` and a column for the quantile."""
    parts = [pd.DataFrame({"variant": one.labels.get("model_name", ""), "bin_s": _bins(one.at_s, grid), "n": np.nan,
                           quantile_name(q): one.values}) for one in series]  # fmt: skip
    if not parts:
        return pd.DataFrame(columns=["variant", "bin_s", "n", quantile_name(q)])
    return pd.concat(parts, ignore_index=True).sort_values(["variant", "bin_s"], ignore_index=True)


def quantile_name(q: float) -> str:
    """As :func:`dashboards.queries.percentiles` names its columns.

    >>> quantile_name(0.95), quantile_name(0.999)
    ('p95', 'p99.9')
    """
    return f"p{round(q * 1000) / 10:g}"


def alert_events(series: Iterable[Series], grid: Grid, summaries: Mapping[str, str]) -> pd.DataFrame:
    """Alerts that fire, as the history's events have them: one row where a spell begins, one where it ends.

    Args:
        series: ``ALERTS`` that fire, at the ends of bins.
        grid: those bins; a spell may be one bin off.
        summaries: alert -> its sentence, where ``<model_name>`` stands for the model.
    """
    rows: list[dict[str, Any]] = []
    for one in series:
        labels = {name: value for name, value in one.labels.items() if name not in {"__name__", "alertstate"}}
        name, model = labels.get("alertname", ""), labels.get("model_name", "")
        said = summaries.get(name, "").replace("<model_name>", model)
        event = {
            "kind": "alert",
            "subject": name,
            "severity": labels.get("severity", "warning"),
            "message": said if said and "<" not in said else f"{name} fires" + (f" for {model}" if model else ""),
        }
        about = {"model": model, "labels": labels}
        breaks = np.flatnonzero(np.diff(one.at_s) > 1.5 * grid.width_s)
        begins, ends = np.append(0, breaks + 1), np.append(breaks, len(one.at_s) - 1)
        for first, last in zip(begins, ends, strict=True):
            rows.append(event | {"at_s": float(one.at_s[first]), "data": about | {"state": "firing"}})
            if one.at_s[last] < grid.last_s:
                over = float(one.at_s[last]) + grid.width_s
                rows.append(event | {"at_s": over, "data": about | {"state": "resolved"}})
    frame = pd.DataFrame(rows, columns=["at_s", "kind", "subject", "message", "severity", "data"])
    frame = frame.sort_values("at_s", ascending=False, ignore_index=True)
    return frame.assign(id=-np.arange(len(frame)))


def variant_frame(controller: Iterable[Series], workloads: Iterable[Series], at_s: float) -> pd.DataFrame:
    """Variants with model, accelerator and namespace: the controller's, and workloads that it does not know."""
    found: dict[str, dict[str, Any]] = {}
    for one in controller:
        name = one.labels.get("variant_name", "")
        row = found.setdefault(name, {"variant": name, "model": "", "accelerator": "", "namespace": "", "at_s": at_s})
        told = {"model": one.labels.get("model_name"), "accelerator": one.labels.get("accelerator_type"),
                "namespace": one.labels.get("exported_namespace") or one.labels.get("namespace")}  # fmt: skip
        row.update({key: value for key, value in told.items() if value})
    served = list(workloads)
    for one in served:
        workload, model = one.labels.get("workload", ""), one.labels.get("model_name", "")
        if workload in found:
            found[workload]["model"] = found[workload]["model"] or model
    names = Names(models={name: row["model"] for name, row in found.items()})
    for one in served:
        name = names.variant(one.labels)
        if name and name not in found:
            found[name] = {"variant": name, "model": one.labels.get("model_name", ""), "accelerator": "",
                           "namespace": one.labels.get("namespace", ""), "at_s": at_s}  # fmt: skip
    columns = ["variant", "model", "accelerator", "namespace", "at_s"]
    frame = pd.DataFrame(list(found.values()), columns=columns)
    return frame[frame["variant"] != ""].sort_values("variant", ignore_index=True)
