"""The algebra over a window in memory, and what it rests on."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alerts.algebra import Absent, Agg, Binary, Expr, Now, Number, Over, Quantile, Select, any_of, both, vector
from alerts.functions import bucket_quantile, increase
from alerts.ingest import Ingest, Target
from alerts.store import LOOKBACK_S, SeriesStore, labels_of, matches
from alerts.text import as_template, as_text
from fleet import signals as s
from fleet.sources.exposition import Point

A, B = labels_of({"pod": "a", "model_name": "m"}), labels_of({"pod": "b", "model_name": "m"})


def store_of(**values: float) -> SeriesStore:
    """The queue of pods by name, at time 100."""
    store = SeriesStore()
    for pod, value in values.items():
        store.append(s.WAITING.name, labels_of({"pod": pod, "model_name": "m"}), 100.0, value)
        store.append(s.RUNNING.name, labels_of({"pod": pod, "model_name": "m"}), 100.0, 2.0)
    return store


WAITING, RUNNING = Select(s.WAITING), Select(s.RUNNING)


@pytest.mark.parametrize(
    ("expr", "expected"),
    [
        pytest.param(WAITING > 3, {B: 7.0}, id="a comparison filters and keeps the value"),
        pytest.param(WAITING.matching("<=", 3.0), {A: 3.0}, id="at most"),
        pytest.param(WAITING / RUNNING, {A: 1.5, B: 3.5}, id="vectors match on their labels"),
        pytest.param(WAITING / (RUNNING > 5), {}, id="a filtered denominator takes its rows along"),
        pytest.param(WAITING.by("model_name"), {(("model_name", "m"),): 10.0}, id="sum by"),
        pytest.param(Agg("count", WAITING), {(): 2.0}, id="count of all"),
        pytest.param(Agg("max", WAITING, ("model_name",)), {(("model_name", "m"),): 7.0}, id="max by"),
        pytest.param(both(WAITING, WAITING > 3, "pod"), {B: 7.0}, id="and on"),
        pytest.param(WAITING.unless(WAITING > 3, "pod"), {A: 3.0}, id="unless on"),
        pytest.param(any_of(WAITING > 3, RUNNING), {B: 7.0, A: 2.0}, id="or fills in what the left lacks"),
        pytest.param(Absent(WAITING), {}, id="absent of something is nothing"),
        pytest.param(Absent(Select(s.GPU_TEMP)), {(): 1.0}, id="absent of nothing is one"),
        pytest.param(Now() - WAITING, {A: 97.0, B: 93.0}, id="time minus a vector"),
        pytest.param(Number(1) - Number(3) / Number(2) + WAITING, {A: 2.5, B: 6.5}, id="scalars"),
        pytest.param(Select(s.WAITING, (("pod", "~a|c"),)), {A: 3.0}, id="a regular expression"),
        pytest.param(Select(s.WAITING, (("pod", "!~a|c"),)), {B: 7.0}, id="its opposite"),
        pytest.param(Select(s.WAITING, (("pod", "!=a"),)), {B: 7.0}, id="not equal"),
        pytest.param(Select(s.WAITING, (("server", ""),)), {A: 3.0, B: 7.0}, id="a missing label is empty"),
    ],
)
def test_evaluation(expr: Expr, expected: dict) -> None:
    assert vector(expr, store_of(a=3.0, b=7.0), 100.0) == expected


def test_several_matches_are_refused_as_prometheus_refuses_them() -> None:
    clash = WAITING.matching("/", RUNNING, "model_name")
    with pytest.raises(ValueError, match="several series match"):
        clash.evaluate(store_of(a=1.0, b=1.0), 100.0)


def test_a_scalar_is_no_vector() -> None:
    with pytest.raises(ValueError, match="a scalar where a vector"):
        vector(Number(1.0), SeriesStore(), 0.0)


def test_scaling_touches_windows_and_offsets_and_nothing_else() -> None:
    expr = Over("rate", s.PREEMPTIONS, 300).by("pod") > 5
    assert expr.scaled(0.1).promql() == "sum by (pod) (rate(vllm:num_preemptions_total[30s])) > 5"
    assert Select(s.RUNNING, offset_s=900).scaled(0.1).promql().endswith("offset 90s")


@pytest.mark.parametrize(
    ("expr", "promql"),
    [
        pytest.param((WAITING + RUNNING) * 2, "(vllm:num_requests_waiting + vllm:num_requests_running) * 2",
                     id="groups"),
        pytest.param(any_of(WAITING, RUNNING, WAITING), "vllm:num_requests_waiting or vllm:num_requests_running or "
                     "vllm:num_requests_waiting", id="a chain of or is flat"),
        pytest.param(WAITING.matching("==", RUNNING, "pod"), "vllm:num_requests_waiting == on (pod) "
                     "vllm:num_requests_running", id="matching"),
        pytest.param(Quantile(0.95, Over("rate", s.ENGINE_TTFT, 300, (), "_bucket").by("le")),
                     "histogram_quantile(0.95, sum by (le) (rate(vllm:time_to_first_token_seconds_bucket[5m])))",
                     id="a quantile"),
    ],
)  # fmt: skip
def test_promql(expr: Expr, promql: str) -> None:
    assert expr.promql() == promql


# -- ranges and buckets --------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 50), min_size=2, max_size=40))
def test_a_counter_never_shrinks_whatever_resets_it(steps: list[int]) -> None:
    times = [15.0 * index for index in range(len(steps))]
    grown = increase(times, [float(v) for v in steps], 0.0, times[-1])
    assert grown is not None
    assert grown >= 0


@given(st.lists(st.integers(0, 50), min_size=2, max_size=40))
def test_without_resets_and_gaps_the_increase_is_exact(steps: list[int]) -> None:
    values = [float(sum(steps[: index + 1])) for index in range(len(steps))]
    times = [15.0 * index for index in range(len(steps))]
    assert increase(times, values, 0.0, times[-1]) == pytest.approx(values[-1] - values[0])


def test_one_sample_has_no_rate() -> None:
    assert increase([1.0], [5.0], 0.0, 60.0) is None


BOUNDS = (0.1, 0.25, 0.5, 1.0, math.inf)


@given(st.lists(st.integers(0, 100), min_size=5, max_size=5), st.floats(0, 1), st.floats(0, 1))
def test_quantiles_are_ordered_and_stay_within_the_bounds(counts: list[int], q1: float, q2: float) -> None:
    cumulative = [float(sum(counts[: index + 1])) for index in range(5)]
    low, high = (bucket_quantile(q, list(zip(BOUNDS, cumulative, strict=True))) for q in sorted((q1, q2)))
    if not cumulative[-1]:
        assert math.isnan(low)
        return
    assert not low > high + 1e-9
    assert high <= 1.0 or math.isnan(high)


def test_the_trap_of_the_missing_bound() -> None:
    """All requests at 150 ms read as a P95 of 242 ms in vLLM's default buckets."""
    assert bucket_quantile(0.95, [(0.1, 0.0), (0.25, 60.0), (math.inf, 60.0)]) == pytest.approx(0.2425)


# -- the store and the scrape --------------------------------------------------------------------------------------


def test_a_series_holds_until_it_ends_or_grows_old() -> None:
    store = store_of(a=3.0)
    assert vector(WAITING, store, 100.0 + LOOKBACK_S) == {A: 3.0}
    assert vector(WAITING, store, 101.0 + LOOKBACK_S) == {}
    store.end(s.WAITING.name, A, 110.0)
    assert vector(WAITING, store, 109.0) == {A: 3.0}
    assert vector(WAITING, store, 110.0) == {}
    store.append(s.WAITING.name, A, 120.0, 4.0)
    assert vector(WAITING, store, 120.0) == {A: 4.0}


def test_pruning_keeps_what_the_rules_reach_and_no_more() -> None:
    store = SeriesStore()
    for second in range(2_000):
        store.append(s.WAITING.name, A, float(second), 1.0)
        store.append(s.RUNNING.name, A, float(second), 1.0)
    store.prune(2_000.0, {s.WAITING.name: 900.0})
    kept = {name: len(series.times) for name, series in store.everything()}
    assert kept == {s.WAITING.name: 900, s.RUNNING.name: 300}
    store.prune(9_000.0, {})
    assert len(store) == 0


def test_a_scrape_adds_labels_and_ends_what_is_gone() -> None:
    store = SeriesStore()
    ingest = Ingest(store)
    target = Target(job="vllm", url="http://127.0.0.1:9100", labels={"pod": "a"})
    ingest.scraped(
        target, [Point(s.WAITING.name, 1.0, {"model_name": "m"}), Point(s.WAITING.name, 9.0, {"pod": "own"})], 1.0
    )
    own = {"job": "vllm", "instance": "127.0.0.1:9100"}
    first, kept = labels_of(own | {"pod": "a", "model_name": "m"}), labels_of(own | {"pod": "own"})
    assert vector(WAITING, store, 1.0) == {first: 1.0, kept: 9.0}
    ingest.scraped(target, [Point(s.WAITING.name, 2.0, {"model_name": "m"})], 2.0)
    assert vector(WAITING, store, 2.0) == {first: 2.0}
    ingest.scraped(target, None, 3.0)
    assert vector(WAITING, store, 3.0) == {}
    assert vector(Select(s.UP), store, 3.0) == {labels_of(own | {"pod": "a"}): 0.0}
    ingest.forget_all_but(set(), 4.0)
    assert vector(Select(s.UP), store, 4.0) == {}


def test_matchers_all_have_to_hold() -> None:
    assert matches({"a": "1", "b": "2"}, (("a", "1"), ("b", "~[23]")))
    assert not matches({"a": "1", "b": "2"}, (("a", "1"), ("b", "3")))


def test_every_binary_expression_survives_a_round_of_scaling() -> None:
    expr = both(Over("rate", s.PREEMPTIONS, 300) > 0, WAITING > 1, "pod")
    assert expr.scaled(1.0) == expr
    assert isinstance(expr.scaled(0.5), Binary)


# -- sentences -----------------------------------------------------------------------------------------------------


def test_a_model_name_is_quoted_for_a_link() -> None:
    assert as_text("?model=<model_name:url>", {"model_name": "a/b c"}, 0.0) == "?model=a%2Fb+c"
    assert as_template("?model=<model_name:url>") == "?model={{ $labels.model_name | urlquery }}"


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown format 'bananas'"):
        as_template("<value:bananas>")
