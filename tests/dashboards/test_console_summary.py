"""The sentence on top: what it says, and that it never contradicts the figures."""

from __future__ import annotations

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dashboards.summary import Level, summarise
from dashboards.world import AlertState, ModelState, Promise, VariantState, World, broken_since, firing, last_trouble
from dashboards.world import promises as judge
from fleet.slo import DEFAULT_SLOS

NOW = 1_790_000_000.0


def ttft(now_s: float | None = 0.12, *, broken_since_s: float | None = None, attained: float = 0.99) -> Promise:
    return Promise(
        name="TTFT", limit_s=0.2, objective=0.95, p_now_s=now_s, attained=attained, broken_since_s=broken_since_s
    )


def model(*promises: Promise, **fields: object) -> ModelState:
    given: dict[str, object] = {"requests": 100, "success": 1.0, "success_target": 0.999} | fields
    return ModelState(name="meta/llama", promises=promises, **given)  # type: ignore[arg-type]


def variant(**fields: object) -> VariantState:
    given: dict[str, object] = {"name": "llama-a100", "model": "meta/llama", "ready": 1, "wanted": 1, "requested": 1}
    return VariantState(**(given | fields))  # type: ignore[arg-type]


def world(*, models: tuple[ModelState, ...] = (), variants: tuple[VariantState, ...] = (), **fields: object) -> World:
    given: dict[str, object] = {"now_s": NOW, "span_s": 900.0, "newest_s": NOW - 2}
    return World(models=models or (model(ttft()),), variants=variants or (variant(),), **(given | fields))  # type: ignore[arg-type]


BREACH = model(ttft(0.48, broken_since_s=NOW - 300, attained=0.7), waiting=31.0)


@pytest.mark.parametrize(
    ("state", "level", "words"),
    [
        pytest.param(
            world(), Level.GOOD, ["All is well", "for the last 15 min", "P95 120 ms", "1 replica ready"], id="well"
        ),
        pytest.param(
            world(last_trouble_s=NOW - 60), Level.GOOD, ["since 14:12:20"], id="well-since-the-last-alert-ended"
        ),
        pytest.param(
            world(newest_s=None, parts_down={"router": NOW - 60}),
            Level.UNKNOWN,
            ["Nothing has been recorded", "The router does not answer"],
            id="nothing-recorded-because-a-part-is-down",
        ),
        pytest.param(world(newest_s=None), Level.UNKNOWN, ["Nothing has been recorded"], id="nothing-recorded"),
        pytest.param(
            world(newest_s=NOW - 240), Level.UNKNOWN, ["No news for 4 min", "14:09:20"], id="stale-is-not-well"
        ),
        pytest.param(
            world(newest_s=NOW - 240, parts_down={"controller": NOW - 200}),
            Level.UNKNOWN,
            ["The controller does not answer"],
            id="stale-because-a-part-is-down",
        ),
        pytest.param(
            world(models=(BREACH,), variants=(variant(ready=1, wanted=3, requested=3, saturation=0.93),)),
            Level.BREACH,
            [
                "1 model needs you: llama breaches TTFT since 14:08:20 (P95 480 ms, limit 200 ms)",
                "31 requests wait",
                "llama-a100 is saturated (0.93)",
                "2 replicas still start",
                "llama-a100 1 → 3",
            ],
            id="breach-says-why-and-next",
        ),
        pytest.param(
            world(models=(BREACH,), variants=(variant(wanted=3, ready=3, requested=3, reason="at_max"),)),
            Level.BREACH,
            ["at its maximum of 3"],
            id="breach-at-the-maximum-needs-a-human",
        ),
        pytest.param(
            world(
                alerts=(
                    AlertState(name="ControllerStalled", severity="critical", since_s=NOW - 60, message="No pass."),
                )
            ),
            Level.BREACH,
            ["ControllerStalled fires since 14:12:20", "No pass."],
            id="critical-alert-without-a-breach",
        ),
        pytest.param(
            world(alerts=(AlertState(name="Queue", severity="warning", since_s=NOW - 60, message="long"),)),
            Level.ATTENTION,
            ["Queue fires"],
            id="warning-alert",
        ),
        pytest.param(
            world(parts_down={"router": NOW - 60}), Level.ATTENTION, ["The router does not answer"], id="part-down"
        ),
        pytest.param(
            world(parts_down={"router": NOW - 60, "alerts": NOW - 50}),
            Level.ATTENTION,
            ["The alert watcher and router do not answer since 14:12:20"],
            id="two-parts-down-are-one-sentence",
        ),
        pytest.param(
            world(models=(model(ttft(attained=0.6)),)),
            Level.ATTENTION,
            ["keeps TTFT now", "only 60 %", "promised 95 %"],
            id="kept-again-but-the-window-is-spent",
        ),
        pytest.param(world(models=(model(ttft(), success=0.99),)), Level.ATTENTION, ["99 %", "99.9 %"], id="failures"),
        pytest.param(
            world(variants=(variant(reason="at_max", wanted=3),)), Level.ATTENTION, ["maximum of 3"], id="at-max"
        ),
        pytest.param(
            world(variants=(variant(reason="stale_metrics"),)),
            Level.ATTENTION,
            ["held at 1", "missing or old"],
            id="blind",
        ),
        pytest.param(world(models=(model(requests=0, success=None),)), Level.GOOD, ["no traffic"], id="no-traffic"),
    ],
)
def test_sentence(state: World, level: Level, words: list[str]):
    sentence = summarise(state)
    assert sentence.level is level
    for word in words:
        assert word in str(sentence)


@given(
    st.floats(0.01, 5),
    st.one_of(st.none(), st.floats(NOW - 800, NOW)),
    st.floats(0, 1),
    st.floats(0, 3600),
    st.sampled_from(["", "at_max", "stale_metrics", "steady"]),
    st.tuples(st.integers(0, 5), st.integers(0, 5)),
)
def test_good_is_said_only_when_everything_is(now_s, since, attained, age_s, reason, counts):  # noqa: PLR0917
    promise, (ready, wanted) = ttft(now_s, broken_since_s=since, attained=attained), counts
    sentence = summarise(
        world(
            models=(model(promise),),
            variants=(variant(ready=ready, wanted=wanted, reason=reason),),
            newest_s=NOW - age_s,
        )
    )
    assert str(sentence).endswith((".", ")"))
    if sentence.level is Level.GOOD:
        assert since is None
        assert attained >= 0.95
        assert age_s <= 30
        assert reason not in {"at_max", "stale_metrics"}


def series(*values: float) -> pd.DataFrame:
    return pd.DataFrame({"bin_s": [15.0 * i for i in range(len(values))], "value": values, "n": 10})


@pytest.mark.parametrize(
    ("values", "since"),
    [
        pytest.param((1.0, 0.5, 0.5), 15.0, id="the-last-stretch-counts"),
        pytest.param((0.5, 1.0, 0.5), 30.0, id="an-earlier-stretch-does-not"),
        pytest.param((0.5, 0.5, 1.0), None, id="over"),
        pytest.param((), None, id="no-requests"),
    ],
)
def test_since_when_a_promise_is_broken(values: tuple[float, ...], since: float | None):
    assert broken_since(series(*values), 0.95) == since


def test_a_promise_is_broken_only_when_the_newest_minute_misses_it():
    bins = pd.DataFrame(
        {
            "bin_s": [0.0, 15.0, 30.0],
            "requests": 10,
            "aborted": 0,
            "ok": 10,
            "ttft_n": 10,
            "ttft_ok": [10, 5, 5],
            "tpot_n": 10,
            "tpot_ok": 10,
        }
    )
    slow = pd.DataFrame({"done_s": [40.0] * 20, "ttft_s": [0.5] * 20, "tpot_s": [0.01] * 20})
    fast = slow.assign(ttft_s=0.1)
    broken = {p.name: p.broken_since_s for p in judge(DEFAULT_SLOS.default, bins, slow, until_s=45.0)}
    kept = {p.name: p.broken_since_s for p in judge(DEFAULT_SLOS.default, bins, fast, until_s=45.0)}
    assert broken == {"TTFT": 15.0, "TPOT": None}
    assert kept == {"TTFT": None, "TPOT": None}


def test_firing_alerts_come_critical_first_and_the_newest_end_is_known():
    nan = float("nan")
    spells = pd.DataFrame(
        {
            "alert": ["w", "c", "old"],
            "model": "",
            "severity": ["warning", "critical", "critical"],
            "message": "",
            "from_s": [1.0, 2.0, 0.0],
            "to_s": [nan, nan, 3.0],
        }
    )
    assert [alert.name for alert in firing(spells)] == ["c", "w"]
    assert last_trouble(spells) == 3.0
    assert last_trouble(spells.iloc[:0]) is None
