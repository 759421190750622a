"""What the console reads from the history by bin: bounded, aggregated in the database or from summaries, never written.

Every answer is a pandas frame. A request counts in the bin in which it finished, as a Prometheus histogram has it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import sqlalchemy as sa

from dashboards import diagnosis
from dashboards.binned import Bins
from dashboards.queries import bin_starts, joined, percentiles
from dashboards.queries import thinned as queries_thinned
from dashboards.rollup import FINE_S, LATENCIES, PER_ENDPOINT, TIMED, Rollup, level_of
from dashboards.rows import Rows, newest_of_each
from dashboards.window import (
    ADDED,
    CLIENTS_FAULT,
    DONE,
    LATENCY_COLUMNS,
    MAX_BINS,
    MAX_LATENCIES,
    ROLLED_FROM_S,
    Window,
    chosen,
    counts,
    finished,
    within,
)
from fleet.history.schema import decisions, requests, samples
from fleet.slo import DEFAULT_SLOS, SloBook


class Reader(Rows):
    """Reads one history by bin, what is over from the console's summaries where there are some.

    Raises: HistoryError when there is none yet (``where`` is the file) or it cannot be read.
    """

    def __init__(self, url: str, slos: SloBook = DEFAULT_SLOS, rollup: Rollup | None = None) -> None:
        super().__init__(url, slos)
        self.rollup = rollup
        self._bins = Bins()

    def models(self, window: Window) -> list[str]:
        """Models that were decided on, or asked for, in the window; not the names that only clients know."""
        names: set[str] = set()
        recent = self._recent(window)
        if self.rollup is not None and recent is not window:
            names |= self.rollup.models(window.since_s, window.until_s)
        for table, part in ((decisions, window), (requests, recent)):
            query = sa.select(table.c.model).where(within(table.c.at_s, part)).distinct().limit(200)
            if table is requests:
                query = query.where(sa.not_(CLIENTS_FAULT))
            names |= set(self._frame(query)["model"])
        return sorted(names - {""})

    def _recent(self, window: Window) -> Window:
        """The part of a window for which single requests must be looked at: all of it without summaries."""
        span = None if self.rollup is None else self.rollup.span()
        if span is None or span[1] <= window.since_s or span[0] > window.since_s + 900.0:
            return window
        return Window(since_s=max(window.since_s, min(span[1], window.until_s) - 900.0), until_s=window.until_s)

    def variants(self, window: Window) -> pd.DataFrame:
        """Variants with model, accelerator and namespace, as the newest decisions and the requests name them."""
        named = (decisions.c.variant, decisions.c.model, decisions.c.accelerator, decisions.c.namespace)
        decided = sa.select(*named, decisions.c.at_s).where(decisions.c.id.in_(newest_of_each(window)))
        table = self._frame(decided)
        recent = self._recent(window)
        served = sa.select(requests.c.variant, requests.c.model).where(within(requests.c.at_s, recent)).distinct()
        rows = self._frame(served.where(requests.c.variant != "").limit(200))
        if self.rollup is not None and recent is not window:
            older = self.rollup.variants(window.since_s, window.until_s)
            rows = pd.concat([rows, older[older["variant"] != ""]], ignore_index=True).drop_duplicates()
        rows = rows.assign(accelerator="", namespace="", at_s=0.0)
        both = pd.concat([table, rows[~rows["variant"].isin(table["variant"])]], ignore_index=True)
        both = both.sort_values("at_s").drop_duplicates("variant", keep="last").sort_values("variant")
        return only(both, window)

    def request_bins(self, window: Window, width_s: float) -> pd.DataFrame:
        """Requests by bin, model and variant: outcomes, tokens, and how many kept each promise. Exact."""
        known = self._rolled(window, width_s)
        if known is None or self.rollup is None:
            return self._request_bins(window, width_s)
        low, high = known
        parts = [only(self.rollup.request_bins(low, high, width_s, window.model), window)]
        parts += [
            self._request_bins(window.over(start, end), width_s)
            for start, end in ((window.since_s, low), (high, window.until_s)) if start < end
        ]  # fmt: skip
        both = joined(parts)
        return both.groupby(["bin_s", "model", "variant"], as_index=False).sum() if len(both) else both

    def _request_bins(self, window: Window, width_s: float) -> pd.DataFrame:
        return self._bins.read(
            ("requests", width_s, window.model, window.variants), window.since_s, window.until_s, width_s,
            lambda since_s, until_s: self._requests_of(window.over(since_s, until_s), width_s),
        )  # fmt: skip

    def _requests_of(self, window: Window, width_s: float) -> pd.DataFrame:
        bin_s = self._bin(DONE, width_s).label("bin_s")
        query = sa.select(bin_s, requests.c.model, requests.c.variant, *counts(self._slos))
        query = chosen(query.where(*finished(window)), requests, window)
        query = query.group_by(bin_s, requests.c.model, requests.c.variant).limit(MAX_BINS * 100)
        return self._frame(query)

    def latencies(self, window: Window, columns: tuple[str, ...] = LATENCIES) -> tuple[pd.DataFrame, int]:
        """Single requests with their latencies, and the step of the systematic sample (1: all of them)."""
        known = self._rolled(window, FINE_S) if window.span_s >= ROLLED_FROM_S else None
        if known is None or self.rollup is None:
            return self._latencies(window, columns)
        half = MAX_LATENCIES // 2
        older, step = self.rollup.latencies(
            window.since_s, known[1], window.model, window.variants, half, columns=columns
        )
        newer, _ = self._latencies(window.over(known[1], window.until_s), columns)
        return joined([older, queries_thinned(newer, MAX_LATENCIES // 4)]), max(2, step)

    def percentile_bins(
        self, window: Window, width_s: float, quantiles: tuple[float, ...]
    ) -> dict[str, tuple[pd.DataFrame, pd.DataFrame, int]]:
        """Percentiles of each latency (``ttft``, ``tpot``, ``e2e``) by bin: of all requests, and by variant.

        Returns: both frames as :func:`dashboards.queries.percentiles` has them, and the step of the sample behind
            them (1: every request; 0: they are read from histogram buckets).
        """
        rows, step = self.latencies(window, TIMED)
        starts = bin_starts(window.since_s, window.until_s, width_s)
        span: dict[str, Any] = {"starts": starts, "width_s": width_s, "quantiles": quantiles}
        return {
            what: (
                percentiles(rows, f"{what}_s", **span),
                percentiles(rows, f"{what}_s", by=("variant",), **span),
                step,
            )
            for what in ("ttft", "tpot", "e2e")
        }

    def percentiles_now(self, window: Window) -> Mapping[tuple[str, str], float]:
        """(model, promise) -> promised percentile, for sources without single requests; here: none."""
        return {}

    def evidence(self, window: Window) -> Mapping[str, float | None]:
        """Evidence for the decision trees at the end of a window."""
        return dict(diagnosis.evidence(self.history, window))

    def _latencies(self, window: Window, columns: tuple[str, ...] = LATENCIES) -> tuple[pd.DataFrame, int]:
        counted: sa.Select[Any] = sa.select(sa.func.count().label("n")).where(*finished(window))
        count = int(self._frame(chosen(counted, requests, window))["n"].iloc[0])
        step = max(1, -(-count // MAX_LATENCIES))
        asked = [DONE.label("done_s"), *(column for column in LATENCY_COLUMNS if column.name in columns)]
        query: sa.Select[Any] = sa.select(*asked).where(*finished(window))
        if step > 1:
            query = query.where(requests.c.id % step == 0)
        query = chosen(query, requests, window).order_by(sa.text("done_s")).limit(2 * MAX_LATENCIES)
        return self._frame(query), step

    def signal_bins(self, window: Window, names: Sequence[str], width_s: float) -> pd.DataFrame:
        """Signals by bin and series: mean, highest, lowest."""
        return self._bins.read(
            ("series", tuple(names), width_s, window.model, window.variants), window.since_s, window.until_s, width_s,
            lambda since_s, until_s: self._series_of(window.over(since_s, until_s), names, width_s),
        )  # fmt: skip

    def _series_of(self, window: Window, names: Sequence[str], width_s: float) -> pd.DataFrame:
        bin_s = self._bin(samples.c.at_s, width_s).label("bin_s")
        series = (samples.c.signal, samples.c.model, samples.c.variant, samples.c.endpoint)
        value = samples.c.value
        spread = (sa.func.avg(value).label("mean"), sa.func.max(value).label("high"), sa.func.min(value).label("low"))
        query: sa.Select[Any] = sa.select(bin_s, *series, *spread)
        query = query.where(samples.c.signal.in_(names), within(samples.c.at_s, window))
        query = chosen(query, samples, window, shared=True)
        return self._frame(query.group_by(bin_s, *series).limit(MAX_BINS * 2_000))

    def variant_bins(self, window: Window, names: Sequence[str], width_s: float) -> pd.DataFrame:
        """Signals by bin and variant: engines summed where a signal counts, averaged where it is a share."""
        names = tuple(names)
        known = self._rolled(window, width_s)
        if known is None:
            return self._variant_bins(window, names, width_s)
        low, high = known
        parts = [self.rollup.signal_bins(low, high, names, width_s)] if self.rollup else []
        for start, end in ((window.since_s, low), (high, window.until_s)):
            if start < end:
                parts.append(self._variant_bins(window.over(start, end), names, width_s))
        both = only(joined(parts), window, shared=True)
        if both.empty:
            return both
        keys = ["bin_s", "signal", "model", "variant", "endpoint"]
        return both.groupby(keys, as_index=False).agg(mean=("mean", "mean"), high=("high", "max"), low=("low", "min"))

    def _variant_bins(self, window: Window, names: tuple[str, ...], width_s: float) -> pd.DataFrame:
        return self._bins.read(
            ("variants", names, width_s, window.model, window.variants), window.since_s, window.until_s, width_s,
            lambda since_s, until_s: self._variants_of(window.over(since_s, until_s), names, width_s),
        )  # fmt: skip

    def _variants_of(self, window: Window, names: tuple[str, ...], width_s: float) -> pd.DataFrame:
        bin_s = self._bin(samples.c.at_s, width_s).label("bin_s")
        series = (samples.c.signal, samples.c.variant, samples.c.endpoint)
        value, model = samples.c.value, sa.func.min(samples.c.model).label("model")
        inner = sa.select(bin_s, *series, model, sa.func.avg(value).label("mean"),
                          sa.func.max(value).label("high"), sa.func.min(value).label("low"))  # fmt: skip
        inner = inner.where(samples.c.signal.in_(names), within(samples.c.at_s, window))
        inner = chosen(inner, samples, window, shared=True)
        each = inner.group_by(bin_s, *series).subquery()
        counts = each.c.signal.in_(ADDED)
        whole = sa.case((counts, sa.func.sum(each.c.mean)), else_=sa.func.avg(each.c.mean)).label("mean")
        query: sa.Select[Any] = sa.select(
            each.c.bin_s, each.c.signal, each.c.model, each.c.variant, sa.literal("").label("endpoint"), whole,
            sa.func.max(each.c.high).label("high"), sa.func.min(each.c.low).label("low"),
        )  # fmt: skip
        query = query.group_by(each.c.bin_s, each.c.signal, each.c.model, each.c.variant)
        return self._frame(query.limit(MAX_BINS * 2_000))

    def engines(self, window: Window) -> int:
        """How many engines were sampled in the newest minute of a window."""
        newest = Window(since_s=max(window.since_s, window.until_s - 90.0), until_s=window.until_s)
        query = sa.select(sa.func.count(sa.distinct(samples.c.endpoint)).label("n")).where(
            samples.c.signal == "vllm:kv_cache_usage_perc", within(samples.c.at_s, newest)
        )
        return int(self._frame(query)["n"].iloc[0])

    def heat_bins(self, window: Window, name: str, width_s: float, most: int = 40) -> pd.DataFrame:
        """One signal engine by engine, those with the highest values only."""
        known = self._rolled(window, width_s) if name in PER_ENDPOINT else None
        if known is None or self.rollup is None:
            frame = self.signal_bins(window, (name,), width_s)
        else:
            low, high = known
            worst = self.rollup.worst(max(low, high - 6 * width_s), high, name, window, most)
            tail = self.signal_bins(window.over(high, window.until_s), (name,), width_s)
            parts = [self.rollup.signal_bins(low, high, (name,), width_s, only=worst)] if worst else []
            frame = only(joined([*parts, tail]), window)
            if worst:
                return frame[frame["endpoint"].isin(worst)].reset_index(drop=True)
        if frame.empty or frame["endpoint"].nunique() <= most:
            return frame
        recent = frame[frame["bin_s"] >= frame["bin_s"].max() - 6 * width_s]
        worst = recent.groupby("endpoint")["high"].mean().nlargest(most).index
        return frame[frame["endpoint"].isin(worst)]

    def to_fold(
        self, since_s: float, until_s: float, width_s: float, per_endpoint: Sequence[str]
    ) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Signals and requests of [since, until) by bin, read for :class:`dashboards.rollup.Rollup`."""
        window = Window(since_s=since_s, until_s=until_s)
        known = self._frame(sa.select(samples.c.signal).where(within(samples.c.at_s, window)).distinct())["signal"]
        names = tuple(sorted(known))
        both = [self._variant_bins(window, names, width_s), self.signal_bins(window, per_endpoint, width_s)]
        signals = joined(both).drop_duplicates(["bin_s", "signal", "model", "variant", "endpoint"])
        return signals, self._request_bins(window, width_s)

    def sampled(self, since_s: float, until_s: float, most: int) -> pd.DataFrame:
        """Some single requests of [since, until), at most so many of each variant, drawn at random."""
        single = self._latencies(Window(since_s=since_s, until_s=until_s))[0]
        if single.empty:
            return single
        order = single.sample(frac=1.0, random_state=int(since_s) % 2**31)
        return order.groupby("variant", sort=False).head(most).sort_values("done_s")

    def _rolled(self, window: Window, width_s: float) -> tuple[float, float] | None:
        """The part of a window that the summaries hold in bins of ``width_s``; None: read the rows themselves."""
        level = level_of(width_s)
        if self.rollup is None or level is None or (span := self.rollup.span(level)) is None:
            return None
        low = max(window.since_s // width_s * width_s, -(-span[0] // width_s) * width_s)
        step = min(level, FINE_S)
        high = min(span[1], window.until_s // step * step)
        if high <= low:
            return None
        return low, high


def only(frame: pd.DataFrame, window: Window, *, shared: bool = False) -> pd.DataFrame:
    """Rows of the window's model and variants; ``shared``: and those that belong to none."""
    for column, names in (("model", [window.model] if window.model else []), ("variant", list(window.variants))):
        if names:
            frame = frame[frame[column].isin(["", *names] if shared else names)]
    return frame
