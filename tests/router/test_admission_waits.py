"""Requests that wait at the router for an engine that meets their targets, over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json

import httpx
import pytest

from predictor import artifact
from predictor.samples import from_record
from router.tenants import hashed
from tests.router.dataplane_stubs import Client, Engine, completion, events, on_loop, until
from tests.router.test_admission import LONG
from tests.router.test_router_app import PIECE, ask, started
from tests.router.test_router_predict import model
from tests.router.test_router_scrape import PAGE, models, page, pages

SOON, EXPLAIN = b"x-llm-d-slo-ttft-ms: 9000", b"x-fleet-explain: 1"
"""A target that an engine with 160 000 tokens to compute misses, by seconds."""
REASON = "x-llm-d-request-dropped-reason"


async def sent(service, *lines: bytes, **more) -> Client:
    """A streamed request on a connection of its own."""
    client = Client(*await asyncio.open_connection("127.0.0.1", service.port))
    client.send(completion(*lines, stream=True, **more))
    return client


class Busy:
    """A router before one engine that computes a long prompt until :meth:`free`."""

    def __init__(self, engine: Engine, service, gate: asyncio.Event) -> None:
        self.engine, self.service, self._gate = engine, service, gate
        self.director = service.director

    async def sent(self, *lines: bytes, **more) -> Client:
        """A request that is on its way."""
        return await sent(self.service, *lines, **more)

    async def waiting(self, count: int) -> None:
        await until(lambda: self.director.gate.late == {"m": count})

    def free(self) -> None:
        """The long prompt is computed."""
        self._gate.set()

    async def page(self, path: str):
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.service.admin_port}") as admin:
            return (await admin.get(path)).text

    @property
    def order(self) -> list[str]:
        """Ids of the requests that went to the engine after the long one."""
        return [one.ticket.request_id for one in self.director.decisions][1:]


@contextlib.asynccontextmanager
async def busy(tmp_path, *lines: bytes, **settings):
    """``lines``: of the request with the long prompt."""
    gate = asyncio.Event()

    async def completions(engine, request, writer):
        if len(request.body) > 10_000:
            await gate.wait()
        await events(PIECE, PIECE, gap_s=0.005)(engine, request, writer)

    artifact.write(model(), tmp_path / artifact.FILE_NAME)
    async with Engine(pages(metrics=page(PAGE), models=models("m"), completions=completions)) as engine:
        settings = {"slo_wait_s": 60.0, **settings}
        service = await started(engine.url, tmp_path, slo_admission=0.1, explain=True, **settings)
        await until(lambda: service.endpoints.ready[0].sample and service.endpoints.ready[0].models)
        world = Busy(engine, service, gate)
        first = await world.sent(*lines, prompt=4 * LONG)
        await until(lambda: len(service.director.ledger))
        yield world
        gate.set()
        assert (await first.answer()).status == 200
        await until(lambda: not len(service.director.ledger))
        await service.stop()


@on_loop
async def test_it_waits_until_an_engine_is_in_time_and_holds_nobody_up(tmp_path):
    async with busy(tmp_path) as world:
        late = await world.sent(SOON, EXPLAIN)
        await world.waiting(1)
        assert world.director.gate.lengths == {"m": 1}
        assert 'fleet_router_slo_waiting_requests{target_model_name="m"} 1.0' in await world.page("/metrics")
        assert (await ask(world.service.port, completion(b"x-llm-d-slo-ttft-ms: 60000"))).status == 200
        assert (await ask(world.service.port, completion())).status == 200
        await asyncio.sleep(0.1)
        assert world.director.gate.late == {"m": 1}
        world.free()
        answer = await late.answer()
        assert answer.status == 200
        told = json.loads(answer.headers["x-fleet-decision"])
        assert (told["reason"], told["slo_chance"] > 0.1, told["held_s"] >= 0.1) == ("picked", True, True)
        found = json.loads(await world.page("/debug/decisions"))
        assert [one["reason"] for one in found] == ["picked"] * 4, "one decision, when it went"
        assert found[0]["held_s"] == pytest.approx(told["held_s"], rel=1e-3)
        assert {one["held_s"] for one in found[1:]} == {0.0}
        metrics = await world.page("/metrics")
        assert 'fleet_router_slo_waiting_requests{target_model_name="m"} 0.0' in metrics
        assert 'llm_d_epp_flow_control_requests_total{outcome="dispatched"} 1.0' in metrics
        assert "fleet_router_slo_chance_ratio_count 2.0" in metrics, "asked again and again, counted once"


@on_loop
async def test_when_its_target_leaves_no_more_time_it_is_refused(tmp_path):
    async with busy(tmp_path) as world:
        loop = asyncio.get_running_loop()
        at_s = loop.time()
        answer = await (await world.sent(b"x-llm-d-slo-ttft-ms: 900", EXPLAIN)).answer()
        assert loop.time() - at_s > 0.5
        assert (answer.status, answer.headers[REASON]) == (429, "rejected-slo-unattainable")
        assert 5 <= int(answer.headers["retry-after"]) <= 12
        assert " s of waiting for one (best chance 0%)" in answer.error["message"]
        told = json.loads(answer.headers["x-fleet-decision"])
        assert (told["endpoint"], told["reason"]) == (None, "slo_unattainable")
        assert 0.5 < told["held_s"] < loop.time() - at_s
        (last, _) = json.loads(await world.page("/debug/decisions"))
        assert (last["endpoint"], last["reason"], last["held_s"] > 0.5) == (None, "slo_unattainable", True)
        metrics = await world.page("/metrics")
        assert 'llm_d_epp_flow_control_requests_total{outcome="rejected-slo-unattainable"} 1.0' in metrics
        assert 'fleet_router_shed_total{model_name="m",reason="slo_unattainable"} 1.0' in metrics


@pytest.mark.parametrize("settings", [{"slo_wait_s": 0.0}, {"flow_bytes": 1 << 20, "flow_requests": 1}])
@on_loop
async def test_without_leave_or_room_to_wait_it_is_refused_at_once(tmp_path, settings):
    async with busy(tmp_path, **settings) as world:
        others = []
        if "flow_requests" in settings:
            others = [await world.sent(SOON)]
            await world.waiting(1)
        answer = await (await world.sent(SOON)).answer()
        assert (answer.status, answer.headers[REASON]) == (429, "rejected-slo-unattainable")
        assert 1 <= int(answer.headers["retry-after"]) <= 12
        decision = json.loads(await world.page("/debug/decisions"))[0]
        assert decision["reason"] == "slo_unattainable"
        world.free()
        assert [(await one.answer()).status for one in others] == [200] * len(others)


@on_loop
async def test_the_more_urgent_goes_first_and_tenants_share(tmp_path):
    tenants = tmp_path / "tenants.yaml"
    rows = [f"- {{name: {name}, keys: ['{hashed(name.encode())}'], priority: 5}}" for name in ("one", "two")]
    tenants.write_text("objectives: {high: 5, low: 1}\ntenants:\n" + "\n".join(rows))

    def of(name: str, objective: str) -> tuple[bytes, ...]:
        return b"authorization: Bearer " + name.encode(), b"x-llm-d-inference-objective: " + objective.encode(), SOON

    async with busy(tmp_path, *of("one", "high")[:1], tenants=tenants) as world:
        asks = [("one", "low"), ("one", "high"), ("one", "high"), ("two", "high")]
        clients = []
        for number, (name, objective) in enumerate(asks):
            named = f"x-request-id: {number}-{name}-{objective}".encode()
            clients.append(await world.sent(*of(name, objective), named))
            await world.waiting(number + 1)
        world.free()
        assert [(await one.answer()).status for one in clients] == [200] * 4
        assert world.order == ["1-one-high", "3-two-high", "2-one-high", "0-one-low"]


@on_loop
async def test_a_client_that_leaves_waits_no_more_and_a_stop_tells_those_that_do(tmp_path):
    async with busy(tmp_path) as world:
        one, other = await world.sent(SOON), await world.sent(SOON)
        await world.waiting(2)
        one.close()
        await world.waiting(1)
        world.director.gate.drain()
        answer = await other.answer()
        assert (answer.status, answer.headers[REASON]) == (503, "rejected-shutting-down")


PREFILLED = b'{"kv_transfer_params":{"do_remote_prefill":true,"remote_engine_id":"e","remote_block_ids":[1]}}'
IDLE = b'vllm:num_requests_waiting{model_name="m"} 0\nvllm:num_requests_running{model_name="m"} 0\n'


@contextlib.asynccontextmanager
async def apart(folder, gate: asyncio.Event):
    """A router, with a model, in front of a prefill engine that waits for ``gate`` and one that decodes."""

    async def prefill(engine, request, writer):
        await asyncio.sleep(0.1)
        await gate.wait()
        await page(PREFILLED)(engine, request, writer)

    artifact.write(model(), folder / artifact.FILE_NAME)
    known = {"metrics": page(IDLE), "models": models("m")}
    async with (
        Engine(pages(**known, completions=prefill)) as first,
        Engine(pages(**known, completions=events(PIECE, PIECE, gap_s=0.005))) as second,
    ):
        rows = [
            {"url": first.url, "model": "m", "role": "prefill"},
            {"url": second.url, "model": "m", "role": "decode"},
        ]
        (folder / "fleet.yaml").write_text(json.dumps({"endpoints": rows}))
        service = await started("", folder, discover=f"file:{folder / 'fleet.yaml'}", slo_admission=0.3,
                                slo_wait_s=60.0, disaggregation="nixl", pd_decider="prompt:200")  # fmt: skip
        await until(lambda: all(one.sample and one.models for one in service.endpoints.ready))
        yield service
        await service.stop()


@on_loop
async def test_where_prefill_is_apart_one_engines_first_token_counts_and_the_others_later_ones(
    tmp_path,
):
    gate, prompt = asyncio.Event(), "word " * 2000
    gate.set()
    async with apart(tmp_path, gate) as service:
        for number in range(8):  # the first with a target nobody keeps: nothing is known of the prefill engine's pace
            lines = () if number else (b"x-llm-d-slo-ttft-ms: 1",)
            assert (await (await sent(service, *lines, prompt=f"{number} {prompt}")).answer()).status == 200
        gate.clear()
        ahead = [await sent(service, prompt=f"ahead {number} {prompt}") for number in range(9)]
        await until(lambda: len(service.director.ledger) == 18)
        target = b"x-llm-d-slo-ttft-ms: 700"  # 100 ms for one: ten of them take longer
        never = await (await sent(service, b"x-llm-d-slo-ttft-ms: 20", prompt=f"never {prompt}")).answer()
        assert (never.status, "even when idle" in never.error["message"]) == (429, True)
        slow = await (await sent(service, b"x-llm-d-slo-tpot-ms: 1", prompt=f"slow {prompt}")).answer()
        assert (slow.status, "even when idle" in slow.error["message"]) == (429, True), "of the engine that decodes"
        short = await (await sent(service, target)).answer()
        assert short.status == 200, "computed where it is decoded"
        late = await sent(service, target, prompt=f"late {prompt}")
        await until(lambda: service.director.gate.late == {"m": 1})
        gate.set()
        assert [(await one.answer()).status for one in (*ahead, late)] == [200] * 10
        await until(lambda: not len(service.director.ledger))


def test_what_was_waited_at_the_router_teaches_nothing_of_engines():
    features = dict.fromkeys(("input_tokens", "cached_tokens", "prefill_tokens_in_flight", "requests_in_flight",
                              "context_tokens_in_flight", "waiting", "running", "kv_utilisation"), 0.0)  # fmt: skip
    row = {"outcome": "ok", "streaming": True, "ttft_s": 2.0, "tpot_s": 0.01}
    assert from_record({**row, "features": features}).ttft_s == 2.0
    assert from_record({**row, "features": {**features, "held_s": 1.75}}).ttft_s == 0.25
