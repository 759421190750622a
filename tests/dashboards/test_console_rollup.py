"""Summaries say what the rows say, survive pruning, and begin anew when the promises change."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dashboards.rollup import COUNTS, FINE_S, KEEP_S, LATENCIES, LONG_S, QUICK_S, TIMED, Rollup
from dashboards.source import Reader
from dashboards.window import Window
from fleet.history import History
from fleet.slo import DEFAULT_SLOS, parse_slos
from tests.dashboards import synthetic

NOW_S = 1_790_000_100.0 // 900 * 900
SPAN_S = 3_600.0
SIGNALS = ("vllm:kv_cache_usage_perc", "vllm:num_requests_waiting", "generation_tps", "wva_desired_replicas")


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    url = f"sqlite:///{tmp_path_factory.mktemp('rollup')}/history.sqlite3"
    synthetic.build(url, now_s=NOW_S, span_s=SPAN_S)
    return url


@pytest.fixture(scope="module")
def plain(url: str) -> Reader:
    return Reader(url)


@pytest.fixture(scope="module")
def folded(url: str, tmp_path_factory: pytest.TempPathFactory) -> Reader:
    reader = Reader(url, rollup=Rollup(tmp_path_factory.mktemp("sums") / "console.sqlite3", DEFAULT_SLOS))
    assert reader.rollup is not None
    while reader.rollup.catch_up(reader, NOW_S - 300.0):
        pass
    return reader


@pytest.mark.parametrize("width_s", [10.0, 60.0, 300.0, 900.0])
def test_requests_are_counted_the_same(plain: Reader, folded: Reader, width_s: float) -> None:
    window = Window(since_s=NOW_S - 2_700, until_s=NOW_S)
    ours, theirs = folded.request_bins(window, width_s), plain.request_bins(window, width_s)
    keys = ["bin_s", "model", "variant"]
    columns = [*keys, *COUNTS]
    pd.testing.assert_frame_equal(
        ours.sort_values(keys)[columns].reset_index(drop=True),
        theirs.sort_values(keys)[columns].reset_index(drop=True),
        check_dtype=False,
    )
    assert ours["requests"].sum() > 1_000


@pytest.mark.parametrize("width_s", [10.0, 60.0])
def test_signals_of_variants_are_the_same_bin_by_bin(plain: Reader, folded: Reader, width_s: float) -> None:
    window = Window(since_s=NOW_S - 2_700, until_s=NOW_S)
    keys = ["signal", "variant", "bin_s"]
    ours = folded.variant_bins(window, SIGNALS, width_s).sort_values(keys).reset_index(drop=True)
    theirs = plain.variant_bins(window, SIGNALS, width_s).sort_values(keys).reset_index(drop=True)
    assert len(ours) == len(theirs) > 100
    for name in ("mean", "high", "low"):
        pd.testing.assert_series_equal(ours[name], theirs[name], check_dtype=False)


def test_what_counts_is_added_over_engines_and_what_is_a_share_is_averaged(plain: Reader) -> None:
    window = Window(since_s=NOW_S - 1_900, until_s=NOW_S - 1_600)
    engines = plain.signal_bins(window, SIGNALS, 60.0)
    whole = plain.variant_bins(window, SIGNALS, 60.0).set_index(["bin_s", "signal", "variant"])["mean"]
    grouped = engines.groupby(["bin_s", "signal", "variant"])["mean"]
    for key, value in whole.items():
        expected = grouped.mean()[key] if key[1] == SIGNALS[0] else grouped.sum()[key]
        assert value == pytest.approx(expected)


def test_it_goes_back_as_far_as_the_history_and_then_has_nothing_to_do(folded: Reader) -> None:
    assert folded.rollup is not None
    span = folded.rollup.span()
    assert span is not None
    assert span[0] <= NOW_S - SPAN_S + 60
    assert span[1] == (NOW_S - 320) // 60 * 60
    assert folded.rollup.catch_up(folded, NOW_S - 300.0) == 0


def test_bins_of_ten_seconds_are_kept_for_an_hour_and_heat_maps_read_them(plain: Reader, folded: Reader) -> None:
    assert folded.rollup is not None
    quick, known = folded.rollup.span(QUICK_S), folded.rollup.span()
    assert quick is not None
    assert known is not None
    assert quick[1] == known[1]
    assert known[0] == quick[0] == NOW_S - KEEP_S[QUICK_S], "the history holds an hour"
    window = Window(since_s=NOW_S - 900, until_s=NOW_S)
    ours, theirs = (reader.heat_bins(window, SIGNALS[0], 10.0) for reader in (folded, plain))
    theirs = theirs[theirs["endpoint"].isin(ours["endpoint"])]  # rows tell of engines that have gone, too
    keys = ["variant", "endpoint", "bin_s"]
    pd.testing.assert_frame_equal(
        ours.sort_values(keys)[[*keys, "high"]].reset_index(drop=True),
        theirs.sort_values(keys)[[*keys, "high"]].reset_index(drop=True),
        check_dtype=False,
    )


def test_summaries_stay_when_rows_are_pruned(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/history.sqlite3"
    synthetic.build(url, now_s=NOW_S, span_s=1_800.0)
    reader = Reader(url, rollup=Rollup(tmp_path / "console.sqlite3", DEFAULT_SLOS))
    assert reader.rollup is not None
    while reader.rollup.catch_up(reader, NOW_S):
        pass
    window = Window(since_s=NOW_S - 1_800, until_s=NOW_S - 900)
    before = reader.request_bins(window, 300.0)["requests"].sum()
    History(url).prune(NOW_S - 600)
    assert reader.request_bins(window, 300.0)["requests"].sum() == before > 0


def test_other_promises_begin_anew_and_the_same_ones_do_not(folded: Reader, tmp_path: Path) -> None:
    path = tmp_path / "console.sqlite3"
    first = Rollup(path, DEFAULT_SLOS)
    first.fold(folded, NOW_S - 600, NOW_S - 540)
    assert Rollup(path, DEFAULT_SLOS).span() == (NOW_S - 600, NOW_S - 540)
    other = parse_slos({"default": {"ttft": {"threshold_s": 1.0, "objective": 0.9}}})
    assert Rollup(path, other).span() is None


def test_single_requests_are_an_even_sample(plain: Reader, folded: Reader) -> None:
    window = Window(since_s=NOW_S - 4_000, until_s=NOW_S - 360)
    ours, step = folded.latencies(window)
    theirs, _ = plain.latencies(window)
    assert step >= 2
    assert 100 < len(ours) < len(theirs)
    assert set(ours["variant"]) == set(theirs["variant"])
    assert list(ours.columns) == list(theirs.columns)


# ---- bins of two hours

LONG_FROM_S = 1_790_006_400.0  # a whole number of two hours


class Minutes(Reader):
    """A history that holds five hours of one variant, made up minute by minute."""

    def __init__(self) -> None:
        """There is no database behind it."""

    def to_fold(
        self, since_s: float, until_s: float, width_s: float, per_endpoint: Sequence[str]
    ) -> tuple[pd.DataFrame, pd.DataFrame]:
        times = np.arange(since_s, until_s, width_s)
        value = np.random.default_rng(int(since_s)).uniform(0, 1, len(times))
        name = {"bin_s": times, "model": "m", "variant": "v"}
        parts = [
            pd.DataFrame(
                {**name, "signal": SIGNALS[0], "endpoint": where, "mean": value, "high": 2 * value, "low": -value}
            )
            for where in ("", "http://e")
        ]
        return pd.concat(parts), pd.DataFrame({**name, **{column: np.round(100 * value) for column in COUNTS}})

    def sampled(self, since_s: float, until_s: float, most: int) -> pd.DataFrame:
        times = np.arange(since_s, until_s, 0.5)
        latency = np.random.default_rng(int(since_s)).lognormal(-2, 0.5, len(times))
        return pd.DataFrame({**dict.fromkeys(LATENCIES, latency), "done_s": times, "model": "m", "variant": "v"})


@pytest.fixture(scope="module")
def long_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("long") / "console.sqlite3"
    rollup = Rollup(path, DEFAULT_SLOS)
    for start in np.arange(LONG_FROM_S, LONG_FROM_S + 5 * 3600, 1_800.0):  # piece by piece, as time goes
        rollup.fold(Minutes(), start, start + 1_800.0)
    return path


def in_long_bins(frame: pd.DataFrame, how: dict[str, str]) -> pd.DataFrame:
    return frame.assign(bin_s=frame["bin_s"] // LONG_S * LONG_S).groupby("bin_s", as_index=False).agg(how)


@pytest.mark.parametrize("only", [pytest.param((), id="variants"), pytest.param(("http://e",), id="engines")])
def test_bins_of_two_hours_say_what_their_minutes_say(long_path: Path, only: tuple[str, ...]) -> None:
    rollup, span = Rollup(long_path, DEFAULT_SLOS), (LONG_FROM_S, LONG_FROM_S + 4 * 3600 + 1_260)
    wide, minutes = (rollup.signal_bins(*span, (SIGNALS[0],), width_s, only=only) for width_s in (LONG_S, FINE_S))
    expected = in_long_bins(minutes, {"bin_s": "first", "mean": "mean", "high": "max", "low": "min"}).iloc[:2]
    pd.testing.assert_frame_equal(wide.iloc[:2][["bin_s", "mean", "high", "low"]], expected, check_exact=False)
    assert wide["bin_s"].nunique() == 3, "the last two hours are not over: quarters of an hour and minutes tell of them"
    wide, minutes = (rollup.request_bins(*span, width_s, "") for width_s in (LONG_S, FINE_S))
    sums = {"bin_s": "first", **dict.fromkeys(COUNTS, "sum")}
    pd.testing.assert_frame_equal(in_long_bins(wide, sums), in_long_bins(minutes, sums))


def test_a_file_without_bins_of_two_hours_gets_them_when_it_is_opened(long_path: Path) -> None:
    before = Rollup(long_path, DEFAULT_SLOS).signal_bins(LONG_FROM_S, LONG_FROM_S + 7_200, (SIGNALS[0],), LONG_S)
    with sqlite3.connect(long_path) as db:
        db.execute("DELETE FROM signals WHERE width_s = ?", (LONG_S,))
        db.execute("DELETE FROM request_bins WHERE width_s = ?", (LONG_S,))
        db.execute("DELETE FROM meta WHERE name = 'long'")
    after = Rollup(long_path, DEFAULT_SLOS).signal_bins(LONG_FROM_S, LONG_FROM_S + 7_200, (SIGNALS[0],), LONG_S)
    assert len(after) == 1
    pd.testing.assert_frame_equal(before, after)


@pytest.mark.parametrize("most", [100, 1_000, 20_000])
def test_a_thinner_sample_has_no_fewer_requests_and_the_same_percentiles(long_path: Path, most: int) -> None:
    rollup, span = Rollup(long_path, DEFAULT_SLOS), (LONG_FROM_S, LONG_FROM_S + 5 * 3600)
    rows, step = rollup.latencies(*span, "m", ("v",), most, columns=TIMED)
    assert list(rows.columns) == list(TIMED)
    whole = rollup.latencies(*span, "", (), 10**9)[0]
    assert len(whole) == 36_000
    assert min(most, 18_000) <= len(rows) <= 2 * most
    assert rows["ttft_s"].median() == pytest.approx(whole["ttft_s"].median(), rel=4 * 0.5 * 1.25 / len(rows) ** 0.5)
    assert len(rows) == pytest.approx(len(whole) / step, abs=1)
