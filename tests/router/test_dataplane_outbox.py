"""Bytes written in one turn of the event loop go out at its end: in order, all of them; with few requests, at once."""

from __future__ import annotations

import asyncio

import pytest

from router.dataplane.outbox import FEW, MOST, Outbox
from tests.router.dataplane_stubs import Engine, completion, events, on_loop, plain, routed


class Wire:
    """A transport that keeps what is written."""

    def __init__(self, sent: list[tuple[str, bytes]], name: str, *, broken: bool = False) -> None:
        self.sent, self.name, self.broken, self.closing = sent, name, broken, False

    def write(self, data: bytes) -> None:
        if self.broken:
            raise RuntimeError(self.name)
        self.sent.append((self.name, data))

    def is_closing(self) -> bool:
        return self.closing


def busy(requests: int = FEW + 1) -> Outbox:
    outbox = Outbox()
    outbox.busy = requests
    return outbox


@on_loop
async def test_with_few_requests_under_way_bytes_go_out_at_once():
    sent = []
    busy(FEW).write(Wire(sent, "a"), b"1")
    assert sent == [("a", b"1")]


@on_loop
async def test_with_more_they_go_out_in_order_when_the_turn_is_over():
    sent, outbox = [], busy()
    one, other = Wire(sent, "one"), Wire(sent, "other")
    outbox.write(one, b"1")
    outbox.write(other, b"2")
    outbox.busy = 0  # what comes now must not overtake what waits
    outbox.write(one, b"3")
    assert sent == []
    await asyncio.sleep(0)
    assert sent == [("one", b"1"), ("other", b"2"), ("one", b"3")]
    outbox.write(one, b"4")
    assert sent[-1] == ("one", b"4")


@on_loop
async def test_a_long_turn_sends_what_it_has_now_and_then():
    sent, outbox = [], busy()
    for number in range(MOST + 1):
        outbox.write(Wire(sent, "a"), b"%d" % number)
    assert [data for _, data in sent] == [b"%d" % number for number in range(MOST)]
    await asyncio.sleep(0)
    assert len(sent) == MOST + 1


@on_loop
async def test_a_connection_that_closed_meanwhile_costs_the_others_nothing():
    sent, outbox = [], busy()
    gone = Wire(sent, "gone")
    for wire in (gone, Wire(sent, "there")):
        outbox.write(wire, b"x")
    gone.closing = True
    await asyncio.sleep(0)
    assert sent == [("there", b"x")]


@on_loop
async def test_neither_does_one_that_fails():
    sent, outbox = [], busy()
    for wire in (Wire(sent, "bad", broken=True), Wire(sent, "good")):
        outbox.write(wire, b"x")
    with pytest.raises(RuntimeError, match="bad"):
        outbox.flush()
    assert sent == []
    await asyncio.sleep(0)
    assert sent == [("good", b"x")]


@pytest.mark.parametrize("stream", [False, True])
@on_loop
async def test_many_at_once_get_whole_answers_and_then_the_end_of_the_connection(stream):
    pieces = [b'data: {"choices":[{"text":"%d"}]}\n\n' % number for number in range(8)]
    async with Engine(events(*pieces) if stream else plain) as engine, routed(engine) as router:
        clients = [await router.connect() for _ in range(8 * FEW)]
        for turn in range(4):
            last = turn == 3
            for client in clients:
                client.send(completion(*([b"connection: close"] if last else []), stream=stream))
            for client in clients:
                answer = await client.answer()
                assert answer.status == 200
                assert not stream or answer.body == b"".join(pieces)
                assert not last or await client.ended()
        await router.settled()
        assert router.outcomes == ["ok"] * 32 * FEW


@on_loop
async def test_a_bad_request_behind_good_ones_is_refused_after_their_answers():
    async with Engine() as engine, routed(engine) as router:
        clients = [await router.connect() for _ in range(4 * FEW)]
        for client in clients:
            client.send(completion() + b"GET / HTTP/1.1\r\nbad header\r\n\r\n")
        for client in clients:
            assert (await client.answer()).status == 200
            assert (await client.answer()).status == 400
            assert await client.ended()
