"""Counting: what is a failure, what is recent, what the report says."""

from __future__ import annotations

import json

import pytest

from simulator.replay_stats import (
    BROKEN_STREAM,
    CLIENT_LIMIT,
    CONNECTION,
    INTERRUPTED,
    OK,
    UNFINISHED,
    Outcome,
    Tally,
    percentiles,
)


def ended(*kinds: str) -> Tally:
    tally = Tally()
    for kind in kinds:
        tally.send(10, 0.0)
        tally.end(Outcome(kind=kind, ttft_s=0.1, tpot_s=0.02, e2e_s=1.0))
    return tally


@pytest.mark.parametrize(("kinds", "rate"), [
    pytest.param((), None, id="nothing-sent"),
    pytest.param((INTERRUPTED,), None, id="nothing-but-our-own-stop"),
    pytest.param((OK, OK, INTERRUPTED), 1.0, id="our-own-stop-is-no-failure"),
    pytest.param((OK, "http_503"), 0.5, id="an-http-error-is"),
    pytest.param((OK, CONNECTION, BROKEN_STREAM, UNFINISHED, CLIENT_LIMIT), 0.2, id="and-so-is-the-rest"),
])  # fmt: skip
def test_success_rate(kinds: tuple[str, ...], rate: float | None) -> None:
    tally = ended(*kinds)
    assert tally.success_rate() == rate
    report = tally.report(duration_s=10.0)
    assert report["requests"] == len(kinds)
    assert report["ok"] + report["failed"] + report["interrupted"] == len(kinds)


def test_latencies_of_failed_requests_do_not_count() -> None:
    tally = ended(OK)
    tally.end(Outcome(kind=BROKEN_STREAM, ttft_s=99.0, e2e_s=99.0))
    assert tally.report(duration_s=1.0)["ttft_s"] == {"p50": 0.1, "p95": 0.1, "p99": 0.1}


def test_an_empty_report_is_json() -> None:
    report = Tally().report(duration_s=0.0)
    assert json.loads(json.dumps(report))["ttft_s"] == {"p50": None, "p95": None, "p99": None}


def test_recent_rates_forget_what_is_older_than_ten_seconds() -> None:
    tally = Tally()
    for second in range(60):
        tally.tokens(float(second), 100 if second < 50 else 40)
        tally.first_token(float(second), 5.0 if second < 50 else 0.2)
    status = tally.status(60.0)
    assert status["output_tps"] == 40.0
    assert status["ttft_s"] == {"p50": 0.2, "p95": 0.2}
    assert tally.output_tokens == 50 * 100 + 10 * 40


def test_a_silent_server_shows_no_tokens_and_no_latency() -> None:
    tally = Tally()
    tally.tokens(1.0, 500)
    tally.first_token(1.0, 0.3)
    assert tally.status(100.0)["output_tps"] == 0.0
    assert tally.status(100.0)["ttft_s"] == {"p50": None, "p95": None}


def test_percentiles_are_rounded_to_microseconds() -> None:
    assert percentiles([0.123456789] * 3, (50,)) == {"p50": 0.123457}
