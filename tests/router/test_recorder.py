"""What is recorded of a finished request."""

from __future__ import annotations

import time

from fleet.history import History, HistoryWriter, RequestOutcome
from predictor.features import NAMES
from router.recorder import Recorder, record
from router.types import Prediction
from tests.router.dataplane_stubs import Engine, completion, events, on_loop, routed

USAGE = b'data: {"usage":{"prompt_tokens":50,"completion_tokens":3,"prompt_tokens_details":{"cached_tokens":16}}}\n\n'
PIECES = [b'data: {"choices":[{"text":"x"}]}\n\n'] * 3


@on_loop
async def test_a_row_holds_what_was_known_at_dispatch_and_what_came_of_it():
    def predict(_request, endpoints):
        return [Prediction(ttft_s=0.25, tpot_s=0.01) for _ in endpoints]

    async with Engine(events(*PIECES, USAGE, gap_s=0.01)) as engine, routed(engine) as router:
        router.gateway.director.predict = predict
        client = await router.connect()
        prompt = "word " * 400
        await client.ask(completion(prompt=prompt, stream=True))
        other = await router.connect()
        await other.ask(completion(prompt=prompt, stream=True))
        first, second = (record(*row) for row in router.records)
        assert set(first.features) == set(NAMES)
        assert first.features["cached_tokens"] == 0
        assert second.features["cached_tokens"] >= 448
        assert second.features["requests_in_flight"] == 0, "the request itself was counted as load before it"
        assert (second.input_tokens, second.output_tokens, second.cached_tokens) == (50, 3, 16)
        assert second.features["input_tokens"] == 500, "what was believed at dispatch, not what was learnt later"
        assert (second.predicted_ttft_s, second.predicted_tpot_s) == (0.25, 0.01)
        assert second.pick_probability == 1.0
        assert (second.endpoint, second.variant, second.streaming) == (engine.url, "static", True)
        assert 0 < second.ttft_s < second.e2e_s
        assert second.tpot_s > 0.001
        assert abs(second.at_s - time.time()) < 60


@on_loop
async def test_a_whole_answer_has_no_first_token_time():
    async with Engine() as engine, routed(engine) as router:
        await (await router.connect()).ask(completion())
        row = record(*router.records[0])
        assert (row.ttft_s, row.tpot_s) == (None, None)
        assert row.e2e_s > 0
        assert row.outcome is RequestOutcome.OK


@on_loop
async def test_a_refused_request_is_a_row_without_endpoint():
    async with routed() as router:
        await (await router.connect()).ask(completion())
        row = record(*router.records[0])
        assert (row.outcome, row.status, row.endpoint, dict(row.features)) == (RequestOutcome.REJECTED, 503, "", {})


@on_loop
async def test_rows_reach_the_history_and_no_prompt_does(tmp_path):
    history = History(f"sqlite:///{tmp_path / 'h.sqlite3'}")
    writer = HistoryWriter(history)
    recorder = Recorder(writer, rate_rps=100)
    async with Engine() as engine, routed(engine) as router:
        client = await router.connect()
        for _ in range(3):
            await client.ask(completion(prompt="a very secret prompt"))
        for row in router.records:
            recorder(*row)
    writer.close()
    rows = history.read("requests")
    assert len(rows) == 3
    assert all(row["features"]["input_tokens"] > 0 for row in rows)
    assert b"secret" not in (tmp_path / "h.sqlite3").read_bytes()


@on_loop
async def test_above_its_rate_requests_go_unrecorded_and_are_counted():
    class Rows(list):
        put = list.append

    rows = Rows()
    recorder = Recorder(rows, rate_rps=5)
    async with Engine() as engine, routed(engine) as router:
        await (await router.connect()).ask(completion())
        for _ in range(50):
            recorder(*router.records[0])
    assert 5 <= len(rows) < 50
    assert recorder.skipped == 50 - len(rows)
