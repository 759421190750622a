"""Prefill and decode apart: what decides, what is said, and simulated engines that take no wrong word."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest

from fleet.errors import ConfigError
from fleet.types import Role
from router.disaggregation.choose import Splitter, Transfer
from router.disaggregation.deciders import always, decider
from router.disaggregation.protocols import (
    Meeting,
    Protocol,
    cached_tokens,
    clean,
    decode_body,
    prefill_body,
    ranks,
    with_cached,
)
from router.types import EndpointView, InferenceRequest
from tests.router.picker_world import MODEL, World, body, said
from tests.waiting import until

# ---- deciders and choice


def asked(tokens: int) -> InferenceRequest:
    return InferenceRequest(request_id="r", model="m", input_tokens=tokens)


@pytest.mark.parametrize(("text", "tokens", "matched", "split"), [
    pytest.param("always", 1, 1, True, id="always"),
    pytest.param("uncached:100", 500, 450, False, id="mostly-cached"),
    pytest.param("uncached:100", 500, 300, True, id="much-to-compute"),
    pytest.param("prompt:100", 500, 500, True, id="long-though-cached"),
    pytest.param("prompt:100", 100, 0, False, id="short"),
])  # fmt: skip
def test_deciders(text: str, tokens: int, matched: int, split: bool):
    assert decider(text)(asked(tokens), matched) is split


@pytest.mark.parametrize("text", ["", "never", "uncached", "uncached:x", "prompt:-1"])
def test_a_strange_decider_is_refused(text: str):
    with pytest.raises(ConfigError):
        decider(text)


def view(url: str, role: Role, **more: Any) -> EndpointView:
    return EndpointView(url=url, variant="v", role=role, models=frozenset({"m"}), **more)


def test_sides_and_a_side_that_is_empty():
    views = [view("p", Role.PREFILL), view("d", Role.DECODE), view("b", Role.BOTH)]
    decodes, prefills = Splitter().sides(views)
    assert ([one.url for one in decodes], [one.url for one in prefills]) == (["d", "b"], ["p"])
    assert Splitter().sides(views[:1]) == (views[:1], [])


@pytest.mark.parametrize(("others", "chosen"), [
    pytest.param({"prefill_tokens_in_flight": 50_000}, "one", id="a-queue-is-avoided"),
    pytest.param({"matched_tokens": 9_000}, "two", id="a-cached-prompt-attracts"),
    pytest.param({"distance_s": 1.0}, "one", id="distance-counts"),
])  # fmt: skip
def test_the_prefill_engine_that_is_ready_first(others: dict[str, Any], chosen: str):
    splitter = Splitter(decide=always)
    prefills = [view("one", Role.PREFILL), view("two", Role.PREFILL, **others)]
    found = splitter.prefill(asked(10_000), view("d", Role.DECODE), prefills)
    assert found is not None
    assert found.url == chosen
    assert splitter.prefill(asked(10), view("d", Role.DECODE), []) is None


def test_a_transfer_costs_what_its_link_allows():
    slow = Transfer(bytes_per_token=1e6, bytes_per_s=1e9, latency_s=0.0)
    assert slow.seconds(1000, 0.5) == pytest.approx(1.5)


# ---- bodies

ASKED = json.dumps({"model": "m", "messages": [], "stream": True, "stream_options": {"include_usage": True},
                    "max_completion_tokens": 9, "min_tokens": 4}).encode()  # fmt: skip
PARAMS = {"do_remote_prefill": True, "do_remote_decode": False, "remote_block_ids": [[1, 2]], "remote_engine_id": "e",
          "remote_request_id": "q", "remote_host": "h", "remote_port": 5600, "tp_size": 1}  # fmt: skip


MEETING = Meeting(host="10.0.0.1", port=8998, number=77, rank="1", engine_id="engine-7")


def told(protocol: Protocol, **answer: Any) -> tuple[dict[str, Any], dict[str, Any] | None]:
    prefill = prefill_body(protocol, ASKED, MEETING)
    decode = decode_body(protocol, ASKED, MEETING, answer=answer)
    return json.loads(prefill), None if decode is None else json.loads(decode)


def test_nixl_prefill_asks_for_one_token_and_decode_repeats_the_parameters():
    prefill, decode = told(Protocol.NIXL, kv_transfer_params=PARAMS)
    assert prefill == {"model": "m", "messages": [], "stream": False, "max_tokens": 1, "max_completion_tokens": 1,
                       "kv_transfer_params": {"do_remote_decode": True, "do_remote_prefill": False,
                                              "remote_engine_id": None, "remote_block_ids": None, "remote_host": None,
                                              "remote_port": None}}  # fmt: skip
    assert decode == {**json.loads(ASKED), "kv_transfer_params": PARAMS}
    assert told(Protocol.NIXL)[1] is None
    assert told(Protocol.NIXL, kv_transfer_params={"do_remote_prefill": False})[1] is None


def test_a_shared_store_needs_no_words():
    prefill, decode = told(Protocol.SHARED)
    assert (prefill["max_tokens"], prefill["stream"], decode) == (1, False, json.loads(ASKED))


def test_sglang_gives_both_the_same_room():
    prefill, decode = told(Protocol.SGLANG)
    room = {"bootstrap_host": "10.0.0.1", "bootstrap_port": 8998, "bootstrap_room": 77}
    assert prefill == decode == {**json.loads(ASKED), **room}


def test_mooncake_legs_share_a_transfer_and_decode_knows_the_engine():
    prefill, decode = told(Protocol.MOONCAKE)
    assert (prefill["max_tokens"], prefill["max_completion_tokens"], prefill["stream"]) == (1, 1, False)
    assert prefill["kv_transfer_params"] == {"do_remote_decode": True, "do_remote_prefill": False,
                                             "transfer_id": "xfer-000000000000004d"}  # fmt: skip
    assert decode == {**json.loads(ASKED), "kv_transfer_params": {
        "do_remote_decode": False, "do_remote_prefill": True, "transfer_id": "xfer-000000000000004d",
        "remote_bootstrap_addr": "http://10.0.0.1:8998", "remote_engine_id": "engine-7"}}  # fmt: skip


def test_a_bootstrap_address_of_an_ipv6_engine_has_brackets():
    assert Meeting(host="fd00::1", port=1, number=0).bootstrap == "http://[fd00::1]:1"


@pytest.mark.parametrize("said", [None, {}, {"0": {}}, {"a": {"engine_id": "x"}}, {"0": "x"}])
def test_a_bootstrap_server_that_names_no_engine(said: Any):
    assert ranks(said) == {}


def test_a_client_cannot_speak_for_a_router():
    said = json.dumps({"model": "m", "kv_transfer_params": PARAMS, "bootstrap_host": "x"}).encode()
    assert json.loads(clean(said)) == {"model": "m"}
    assert clean(ASKED) is ASKED


def test_usage_of_both_legs_is_one():
    answer = b'{"usage": {"prompt_tokens": 9, "prompt_tokens_details": {"cached_tokens": 0, "x": 1}}}'
    assert json.loads(with_cached(answer, 7))["usage"] == {
        "prompt_tokens": 9, "prompt_tokens_details": {"cached_tokens": 7}}  # fmt: skip
    assert with_cached(b'{"prompt_tokens_details": null}', 7) == b'{"prompt_tokens_details": null}'


def test_cached_tokens_of_the_prefill():
    assert cached_tokens({"usage": {"prompt_tokens_details": {"cached_tokens": 5}}}) == 5
    assert [cached_tokens(one) for one in (None, {}, {"usage": {"prompt_tokens_details": None}})] == [None] * 3


# ---- engines that enforce it

LONG = "much to compute, nothing of it cached " * 60


def listed(prefill: str, *decodes: str) -> str:
    rows = [(prefill, "prefill"), *((url, "decode") for url in decodes)]
    return json.dumps({"endpoints": [{"url": url, "model": MODEL, "role": role} for url, role in rows]})


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("apart"))
    try:
        roles = iter(["prefill", "decode", "decode"])
        made.start_engines("--output-law", "none", "--kv-lease-s", "20", each=lambda: ("--role", next(roles)), count=3)
        fleet = made.folder / "fleet.yaml"
        fleet.write_text(listed(made.engines[0].url, *(one.url for one in made.engines[1:])))
        made.start_router("--disaggregation", "nixl", "--pd-decider", "uncached:200", discover=f"file:{fleet}")
        yield made
    finally:
        made.close()


def decisions(world: World, kind: str) -> float:
    return said(world.admin, f'llm_d_epp_disagg_decision_total{{decision_type="{kind}"')


@pytest.mark.integration
@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_long_prompt_is_prefilled_elsewhere(world: World, path: str, stream: bool):
    before = [said(one.url, "vllm:prompt_tokens_total") for one in world.engines]
    text = f"{path} {stream} {LONG}"
    asks = {"model": MODEL, "max_tokens": 8, "stream": stream}
    asks |= {"prompt": text} if path == "/v1/completions" else {"messages": [{"role": "user", "content": text}]}
    with world.client() as client:
        reply = client.post(path, json=asks)
    assert reply.status_code == 200
    if stream:
        assert reply.text.count("data: ") >= 8
    else:
        assert reply.json()["usage"]["completion_tokens"] == 8
    after = [said(one.url, "vllm:prompt_tokens_total") for one in world.engines]
    assert after[0] - before[0] > 400
    assert not said(world.engines[0].url, "vllm:num_requests_running")


@pytest.mark.integration
def test_a_short_prompt_is_not(world: World):
    before = decisions(world, "decode")
    with world.client() as client:
        assert client.post("/v1/completions", json=body("short")).status_code == 200
    assert decisions(world, "decode") == before + 1


@pytest.mark.integration
def test_a_clients_own_parameters_reach_no_engine(world: World):
    with world.client() as client:
        for prompt in ("x " + LONG, "short"):
            reply = client.post("/v1/completions", json=body(prompt, kv_transfer_params={"do_remote_decode": True}))
            assert reply.status_code == 200
            assert not reply.json().get("kv_transfer_params")


@pytest.mark.integration
def test_a_client_that_leaves_stops_the_prefill(world: World):
    fault = world.engines[0].url + "/sim/fault"
    assert httpx.post(fault, json={"kind": "hang"}).status_code == 200
    try:
        with world.client() as client, pytest.raises(httpx.ReadTimeout):
            client.post("/v1/completions", json=body("leaving " + LONG), timeout=0.5)
        until(lambda: not said(world.admin, "llm_d_epp_request_running"), "the router still counts it")
    finally:
        httpx.post(fault, json={"kind": "none"})


def served_though_prefill_fails(world: World) -> tuple[int, int, float]:
    """The prefill engine answers with errors: the answer's status and tokens, and the fallbacks that were counted."""
    fault, before = world.engines[0].url + "/sim/fault", decisions(world, "fallback")
    assert httpx.post(fault, json={"kind": "error", "rate": 1.0}).status_code == 200
    try:
        with world.client() as client:
            reply = client.post("/v1/completions", json=body("failing " + LONG))
    finally:
        httpx.post(fault, json={"kind": "none"})
    return reply.status_code, reply.json()["usage"]["completion_tokens"], decisions(world, "fallback") - before


@pytest.mark.integration
def test_a_prefill_that_fails_is_the_routers_trouble_alone(world: World):
    assert served_though_prefill_fails(world) == (200, 5, 1)


class Between(BaseHTTPRequestHandler):
    """A prefill engine whose parameters promise blocks that are not kept: as after a lease that ran out."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        params = {**PARAMS, "remote_host": "127.0.0.1", "remote_port": self.server.server_port}
        data = json.dumps({"kv_transfer_params": params}).encode()
        status = 200 if self.path.startswith("/v1") else 404
        self.send_response(status)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        data = json.dumps({"data": [{"id": MODEL}]}).encode() if self.path == "/v1/models" else b""
        self.send_response(200)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_args: Any) -> None:
        return


@pytest.mark.integration
@pytest.mark.parametrize("stream", [False, True])
def test_a_decode_never_runs_on_expired_kv(world: World, stream: bool):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Between)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    fleet = world.folder / "expired.yaml"
    fleet.write_text(listed(f"http://127.0.0.1:{server.server_port}", world.engines[1].url))
    other = World(world.folder)
    try:
        other.start_router("--disaggregation", "nixl", "--pd-decider", "always", discover=f"file:{fleet}")
        with other.client() as client:
            reply = client.post("/v1/completions", json=body(f"expired {stream} {LONG}", stream=stream))
        assert reply.status_code == 200
        if stream:
            assert "error" not in reply.text
            assert reply.text.endswith("data: [DONE]\n\n")
            assert reply.text.count('"text"') == 5
        else:
            assert reply.json()["usage"]["completion_tokens"] == 5
        assert decisions(other, "fallback") == 1
    finally:
        other.close()
        server.shutdown()
