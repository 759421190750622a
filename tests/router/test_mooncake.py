"""Mooncake's protocol over real sockets: both legs at once, engines that take no wrong word, and what goes wrong."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest

from tests.ports import free_ports
from tests.router.picker_world import World, body, said
from tests.router.test_disaggregation import LONG, decisions, listed
from tests.waiting import until

pytestmark = pytest.mark.integration
PREFILLED = "vllm:prompt_tokens_total"


def engines(made: World, port: int) -> None:
    roles = iter(["prefill", "decode"])
    made.start_engines("--output-law", "none", "--kv-connector", "mooncake", "--kv-bootstrap-port", str(port),
                       each=lambda: ("--role", next(roles)))  # fmt: skip


def route(made: World, port: int, prefill: str, decode: str) -> None:
    fleet = made.folder / f"fleet-{port}.yaml"
    fleet.write_text(listed(prefill, decode))
    made.start_router("--disaggregation", "mooncake", "--pd-decider", "prompt:200", "--bootstrap-port", str(port),
                      discover=f"file:{fleet}")  # fmt: skip


@dataclass
class Apart(World):
    bootstrap_port: int = field(default_factory=free_ports)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Apart]:
    made = Apart(tmp_path_factory.mktemp("mooncake"))
    port = made.bootstrap_port
    try:
        engines(made, port)
        route(made, port, made.engines[0].url, made.engines[1].url)
        yield made
    finally:
        made.close()


def fetched(url: str) -> float:
    """Prompt tokens that came from another engine."""
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines
               if line.startswith("vllm:prompt_tokens_by_source_total") and "external_kv_transfer" in line)  # fmt: skip


def in_flight(world: World) -> dict[str, int]:
    """The router's requests by engine."""
    return {one["url"]: one["requests_in_flight"] for one in httpx.get(f"{world.admin}/debug/endpoints").json()}


def tokens(text: str) -> int:
    return -(-len(text) // 4)


def fault(url: str, **what: Any) -> None:
    assert httpx.post(url + "/sim/fault", json=what).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
def test_the_prompt_is_computed_once_and_fetched(world: World, stream: bool):
    prefill, decode = (one.url for one in world.engines)
    before, split = [said(prefill, PREFILLED), fetched(decode)], decisions(world, "prefill-decode")
    text = f"fetched {stream} {LONG}"
    with world.client() as client:
        reply = client.post("/v1/completions", json=body(text, stream=stream))
    assert reply.status_code == 200, reply.text
    assert said(prefill, PREFILLED) - before[0] == tokens(text)
    assert fetched(decode) - before[1] == tokens(text) - 1
    assert decisions(world, "prefill-decode") == split + 1
    until(lambda: said(prefill, "vllm:kv_cache_usage_perc") == 0, "the blocks are still kept")


def test_the_clients_usage_is_that_of_both_legs(world: World):
    text = "usage " + LONG
    with world.client() as client:
        for cached in (0, tokens(text) // 16 * 16):
            usage = client.post("/v1/completions", json=body(text)).json()["usage"]
            assert usage["completion_tokens"] == 5
            assert usage["prompt_tokens_details"]["cached_tokens"] == cached
            httpx.post(world.engines[1].url + "/reset_prefix_cache")


def test_a_prefill_that_fails_is_the_routers_trouble_alone(world: World):
    prefill, before = world.engines[0].url, decisions(world, "fallback")
    fault(prefill, kind="error", rate=1.0)
    try:
        with world.client() as client:
            for stream in (False, True):
                reply = client.post("/v1/completions", json=body(f"failing {stream} {LONG}", stream=stream), timeout=10)
                assert (reply.status_code, "error" in reply.text) == (200, False)
    finally:
        fault(prefill, kind="none")
    assert decisions(world, "fallback") == before + 2


def test_a_prefill_outlives_its_client(world: World):
    prefill, decode = (one.url for one in world.engines)
    before = said(prefill, PREFILLED)
    fault(prefill, kind="hang")
    try:
        with world.client() as client, pytest.raises(httpx.ReadTimeout):
            client.post("/v1/completions", json=body("leaving " + LONG), timeout=1)
        until(lambda: not said(world.admin, "llm_d_epp_request_running"), "the router still counts it")
        until(lambda: not said(decode, "vllm:num_requests_waiting"), "the decode engine still has it")
        assert in_flight(world) == {prefill: 1, decode: 0}, "what the prefill engine computes counts"
    finally:
        fault(prefill, kind="none")
    until(lambda: said(prefill, PREFILLED) > before, "the prefill was given up with its client")
    until(lambda: in_flight(world) == {prefill: 0, decode: 0}, "it is still in the books")


def test_requests_side_by_side_do_not_meet_each_other(world: World):
    def ask(number: int) -> tuple[int, int]:
        with world.client() as client:
            reply = client.post("/v1/completions", json=body(f"{number:04d} {LONG}", stream=bool(number % 2)))
        return reply.status_code, "error" in reply.text

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(ask, range(24))) == {(200, False)}
    assert not said(world.engines[0].url, "vllm:num_requests_running")


class Stub(ThreadingHTTPServer):
    """A bootstrap server that says what it is told to, and counts how often a router asked."""

    def __init__(self, status: int, answer: Any) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.status, self.said, self.asked = status, answer, 0


class _Answer(BaseHTTPRequestHandler):
    server: Stub

    def do_GET(self) -> None:
        self.server.asked += "user-agent" not in self.headers  # the decode engine asks too, and has one
        data = json.dumps(self.server.said).encode()
        self.send_response(self.server.status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_args: Any) -> None:
        return


@contextmanager
def bootstrap(status: int, answer: Any) -> Iterator[Stub]:
    server = Stub(status, answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def misled(world: Apart) -> Iterator[tuple[World, Stub]]:
    """A second router, which finds a stub where the bootstrap server should be."""
    other = World(world.folder)
    with bootstrap(200, {}) as stub:
        try:
            route(other, stub.server_port, world.engines[0].url, world.engines[1].url)
            yield other, stub
        finally:
            other.close()


@pytest.mark.parametrize(("status", "answer"), [
    pytest.param(500, {}, id="it-fails"),
    pytest.param(200, {}, id="it-knows-nobody"),
    pytest.param(200, {"0": {"engine_id": "another"}}, id="it-names-another-engine"),
])  # fmt: skip
def test_a_bootstrap_server_that_is_of_no_use(misled: tuple[World, Stub], status: int, answer: Any):
    router, stub = misled
    before, (stub.status, stub.said) = decisions(router, "fallback"), (status, answer)
    with router.client() as client:
        reply = client.post("/v1/completions", json=body(f"useless {status} {answer} {LONG}"))
    assert (reply.status_code, reply.json()["usage"]["completion_tokens"]) == (200, 5)
    assert decisions(router, "fallback") == before + 1


def test_a_name_that_no_longer_holds_is_asked_for_again_and_then_kept(world: Apart, misled: tuple[World, Stub]):
    """As after a restart of the prefill engine."""
    router, stub = misled
    fallbacks, asked = decisions(router, "fallback"), stub.asked
    stub.status, stub.said = 200, {"0": {"engine_id": "as it was"}}
    with router.client() as client:
        assert client.post("/v1/completions", json=body("renamed 1 " + LONG)).status_code == 200
        assert decisions(router, "fallback") == fallbacks + 1
        stub.said = httpx.get(f"http://127.0.0.1:{world.bootstrap_port}/query").json()
        for number in (2, 3):
            reply = client.post("/v1/completions", json=body(f"renamed {number} {LONG}", stream=True))
            assert (reply.status_code, "error" in reply.text) == (200, False)
    assert (decisions(router, "fallback"), stub.asked) == (fallbacks + 1, asked + 2)
