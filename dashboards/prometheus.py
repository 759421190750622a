"""Series from a Prometheus, where a fleet is too large or too spread for one history: ``CONSOLE_PROMETHEUS_URL``.

Answers have the shapes of :class:`dashboards.source.Reader`'s. Decisions, events, tenants and single requests are no
series: they come from the history where there is one, and are empty where there is none.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final, TypeVar

import numpy as np
import pandas as pd
import requests
from prometheus_api_client import PrometheusConnect
from prometheus_api_client.exceptions import PrometheusApiClientException
from urllib3.util.retry import Retry

from alerts.live import Prometheus as Live
from alerts.rules import rulebook
from dashboards import promframes, promqueries
from dashboards.promframes import Grid, Names, Series
from dashboards.promqueries import Rules
from dashboards.queries import bin_width
from dashboards.rollup import LATENCIES
from dashboards.rows import framed
from dashboards.source import Reader, only
from dashboards.window import Window
from fleet.errors import SourceError
from fleet.history.schema import decisions, events
from fleet.slo import SloBook
from fleet.sources.prometheus import checked_url

K = TypeVar("K")
_PROMISES: Final = ("ttft", "tpot", "e2e")
_AT_ONCE: Final = 6
"""Queries of one page that run beside each other."""
_REMEMBERED_S: Final = 30.0
"""Names of variants and of recorded series are asked for anew after so long."""
_WIDE_S: Final = 60.0
"""Above this width the bin that is not over yet is asked for, too: figures of "now" would else be old."""


class Client:
    """Range and instant queries, each bounded in time and in samples.

    Args:
        url: base URL of the Prometheus API (or of Thanos, Mimir).
        timeout_s: for each query, here and inside Prometheus.
        most_samples: that one answer may hold.
    Raises: ConfigError when the URL is malformed.
    """

    def __init__(self, url: str, *, timeout_s: float, most_samples: int) -> None:
        self.url = checked_url(url)
        self._timeout_s, self._most = timeout_s, most_samples
        self._api = PrometheusConnect(self.url, retry=Retry(total=0, read=False), timeout=timeout_s)

    def between(self, query: str, grid: Grid) -> list[Series]:
        """A query at the end of every bin.

        Raises: SourceError when Prometheus does not answer, refuses, or would answer more than is allowed.
        """
        series = max(1, self._most // grid.points)
        first, last = (datetime.fromtimestamp(at, tz=UTC) for at in (grid.first_s, grid.last_s))
        width = f"{grid.width_s:g}"
        return self._bounded(
            lambda: self._api.custom_query_range(query, first, last, width, self._bounds(series)), series
        )

    def at(self, query: str, at_s: float) -> list[Series]:
        """A query at one moment.

        Raises: SourceError, as :meth:`between`.
        """
        return self._bounded(
            lambda: self._api.custom_query(query, {"time": f"{at_s:.3f}", **self._bounds(self._most)}), self._most
        )

    def _bounds(self, series: int) -> dict[str, str]:
        return {"timeout": f"{self._timeout_s:g}s", "limit": str(series + 1)}

    def _bounded(self, ask: Any, series: int) -> list[Series]:
        try:
            found = [_series(entry) for entry in ask()]
        except requests.Timeout:
            raise self._error(f"did not answer within {self._timeout_s:g} s",
                              "Raise CONSOLE_PROMETHEUS_TIMEOUT_S, load the recording rules into it, or choose a "
                              "shorter range.") from None  # fmt: skip
        except (ValueError, KeyError, TypeError) as error:  # a requests.JSONDecodeError is a ValueError
            raise self._error(f"gives no Prometheus answer ({type(error).__name__})",
                              "Check that CONSOLE_PROMETHEUS_URL is a Prometheus API.") from None  # fmt: skip
        except requests.RequestException as error:
            raise self._error(f"cannot be reached ({type(error).__name__})",
                              "Check CONSOLE_PROMETHEUS_URL and that Prometheus runs.") from None  # fmt: skip
        except PrometheusApiClientException as error:
            raise self._error(f"refuses a query: {str(error)[:200]}",
                              "Check that CONSOLE_PROMETHEUS_URL is a Prometheus API.") from None  # fmt: skip
        if len(found) > series:
            what = f"would answer with more than {series} series"
            raise self._error(what, "Choose a model or a shorter range, or raise CONSOLE_PROMETHEUS_MAX_SAMPLES.")
        return found

    def _error(self, what: str, next_step: str) -> SourceError:
        return SourceError(what, where=f"Prometheus {self.url}", next_step=next_step)


def _series(entry: Mapping[str, Any]) -> Series:
    pairs = entry["values"] if "values" in entry else [entry["value"]]
    table = np.array([(float(at), float(value)) for at, value in pairs], dtype=float).reshape(-1, 2)
    return Series(labels=entry["metric"], at_s=table[:, 0], values=table[:, 1])


class PrometheusReader:
    """What pages read: series from Prometheus, the rest from the history.

    Args:
        client: asks Prometheus.
        book: the promises, whose rules are read.
        history: for decisions, events, tenants and single requests; None: there is none.
    """

    rollup = None

    def __init__(self, client: Client, book: SloBook, history: Reader | None = None) -> None:
        self._client, self._rules, self._history = client, Rules(book), history
        self._book = book
        self._summaries = {alert.name: alert.summary for alert in rulebook(book).alerts}
        self._lock = threading.Lock()
        self._held: dict[str, tuple[float, Any]] = {}

    # ---- what is there

    def newest_s(self, until_s: float) -> float | None:
        """Time of the newest sample before ``until_s``; None: there is none in the five minutes before."""
        found = self._client.at(promqueries.newest(), until_s)
        return float(found[0].values[0]) if found else None

    def newest_of(self, window: Window, table: str) -> float | None:
        """Time of the newest sample, or of the newest row of one of the history's tables."""
        if table == "samples":
            return self.newest_s(window.until_s)
        return self._history.newest_of(window, table) if self._history else None

    def models(self, window: Window) -> list[str]:
        """Models that are served or asked for now, or that were decided on in the window."""
        asked = self._client.at(promqueries.router_models(), window.until_s)
        names = {one.labels.get("model_name", "") for one in asked} | set(self.variants(window)["model"])
        return sorted({*names, *(self._history.models(window) if self._history else ())} - {""})

    def variants(self, window: Window) -> pd.DataFrame:
        """Variants with model, accelerator and namespace."""

        def ask() -> pd.DataFrame:
            asked = self._all({"controller": promqueries.controlled(), "workloads": promqueries.serving()},
                              lambda query: self._client.at(query, window.until_s))  # fmt: skip
            return promframes.variant_frame(asked["controller"], asked["workloads"], window.until_s)

        found: pd.DataFrame = self._remembered(f"variants {window.until_s // _REMEMBERED_S}", ask)
        if self._history is not None:
            older = self._history.variants(window.over(window.since_s, window.until_s))
            found = pd.concat([found, older[~older["variant"].isin(found["variant"])]], ignore_index=True)
        return only(found.sort_values("variant", ignore_index=True), window)

    def _names(self, window: Window) -> Names:
        known = self.variants(Window(since_s=window.since_s, until_s=window.until_s))
        return Names(models=dict(zip(known["variant"], known["model"], strict=True)))

    def _known(self, at_s: float) -> frozenset[str]:
        """Recorded series that Prometheus has: rules that are not loaded are asked for as expressions."""

        def ask() -> frozenset[str]:
            found = self._client.at(promqueries.present(self._rules.names), at_s)
            return frozenset(one.labels.get("__name__", "") for one in found)

        found: frozenset[str] = self._remembered(f"rules {at_s // _REMEMBERED_S}", ask)
        return found

    def _remembered(self, key: str, ask: Any) -> Any:
        with self._lock:
            held = self._held.get(key)
            self._held = {name: entry for name, entry in self._held.items() if entry[0] > time.monotonic()}
        if held is not None and held[0] > time.monotonic():
            return held[1]
        value = ask()
        with self._lock:
            self._held[key] = (time.monotonic() + _REMEMBERED_S, value)
        return value

    def _all(self, queries: Mapping[K, str], ask: Callable[[str], list[Series]]) -> dict[K, list[Series]]:
        """Several queries beside each other."""
        with ThreadPoolExecutor(max_workers=_AT_ONCE) as pool:
            return dict(zip(queries, pool.map(ask, queries.values()), strict=True))

    # ---- signals

    def signal_bins(self, window: Window, names: Sequence[str], width_s: float) -> pd.DataFrame:
        """Signals engine by engine, where engines export them; else by variant."""
        return self._signals(window, tuple(names), width_s, endpoints=True)

    def variant_bins(self, window: Window, names: Sequence[str], width_s: float) -> pd.DataFrame:
        """Signals by bin and variant."""
        return self._signals(window, tuple(names), width_s, endpoints=False)

    def _signals(self, window: Window, names: tuple[str, ...], width_s: float, *, endpoints: bool) -> pd.DataFrame:
        known, labels = self._known(window.until_s), self._names(window)
        form = promqueries.of_engines if endpoints else promqueries.of_workloads
        asked = {name: text for name in names
                 if (text := form(name, width_s, known) or promqueries.of_variants(name)) is not None}  # fmt: skip
        grids = _grids(window, width_s)
        parts = []
        for grid in grids:
            answers = self._all(asked, partial(self._client.between, grid=grid))
            parts += [promframes.signal_frame(name, series, grid, labels, endpoints=endpoints)
                      for name, series in answers.items()]  # fmt: skip
        whole = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=list(promframes.COLUMNS))
        keys = ["bin_s", "signal", "model", "variant", "endpoint"]
        return only(whole.drop_duplicates(keys, ignore_index=True), window, shared=True)

    def heat_bins(self, window: Window, name: str, width_s: float, most: int = 40) -> pd.DataFrame:
        """One signal engine by engine, the highest in each bin, those that are fullest now only."""
        known = self._known(window.until_s)
        query = promqueries.fullest(name, known, most)
        worst = self._client.at(query, window.until_s) if query else []
        instances = "|".join(sorted(re.escape(one.labels.get("instance", "")) for one in worst))
        text = promqueries.of_engines(name, width_s, known, how="max", only=instances) if instances else None
        if text is None:
            return pd.DataFrame(columns=list(promframes.COLUMNS))
        grid = Grid.of(window.since_s, window.until_s, width_s)
        found = promframes.signal_frame(
            name, self._client.between(text, grid), grid, self._names(window), endpoints=True
        )
        return only(found, window)

    def engines(self, window: Window) -> int:
        """How many engines are scraped at the end of a window."""
        found = self._client.at(promqueries.engines_now(), window.until_s)
        return round(float(found[0].values[0])) if found else 0

    def signal_names(self, window: Window, prefix: str) -> list[str]:
        """Names of the catalogue that begin so and that there are."""
        found = self._client.at(promqueries.beginning(prefix), window.until_s)
        return sorted({one.labels.get("__name__", "") for one in found})

    # ---- requests

    def request_bins(self, window: Window, width_s: float) -> pd.DataFrame:
        """Requests by bin and model, from histograms and counters; see :func:`promframes.request_bins`."""
        known = self._known(window.until_s)
        once = width_s >= 0.99 * window.span_s  # totals of the whole window
        width = window.span_s if once else width_s
        grid = (
            Grid(first_s=window.until_s, last_s=window.until_s, width_s=width)
            if once
            else Grid.of(window.since_s, window.until_s, width)
        )
        answers = self._all(promqueries.request_queries(self._rules, width, known),
                            lambda query: self._client.between(query, grid))  # fmt: skip
        found = promframes.request_bins(answers, grid)
        models = self.variants(window)
        served = set(models["model"]) if window.variants else set(found["model"])
        own = dict(zip(models["model"], models["variant"], strict=True)) if len(models) else {}
        single = models["model"].value_counts() if len(models) else pd.Series(dtype=int)
        names = {model: own[model] if single.get(model, 0) == 1 else model for model in set(found["model"])}
        kept = found[found["model"].isin(served)]
        kept = kept[kept["model"] == window.model] if window.model else kept
        return kept.assign(variant=kept["model"].map(names)).reset_index(drop=True)

    def percentile_bins(
        self, window: Window, width_s: float, quantiles: tuple[float, ...]
    ) -> dict[str, tuple[pd.DataFrame, pd.DataFrame, int]]:
        """Percentiles of all requests and of each model's, read from histogram buckets; see :class:`Reader`."""
        known, grid = self._known(window.until_s), Grid.of(window.since_s, window.until_s, width_s)
        starts = np.arange(grid.points) * width_s + grid.first_s - width_s
        asked = {(what, q): promqueries.percentile_of_all(what, q, width_s) for what in _PROMISES for q in quantiles}
        asked |= {(what, 0.0): promqueries.percentile(what, 0.95, width_s, known) for what in _PROMISES}
        answers = self._all(asked, lambda query: self._client.between(query, grid))
        found = {}
        for what in _PROMISES:
            fleet = promframes.percentile_frame({q: answers[what, q] for q in quantiles}, grid, starts)
            each = promframes.percentile_by_model(answers[what, 0.0], 0.95, grid)
            found[what] = fleet, each[each["variant"] == window.model] if window.model else each, 0
        return found

    def percentiles_now(self, window: Window) -> Mapping[tuple[str, str], float]:
        """(model, promise) -> its promised percentile at the end of the window, seconds."""
        known, found = self._known(window.until_s), {}
        asked: dict[tuple[str, float], str] = {}
        for what in _PROMISES:
            for q in sorted({target.objective for slo in (self._book.default, *self._book.models.values())
                             if (target := getattr(slo, what)) is not None}):  # fmt: skip
                asked[what, q] = promqueries.percentile(what, q, promqueries.RATE_S, known)
        answers = self._all(asked, lambda query: self._client.at(query, window.until_s))
        for (what, q), series in answers.items():
            for one in series:
                model = one.labels.get("model_name", "")
                target = getattr(self._book.of(model), what)
                if target is not None and target.objective == q and np.isfinite(one.values[-1]):
                    found[model, what] = float(one.values[-1])
        return found

    # ---- what is no series

    def latencies(self, window: Window, columns: tuple[str, ...] = LATENCIES) -> tuple[pd.DataFrame, int]:
        """Single requests, from the history."""
        if self._history is None:
            return framed([], columns), 1
        return self._history.latencies(window, columns)

    def tenants(self, window: Window) -> pd.DataFrame:
        """Requests by tenant, from the history."""
        return self._history.tenants(window) if self._history else pd.DataFrame()

    def decisions(self, window: Window, changes_only: bool = False, limit: int = 2_000) -> pd.DataFrame:
        """Decisions, from the history."""
        return self._history.decisions(window, changes_only, limit) if self._history else _empty(decisions)

    def plans(self, window: Window, most: int = 1_000) -> pd.DataFrame:
        """Decisions spread over a window, from the history."""
        return self._history.plans(window, most) if self._history else _empty(decisions)

    def last_decisions(self, window: Window) -> pd.DataFrame:
        """The newest decision of each variant, from the history."""
        return self._history.last_decisions(window) if self._history else _empty(decisions)

    def decision(self, number: int) -> pd.DataFrame:
        """One decision, from the history."""
        return self._history.decision(number) if self._history else _empty(decisions)

    def events(self, window: Window, kinds: Sequence[str] = (), limit: int = 2_000) -> pd.DataFrame:
        """Events of the history; alerts as Prometheus has them, where the history has none."""
        found = self._history.events(window, kinds, limit) if self._history else _empty(events)
        if (kinds and "alert" not in kinds) or (found["kind"] == "alert").any():
            return found
        grid = Grid.of(window.since_s, window.until_s, max(60.0, bin_width(window.span_s)))
        firing = promframes.alert_events(self._client.between(promqueries.firing(), grid), grid, self._summaries)
        return pd.concat([found, firing], ignore_index=True) if len(found) else firing

    def evidence(self, window: Window) -> Mapping[str, float | None]:
        """Evidence for the decision trees at the end of a window, by the alerts' own expressions."""
        return dict(Live(self._client.url).evidence(model=window.model, at_s=window.until_s))


def _grids(window: Window, width_s: float) -> list[Grid]:
    """The bins of a window; where they are wide, the one that is not over yet apart, as it is at the window's end."""
    whole = Grid.of(window.since_s, window.until_s, width_s)
    if width_s <= _WIDE_S or whole.last_s >= window.until_s:
        return [whole]
    return [whole, Grid(first_s=window.until_s, last_s=window.until_s, width_s=window.until_s - whole.last_s)]


def _empty(table: Any) -> pd.DataFrame:
    return pd.DataFrame(columns=[column.name for column in table.c])
