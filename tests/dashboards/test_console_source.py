"""What the console reads from a real SQLite history, against the same counted by hand."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from dashboards import queries, scaling, source
from dashboards.source import Reader
from dashboards.window import Window
from fleet.errors import HistoryError
from fleet.history import Event, History, RequestOutcome, RequestRecord, SignalSample
from fleet.slo import parse_slos
from fleet.types import Decision, Direction, Reason

T0 = 1_790_000_000.0
WHOLE = Window(since_s=T0, until_s=T0 + 100)


def request(at_s: float, number: int, **fields: object) -> RequestRecord:
    given: dict[str, object] = {
        "model": "m", "outcome": RequestOutcome.OK, "status": 200, "variant": "v", "endpoint": "http://e",
        "output_tokens": 10, "ttft_s": 0.1, "tpot_s": 0.01, "e2e_s": 1.0,
    }  # fmt: skip
    return RequestRecord(at_s=T0 + at_s, request_id=str(number), **(given | fields))  # type: ignore[arg-type]


def decide(at_s: float, variant: str, direction: Direction, **fields: object) -> Decision:
    given: dict[str, object] = {"model": "m", "accelerator": "h100_sxm", "current": 1, "desired": 2, "detail": "why"}
    return Decision(
        at_s=T0 + at_s, variant=variant, namespace="n", direction=direction, reason=Reason.SATURATED,
        **(given | fields),  # type: ignore[arg-type]
    )  # fmt: skip


@pytest.fixture
def url(tmp_path: Path) -> str:
    found = f"sqlite:///{tmp_path}/h.sqlite3"
    history = History(found)
    history.add([
        request(1, 1), request(2, 2, ttft_s=0.3), request(3, 3, outcome=RequestOutcome.ERROR, status=502),
        request(4, 4, outcome=RequestOutcome.ABORTED), request(9.5, 5), request(12, 6, model="other", variant="w"),
        request(15, 7, ttft_s=None, tpot_s=None, e2e_s=None, outcome=RequestOutcome.REJECTED, variant=""),
    ])  # fmt: skip
    history.add([
        SignalSample(at_s=T0 + s, signal="vllm:kv_cache_usage_perc", value=v, model="m", variant="v", endpoint=e)
        for s, v, e in ((1, 0.2, "a"), (2, 0.4, "a"), (11, 0.6, "a"), (1, 1.0, "b"))
    ])  # fmt: skip
    history.add(
        [decide(1, "v", Direction.HOLD), decide(2, "v", Direction.UP), decide(3, "w", Direction.HOLD, model="other")]
    )
    history.add([Event(at_s=T0 + 5, kind="process", subject="router", message="died", severity="warning")])
    history.close()
    return found


def test_a_request_counts_in_the_bin_in_which_it_finished(url: str):
    bins = Reader(url).request_bins(WHOLE, 10.0)
    of_m = bins[bins["model"] == "m"].groupby("bin_s")["requests"].sum()
    assert of_m.to_dict() == {T0: 4, T0 + 10: 2}


def test_promises_and_outcomes_are_counted_exactly(url: str):
    totals = Reader(url).request_bins(WHOLE, 100.0).query("model == 'm'").sum(numeric_only=True)
    assert (totals["requests"], totals["ok"], totals["error"], totals["aborted"], totals["rejected"]) == (6, 3, 1, 1, 1)
    assert (totals["ttft_n"], totals["ttft_ok"]) == (5, 4)
    assert totals["good"] == 2


def test_each_model_is_judged_by_its_own_promise(url: str):
    book = parse_slos({"models": {"m": {"ttft": {"threshold_s": 0.05}}}})
    bins = Reader(url, book).request_bins(WHOLE, 100.0)
    kept = bins.groupby("model")["ttft_ok"].sum().to_dict()
    assert kept == {"m": 0, "other": 1}


def test_a_withdrawn_promise_is_always_kept(url: str):
    bins = Reader(url, parse_slos({"default": {"ttft": None, "tpot": None}})).request_bins(WHOLE, 100.0)
    assert bins["good"].sum() == bins["ok"].sum()


def test_the_window_cuts_by_the_finish_and_the_model_filters(url: str):
    late = Window(since_s=T0 + 10, until_s=T0 + 20, model="m")
    rows, step = Reader(url).latencies(late)
    assert step == 1
    assert rows["done_s"].tolist() == [T0 + 10.5, T0 + 15]


def test_many_requests_are_sampled_evenly_and_said(url: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(source, "MAX_LATENCIES", 3)
    rows, step = Reader(url).latencies(WHOLE)
    assert step == 3
    assert len(rows) <= 3


def test_signals_by_bin(url: str):
    bins = Reader(url).signal_bins(WHOLE, ["vllm:kv_cache_usage_perc"], 10.0)
    first = bins[(bins["endpoint"] == "a") & (bins["bin_s"] == T0)].iloc[0]
    assert (first["mean"], first["high"], first["low"]) == (pytest.approx(0.3), 0.4, 0.2)
    assert queries.pick(bins, ("no such", "vllm:kv_cache_usage_perc"))["value"].count() == 3


def test_decisions_newest_first_and_the_last_of_each_variant(url: str):
    reader = Reader(url)
    assert reader.decisions(WHOLE)["id"].tolist() == [3, 2, 1]
    assert reader.decisions(WHOLE, True)["direction"].tolist() == ["up"]
    assert reader.last_decisions(WHOLE)["id"].tolist() == [2, 3]
    assert reader.decision(2)["detail"].tolist() == ["why"]
    assert reader.decision(99).empty


def test_models_variants_events_and_ages(url: str):
    reader = Reader(url)
    assert reader.models(WHOLE) == ["m", "other"]
    assert reader.variants(WHOLE)["variant"].tolist() == ["v", "w"]
    assert reader.variants(Window(since_s=T0, until_s=T0 + 100, model="m"))["variant"].tolist() == ["v"]
    assert reader.events(WHOLE, ("process",))["message"].tolist() == ["died"]
    assert reader.newest_s(T0 + 100) == T0 + 15
    assert reader.newest_s(T0 + 2.5) == T0 + 2
    assert reader.newest_s(T0 - 1) is None
    assert reader.newest_of(WHOLE, "decisions") == T0 + 3
    assert reader.signal_names(WHOLE, "vllm:") == ["vllm:kv_cache_usage_perc"]
    assert reader.signal_names(WHOLE, "DCGM_") == []


def test_an_empty_history_gives_tables_with_columns(empty_history: str):
    reader = Reader(empty_history)
    assert reader.newest_s(T0) is None
    assert "good" in reader.request_bins(WHOLE, 10.0).columns
    assert reader.latencies(WHOLE)[0].empty
    assert reader.models(WHOLE) == []
    assert reader.variants(WHOLE).empty


def test_a_missing_file_is_said_and_not_made(missing_history: str):
    with pytest.raises(HistoryError, match="there is no history yet"):
        Reader(missing_history)
    assert not Path(missing_history.removeprefix("sqlite:///")).exists()


def test_a_file_that_is_no_database_is_said(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("not a database, however long this text may be" * 50)
    with pytest.raises(HistoryError, match="cannot be opened"):
        Reader(f"sqlite:///{tmp_path}/notes.txt")


def test_what_clients_do_wrong_breaks_no_promise_and_names_no_model(tmp_path: Path):
    url = f"sqlite:///{tmp_path}/c.sqlite3"
    history = History(url)
    wrong = {"outcome": RequestOutcome.ERROR, "ttft_s": None}
    unknown = {"model": "typo", "outcome": RequestOutcome.REJECTED, "variant": "", "status": 404, "ttft_s": None}
    history.add([request(1, 1, status=200), request(2, 2, **wrong, status=400), request(3, 3, **wrong, status=502),
                 request(4, 4, **unknown), request(5, 5, **(unknown | {"model": "down", "status": 503}))])  # fmt: skip
    history.close()
    reader = Reader(url)
    bins = reader.request_bins(WHOLE, 100.0)
    own = bins[bins["model"] == "m"]
    assert own[["requests", "ok", "error", "aborted"]].to_numpy().tolist() == [[3, 1, 1, 1]]
    assert queries.success_rate(own) == 0.5
    assert queries.success_rate(bins[bins["model"] == "typo"]) is None
    assert reader.models(WHOLE) == ["down", "m"]


def test_what_a_variant_bears_stands_until_it_decides_again():
    """A decision that stays the same is written every half a minute; the chart has finer bins."""
    row = {"model": "m", "capacity_rps": 5.0, "lead_s": 0.0, "demand_rps": 1.0, "forecast_rps": 1.0,
           "forecast_p90_rps": 1.0}  # fmt: skip
    steady = [{**row, "bin_s": T0 + at_s, "variant": "steady", "current": 2} for at_s in (0.0, 30.0)]
    moving = [{**row, "bin_s": T0 + at_s, "variant": "moving", "current": at_s // 10} for at_s in range(0, 150, 10)]
    plan = scaling.planned_load(pd.DataFrame([*steady, *moving]), width_s=10.0).set_index("bin_s")["capacity"]
    assert [plan[T0 + at_s] for at_s in (0, 10, 20, 90)] == [10.0, 15.0, 20.0, 55.0]
    assert plan[T0 + 100.0] == 50.0, "a minute after its last word a variant counts no more"


def test_the_made_up_evening_rises_falls_and_is_answered_from_the_database(filled_history: str, filled_until_s: float):
    reader = Reader(filled_history)
    window = Window(since_s=filled_until_s - 900, until_s=filled_until_s)
    bins = reader.request_bins(window, 10.0)
    rows, _ = reader.latencies(window)
    assert bins["requests"].sum() == len(rows)
    moves = scaling.scalings(reader.decisions(window, True))
    assert {"up", "down"} <= set(moves["direction"])
    assert isinstance(rows, pd.DataFrame)


def test_tenants_are_told_apart_and_narrowed_like_everything_else(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/t.sqlite3"
    history = History(url)
    history.add([request(n, n, tenant="big") for n in range(1, 7)])
    history.add([request(7, 7, tenant="small", ttft_s=0.5), request(8, 8, tenant="small", variant="w")])
    history.close()
    reader = Reader(url)
    rows = reader.tenants(WHOLE).set_index("tenant")
    assert rows["requests"].to_dict() == {"big": 6, "small": 2}
    assert rows["ttft_ok"].to_dict() == {"big": 6, "small": 1}
    narrow = reader.tenants(Window(since_s=T0, until_s=T0 + 100, variants=("w",)))
    assert narrow[["tenant", "requests"]].to_numpy().tolist() == [["small", 1]]


def test_variants_narrow_requests_samples_and_decisions(url: str) -> None:
    reader = Reader(url)
    only_w = Window(since_s=T0, until_s=T0 + 100, variants=("w",))
    assert set(reader.request_bins(only_w, 10.0)["variant"]) == {"w"}
    assert reader.signal_bins(only_w, ["vllm:kv_cache_usage_perc"], 10.0).empty
    assert set(reader.latencies(only_w)[0]["variant"]) == {"w"}
    assert reader.variants(only_w)["variant"].tolist() == ["w"]


def test_a_full_cache_counts_in_the_window_in_which_it_was_seen(tmp_path: Path) -> None:
    """Also where the minute of that sample began before the window."""
    url, end = f"sqlite:///{tmp_path}/kv.sqlite3", T0 // 60 * 60 + 3_630.0
    history = History(url)
    samples = [(end - 900, 0.95), (end - 310, 0.2), (end - 290, 0.9), (end - 30, 0.5)]
    history.add([
        SignalSample(at_s=at, signal="vllm:kv_cache_usage_perc", value=value, model="m", variant="v", endpoint="http://e")
        for at, value in samples
    ])  # fmt: skip
    history.close()
    assert Reader(url).evidence(Window(since_s=end - 3_600, until_s=end))["kv_max"] == 0.9
