"""What a page is looking at: time range, live or not, model, namespace, variant; kept in the URL on every page."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, tzinfo
from typing import Any, Concatenate, Final, ParamSpec, TypeVar
from urllib.parse import urlencode
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import pandas as pd
import streamlit as st

from dashboards import data
from dashboards.charts import Band, TimeAxis, colours
from dashboards.queries import alert_spells, bin_starts, bin_width
from dashboards.rollup import TIMED
from dashboards.scaling import scalings
from dashboards.source import Reader
from dashboards.timing import PACE
from dashboards.window import Window
from fleet.errors import HistoryError, SourceError

P = ParamSpec("P")
R = TypeVar("R")

RANGES: Final[Mapping[str, float]] = {"5m": 300.0, "15m": 900.0, "1h": 3600.0, "6h": 21_600.0, "24h": 86_400.0,
                                              "7d": 604_800.0}  # fmt: skip
RANGE_WORDS: Final = {"5m": "5 min", "15m": "15 min", "1h": "1 h", "6h": "6 h", "24h": "24 h", "7d": "7 d"}
DEFAULT_RANGE: Final = "15m"
FILTERS: Final = ("model", "namespace", "variant")
"""What pages can be narrowed to; empty: all."""
NONE_SUCH: Final = "\0"
"""Stands for the variants of a filter that nothing passes: no variant is called so."""
FEW_ENGINES: Final = 24
"""From more engines on, charts read what each variant's engines did together."""
BY_VARIANT_FROM_S: Final = 6 * 3600.0
_NAMES_S: Final = 10.0
ALERT_LOOKBACK_S: Final = 6 * 3600.0
"""An alert that still fires may have begun this long before the window."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a viewer wants to see: equal for viewers who can share a page."""

    range_key: str
    at_s: float | None
    """End of the window; None: now, live."""
    zone: tzinfo
    model: str = ""
    namespace: str = ""
    variant: str = ""

    def until_s(self, now_s: float) -> float:
        """End of the window: the chosen moment, or now, cut to a tick so that viewers share answers."""
        tick = tick_s(self.range_key)
        return self.at_s if self.at_s is not None else (now_s // tick) * tick

    def address(self) -> dict[str, str]:
        """As it stands in the URL; what is not chosen is empty."""
        moment = "" if self.at_s is None else f"{self.at_s:.0f}"
        return {"range": self.range_key, **{name: getattr(self, name) for name in FILTERS}, "at": moment}


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """One look at the fleet, the same for everything drawn in one refresh and for all who asked for it."""

    now_s: float
    asked: Asked
    window: Window
    width_s: float
    """Bin width of the charts, seconds."""
    variants: pd.DataFrame
    palette: Mapping[str, str]
    newest_s: float | None
    _read: dict[Any, Any] = field(init=False, default_factory=dict, repr=False, compare=False)

    @property
    def live(self) -> bool:
        """Whether the window moves with the time."""
        return self.asked.at_s is None

    @property
    def zone(self) -> tzinfo:
        """The viewers' time zone."""
        return self.asked.zone

    def link(self, page: str, **parameters: str) -> str:
        """Address of a page with the present range, filters and moment."""
        kept = self.asked.address() | parameters
        return f"{page}?{urlencode({name: value for name, value in kept.items() if value})}"

    @property
    def axis(self) -> TimeAxis:
        """The time axis of every chart on the page."""
        anchor = "live" if self.live else f"{self.window.until_s:.0f}"
        return TimeAxis(
            since_s=self.window.since_s,
            until_s=self.window.until_s,
            zone=self.zone,
            revision=f"{self.asked.range_key} {self.window.model} {','.join(self.window.variants)} {anchor}",
        )

    def read(
        self, method: Callable[Concatenate[Reader, Window, P], R], window: Window, *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """As :func:`dashboards.data.read`, and once for the whole page. Answers are shared: they are not changed."""
        key = (method.__name__, window, args)
        if key not in self._read:
            self._read[key] = data.read(method, window, *args, **kwargs)
        answer: R = self._read[key]
        return answer

    @property
    def starts(self) -> Any:
        """Starts of the bins."""
        return bin_starts(self.window.since_s, self.window.until_s, self.width_s)

    def request_bins(self) -> pd.DataFrame:
        """Requests by bin, model and variant."""
        return self.read(Reader.request_bins, self.window, self.width_s)

    def requests_before(self) -> pd.DataFrame:
        """Totals of the stretch of the same length just before."""
        span = self.window.span_s
        step = max(30.0, span / 30)  # ticks in a row compare with the same stretch
        end = self.window.since_s // step * step
        return self.read(Reader.request_bins, self.window.over(end - span, end), span)

    def newest_latencies(self, span_s: float) -> pd.DataFrame:
        """Single requests of the newest so many seconds."""
        recent = self.window.over(self.window.until_s - span_s, self.window.until_s)
        return self.read(Reader.latencies, recent, TIMED)[0]

    def latencies(self) -> tuple[pd.DataFrame, int]:
        """Single requests, and the sampling step."""
        return self.read(Reader.latencies, self.window)

    def percentiles(self, what: str, *quantiles: float) -> tuple[pd.DataFrame, pd.DataFrame, int]:
        """Percentiles of a latency by bin, of all requests and by variant; the sampling step, 0: from buckets."""
        return self.read(Reader.percentile_bins, self.window, self.width_s, quantiles)[what]

    def percentiles_now(self) -> Mapping[tuple[str, str], float]:
        """(model, promise) -> promised percentile, where there are no single requests to tell."""
        return self.read(Reader.percentiles_now, self.window)

    def signals(self, *names: str) -> pd.DataFrame:
        """Signals by bin and series: engine by engine in a small fleet, variant by variant in a large one."""
        many = self.window.span_s >= BY_VARIANT_FROM_S or self.engines() > FEW_ENGINES
        return self.read(Reader.variant_bins if many else Reader.signal_bins, self.window, names, self.width_s)

    def engines(self) -> int:
        """How many engines were sampled in the newest minute."""
        return self.read(Reader.engines, self.window)

    def heat(self, name: str) -> pd.DataFrame:
        """One signal engine by engine, the worst ones only."""
        return self.read(Reader.heat_bins, self.window, name, self.width_s)

    def moves(self) -> pd.DataFrame:
        """Decisions that changed replicas, newest first."""
        return self.read(Reader.decisions, self.window, True, 500)

    def scalings(self) -> pd.DataFrame:
        """Decisions that changed replicas, the first of each stretch, oldest first."""
        if "scalings" not in self._read:
            self._read["scalings"] = scalings(self.moves())
        found: pd.DataFrame = self._read["scalings"]
        return found

    def spells(self) -> pd.DataFrame:
        """Alerts, firing and resolved; one that began before the window but fires is among them."""
        if "spells" not in self._read:
            self._read["spells"] = self._spells()
        found: pd.DataFrame = self._read["spells"]
        return found

    def _spells(self) -> pd.DataFrame:
        wide = Window(
            since_s=min(self.window.since_s, self.window.until_s - ALERT_LOOKBACK_S), until_s=self.window.until_s
        )
        events = self.read(Reader.events, wide, ("alert",))
        spells = alert_spells(events, until_s=self.window.until_s)
        return spells[spells["to_s"].isna() | (spells["to_s"] >= self.window.since_s)]

    def alert_bands(self) -> list[Band]:
        """Alerts as shaded stretches of the charts."""
        return [
            Band(from_s=row["from_s"], to_s=row["to_s"], severe=row["severity"] == "critical")
            for row in self.spells().fillna({"to_s": self.window.until_s}).to_dict("records")
        ]

    @property
    def age_s(self) -> float | None:
        """Age of the newest row."""
        return None if self.newest_s is None else max(0.0, self.now_s - self.newest_s)


def tick_s(range_key: str) -> float:
    """Time between refreshes: long ranges move slowly and cost more, and many viewers make all of them rarer.

    >>> tick_s("24h")
    48.0
    """
    return PACE.times * max(data.settings().refresh_s, RANGES[range_key] / 1800)


def viewer_zone() -> tzinfo:
    """The browser's time zone; UTC where it does not say."""
    try:
        return ZoneInfo(st.context.timezone or "UTC")
    except (ZoneInfoNotFoundError, ValueError):
        return UTC


def restore() -> None:
    """Take range, filters and moment from the URL when the session starts."""
    state, query = st.session_state, st.query_params
    if "range" not in state:
        state["range"] = query.get("range") if query.get("range") in RANGES else DEFAULT_RANGE
        for name in FILTERS:
            state[name] = query.get(name, "")
        state["at"] = _moment(query.get("at"))
        state["live"] = state["at"] is None


def _moment(text: str | None) -> float | None:
    try:
        moment = float(text) if text else 0.0
    except ValueError:
        return None
    return moment if 0 < moment < 1e11 else None


def asked() -> Asked:
    """What the viewer of this session wants to see."""
    state = st.session_state
    return Asked(
        range_key=state["range"], at_s=state["at"], zone=viewer_zone(), **{name: state[name] for name in FILTERS}
    )


def remember() -> None:
    """Put range, filters and moment into the URL, so that it can be sent to someone; other parameters stay."""
    for name, value in asked().address().items():
        if value and st.query_params.get(name) != value:
            st.query_params[name] = value
        elif not value and name in st.query_params:
            del st.query_params[name]


def look(wanted: Asked, now_s: float) -> View:
    """What is asked for, as it is now.

    Raises: HistoryError when there is no history.
    """
    end = wanted.until_s(now_s)
    known = _known_variants(end)
    shown = _passing(known, wanted, FILTERS)
    variants = tuple(sorted(shown["variant"])) or (NONE_SUCH,) if wanted.namespace or wanted.variant else ()
    window = Window(since_s=end - RANGES[wanted.range_key], until_s=end, model=wanted.model, variants=variants)
    return View(
        now_s=now_s,
        asked=wanted,
        window=window,
        width_s=bin_width(window.span_s, points=60 if 3600 <= window.span_s < 7200 else 120),
        variants=shown,
        palette=colours(known["variant"]),
        newest_s=data.newest_s(end),
    )


def _known_variants(end_s: float) -> pd.DataFrame:
    """Variants of the last day, whatever the filters say; asked for anew every ten seconds."""
    end_s = -(-end_s // _NAMES_S) * _NAMES_S
    found: pd.DataFrame = data.read(Reader.variants, Window(since_s=end_s - RANGES["24h"], until_s=end_s))
    return found


def _passing(known: pd.DataFrame, wanted: Asked, filters: tuple[str, ...]) -> pd.DataFrame:
    """Variants that pass some of the filters."""
    for name in filters:
        if value := getattr(wanted, name):
            known = known[known[name] == value]
    return known


def known_models(until_s: float) -> list[str]:
    """Models to choose from at a moment; none while there is no history."""
    end = -(-until_s // _NAMES_S) * _NAMES_S
    try:
        found: list[str] = data.models(end - RANGES["24h"], end)
    except (HistoryError, SourceError):
        return []
    return found


def choices(name: str) -> list[str]:
    """Namespaces or variants to choose from under the wider filters, and what the address asks for."""
    wanted = asked()
    try:
        known = _passing(_known_variants(wanted.until_s(time.time())), wanted, FILTERS[: FILTERS.index(name)])
    except (HistoryError, SourceError):
        known = pd.DataFrame(columns=list(FILTERS))
    return sorted({*known[name], getattr(wanted, name)} - {""})
