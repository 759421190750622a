"""What clients' headers may say, sessions, the length of answers by client, and decisions told in a header."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router import explain
from router.hints import HEADERS, NO_HINTS, NO_TARGET_S, with_hint
from router.sessions import Sessions
from router.traffic import MAX_CLIENTS, START_OUTPUT_TOKENS, Traffic
from router.types import EndpointView, Pick, Prediction


@pytest.mark.parametrize(
    ("header", "value", "hints"),
    [
        pytest.param(b"x-session-id", b"abc-1", NO_HINTS._replace(session="abc-1"), id="a session"),
        pytest.param(b"x-session-id", b"two words", NO_HINTS, id="no session"),
        pytest.param(b"x-session-id", b"x" * 300, NO_HINTS, id="a session too long"),
        pytest.param(b"x-slo-ttft-ms", b"200", NO_HINTS._replace(slo_ttft_s=0.2), id="the old name of a limit"),
        pytest.param(b"x-llm-d-slo-tpot-ms", b"50.5", NO_HINTS._replace(slo_tpot_s=0.0505), id="a limit"),
        pytest.param(b"x-llm-d-slo-tpot-ms", b"None", NO_HINTS._replace(slo_tpot_s=NO_TARGET_S), id="none is to hold"),
        pytest.param(b"x-slo-ttft-ms", b"-1", NO_HINTS, id="a limit below zero"),
        pytest.param(b"x-slo-ttft-ms", b"nan", NO_HINTS, id="a limit that is no number"),
        pytest.param(b"x-slo-ttft-ms", b"soon", NO_HINTS, id="a word"),
        pytest.param(b"x-fleet-explain", b"true", NO_HINTS._replace(explain=True), id="explain"),
        pytest.param(b"x-fleet-explain", b"0", NO_HINTS, id="do not explain"),
    ],
)
def test_hints(header, value, hints):
    assert with_hint(NO_HINTS, HEADERS[header], value) == hints


@given(st.sampled_from(sorted(HEADERS)), st.binary(max_size=300))
def test_no_header_breaks_anything(header, value):
    hints = with_hint(NO_HINTS, HEADERS[header], value)
    assert hints.slo_ttft_s is None or 0 < hints.slo_ttft_s <= 3600 or hints.slo_ttft_s == NO_TARGET_S


def test_sessions_are_found_until_they_are_old_and_are_bounded():
    sessions = Sessions(keep_s=10, limit=2)
    sessions.placed("a", "http://1", 0.0)
    assert sessions.url("a", 10.0) == "http://1"
    assert sessions.url("a", 10.1) == ""
    sessions.placed("b", "http://2", 9.0)
    sessions.placed("a", "http://3", 9.5)
    sessions.placed("c", "http://2", 9.9)
    assert (sessions.url("b", 10.0), sessions.url("a", 10.0), len(sessions)) == ("", "http://3", 2)
    sessions.placed("d", "http://1", 100.0)
    assert len(sessions) == 1, "what is old goes with the next that comes"


def test_the_length_of_an_answer_is_learned_by_model_and_client():
    traffic = Traffic()
    assert traffic.expected_output("m", "chat") == START_OUTPUT_TOKENS
    for _ in range(100):
        traffic.answered(20, "m", "code")
        traffic.answered(1000, "m", "essays")
    code, essays, other = (traffic.expected_output("m", client) for client in ("code", "essays", "new"))
    assert code == pytest.approx(20, rel=1.5)
    assert essays == pytest.approx(1000, rel=0.1)
    assert code < other < essays
    assert traffic.expected_output("m", "essays", limit=64) == 64


def test_few_answers_say_little():
    traffic = Traffic()
    for _ in range(100):
        traffic.answered(100, "m", "usual")
    traffic.answered(5000, "m", "new")
    assert traffic.expected_output("m", "new") < 1200


def test_clients_without_end_do_not_fill_the_memory():
    traffic = Traffic()
    for number in range(3 * MAX_CLIENTS):
        traffic.answered(10, "m", f"client-{number}")
    assert len(traffic._answers) <= MAX_CLIENTS


@given(
    st.lists(st.tuples(st.integers(0, 100_000), st.sampled_from("ab"), st.sampled_from(["", "x", "y"])), max_size=60)
)
def test_an_expectation_is_within_what_was_seen(answers):
    traffic = Traffic()
    for tokens, model, client in answers:
        traffic.answered(tokens, model, client)
    seen = [START_OUTPUT_TOKENS, *(tokens for tokens, _, _ in answers)]
    for client in ("", "x", "y"):
        assert min(seen) - 1e-6 <= traffic.expected_output("a", client) <= max(seen) + 1e-6


def view(index):
    return EndpointView(url=f"http://10.0.0.{index}:8000", variant="v", matched_tokens=64)


def test_a_decision_in_a_header_names_the_best_first_and_stays_short():
    views = [view(index) for index in range(200)]
    totals = [index / 200 for index in range(200)]
    pick = Pick(views[199], "picked", 1.0, {"http://x": "queue-depth"}, False, Prediction(0.123456, 0.01), views,
                {"least-delay": totals, "total": totals})  # fmt: skip
    text = explain.header(pick)
    told = json.loads(text)
    assert len(text) < 4000
    assert b"\n" not in text
    assert (told["endpoint"], told["predicted_ttft_s"], told["dropped"]) == (views[199].url, 0.1235, 1)
    assert next(iter(told["scores"])) == views[199].url
    assert len(told["scores"]) == 8


def test_a_long_explanation_drops_the_worst_endpoints():
    views = [view(index) for index in range(8)]
    columns = {f"scorer-with-a-long-name-{number}": [0.5] * 8 for number in range(40)} | {"total": [1.0] * 8}
    text = explain.header(Pick(views[0], "picked", 1.0, {}, False, None, views, columns))
    assert len(text) <= 3800
    assert 0 < len(json.loads(text)["scores"]) < 8
