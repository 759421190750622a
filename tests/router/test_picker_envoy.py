"""The picker behind a real Envoy, with the configuration that ``deploy/envoy`` holds, in front of two engines."""

import json
import socket
import time
from collections.abc import Iterator

import httpx
import pytest

from tests.router.picker_world import World, body, ext_proc, said
from tests.waiting import until

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("picker"))
    try:
        made.start_engines("--output-law", "none")
        made.start_picker("--drain-s", "2")
        made.start_envoy()
        yield made
    finally:
        made.close()


def decisions(world: World) -> list[dict]:
    return httpx.get(f"{world.admin}/debug/decisions").json()


def test_a_request_goes_where_the_picker_says(world: World):
    with world.client() as client:
        reply = client.post("/v1/completions", json=body("first of all"))
    assert (reply.status_code, reply.json()["usage"]["completion_tokens"]) == (200, 5)
    assert decisions(world)[0]["endpoint"] in {engine.url for engine in world.engines}


def test_a_shared_prefix_stays_with_its_engine(world: World):
    prefix = "a system prompt that all share. " * 60
    with world.client() as client:
        for number in range(4):
            assert client.post("/v1/completions", json=body(prefix + str(number))).status_code == 200
    last = decisions(world)[:4]
    assert len({one["endpoint"] for one in last}) == 1
    assert last[0]["matched_tokens"] > 0


def test_an_answer_streams_and_is_accounted_for(world: World):
    before = said(world.admin, "llm_d_epp_request_ttft_seconds_count")
    with (
        world.client() as client,
        client.stream("POST", "/v1/completions", json=body(stream=True, max_tokens=64)) as reply,
    ):
        times = [time.monotonic() for line in reply.iter_lines() if line.startswith("data:")]
    assert len(times) == 65
    assert times[-1] > times[0]
    until(lambda: said(world.admin, "llm_d_epp_request_ttft_seconds_count") == before + 1, "no TTFT was seen")


@pytest.mark.parametrize("size", [70_000, 1_000_000, 1_300_000])
def test_a_large_body_arrives_whole(world: World, size: int):
    prompt = list(range(100, 100 + size // 11))
    with world.client() as client:
        reply = client.post("/v1/completions", json=body(prompt[:60_000], pad="x" * (size - len(prompt) * 5)))
    assert reply.status_code == 200
    assert reply.json()["usage"]["prompt_tokens"] == min(len(prompt), 60_000)


def test_a_body_in_chunks_arrives_whole(world: World):
    data = json.dumps(body("chunk after chunk " * 5000)).encode()
    with world.client() as client:
        reply = client.post("/v1/completions", content=(data[at : at + 7000] for at in range(0, len(data), 7000)),
                            headers={"content-type": "application/json"})  # fmt: skip
    assert reply.status_code == 200


def test_http2_streams_side_by_side(world: World):
    with world.client(http1=False, http2=True) as client:
        replies = [client.post("/v1/completions", json=body(f"number {n}")) for n in range(5)]
        assert {(one.status_code, one.http_version) for one in replies} == {(200, "HTTP/2")}
        with client.stream("POST", "/v1/completions", json=body(stream=True)) as reply:
            assert b"".join(reply.iter_raw()).endswith(b"data: [DONE]\n\n")


def test_a_client_that_leaves_frees_its_engine(world: World):
    def busy() -> float:
        return sum(said(one.url, "vllm:num_requests_running") for one in world.engines)

    endless = body(stream=True, max_tokens=20_000, ignore_eos=True)
    with world.client() as client, client.stream("POST", "/v1/completions", json=endless) as reply:
        chunks = reply.iter_raw()  # kept: without it the connection is closed here
        assert next(chunks)
        assert until(lambda: said(world.admin, "llm_d_epp_request_running") == 1, "the picker does not count it")
        assert until(lambda: busy() == 1, "no engine has it")
    assert until(lambda: said(world.admin, "llm_d_epp_request_running") == 0, "the picker still counts it")
    assert until(lambda: busy() == 0, "an engine goes on")


def test_a_client_cannot_name_an_endpoint(world: World):
    with socket.socket() as trap:
        trap.bind(("127.0.0.1", 0))
        trap.listen()
        named = f"127.0.0.1:{trap.getsockname()[1]}"
        with world.client() as client:
            reply = client.post("/v1/completions", json=body("pick me"), headers={
                "x-gateway-destination-endpoint": named, "test-epp-endpoint-selection": named})  # fmt: skip
        assert reply.status_code == 200
        trap.setblocking(False)
        with pytest.raises(BlockingIOError):
            trap.accept()


@pytest.mark.parametrize(("content", "status", "code"), [
    pytest.param(b'{"model": "unknown", "prompt": "x"}', 404, "model_not_found", id="unknown-model"),
    pytest.param(b"nonsense", 400, "invalid_body", id="no-json"),
    pytest.param(b'{"prompt": "x"}', 400, "model_missing", id="no-model"),
])  # fmt: skip
def test_what_cannot_be_routed_is_refused_with_a_reason(world: World, content: bytes, status: int, code: str):
    with world.client() as client:
        reply = client.post("/v1/completions", content=content)
    assert (reply.status_code, reply.json()["error"]["code"]) == (status, code)


def test_a_get_goes_to_any_engine_and_inside_paths_to_none(world: World):
    with world.client() as client:
        assert client.get("/v1/models").status_code == 200
        assert [client.request(*one).status_code for one in (
            ("GET", "/metrics"), ("POST", "/sim/fault"), ("POST", "/v1/load_lora_adapter"), ("GET", "/v1/../metrics"),
        )] == [404, 404, 404, 404]  # fmt: skip


def test_without_a_picker_it_fails_closed_or_open_and_comes_back(world: World):
    with world.client() as client:
        world.stop_picker(kill=True)
        assert client.post("/v1/completions", json=body()).status_code == 503
    world.start_envoy(open_up)
    with world.client() as client:
        world.wait_picker_seen(healthy=False)  # until then a body that Envoy has handed over is lost with the picker
        before = [said(one.url, "vllm:request_success_total") for one in world.engines]
        assert [client.post("/v1/completions", json=body(f"n{n}")).status_code for n in range(6)] == [200] * 6
        after = [said(one.url, "vllm:request_success_total") for one in world.engines]
        assert [now - then for now, then in zip(after, before, strict=True)] == [3, 3]
        world.start_picker()
        world.wait_picker_seen()
        assert client.post("/v1/completions", json=body()).status_code == 200
        assert len(decisions(world)) == 1


def open_up(config: dict) -> None:
    ext_proc(config)["failure_mode_allow"] = True


def test_an_engine_that_dies_is_left_out(world: World):
    dead = world.engines[0]
    dead.process.kill()
    dead.process.wait()
    with world.client() as client:
        statuses = [client.post("/v1/completions", json=body(f"n{n}")).status_code for n in range(12)]
    assert set(statuses) <= {200, 503}
    assert statuses[-6:] == [200] * 6
    assert statuses.count(503) <= 2
