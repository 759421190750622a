"""Shared storage with a threshold: decode is asked first, and the prompt goes elsewhere only if it says no."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.router.picker_world import MODEL, World, body, said
from tests.router.test_disaggregation import LONG, decisions, listed, served_though_prefill_fails
from tests.waiting import until

pytestmark = pytest.mark.integration
COMPUTED = "vllm:prompt_tokens_total"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("threshold"))
    try:
        made.start_engines("--output-law", "none")
        fleet = made.folder / "fleet.yaml"
        fleet.write_text(listed(made.engines[0].url, made.engines[1].url))
        made.start_router("--disaggregation", "shared-storage", "--pd-decider", "prompt:200", "--cache-hit-threshold",
                          "0.8", discover=f"file:{fleet}")  # fmt: skip
        yield made
    finally:
        made.close()


def asks(path: str, text: str, *, stream: bool) -> dict[str, Any]:
    more = {"prompt": text} if path == "/v1/completions" else {"messages": [{"role": "user", "content": text}]}
    return {"model": MODEL, "max_tokens": 5, "stream": stream, **more}


def tokens_in(reply: httpx.Response, *, stream: bool) -> int:
    if not stream:
        return int(reply.json()["usage"]["completion_tokens"])
    assert reply.text.endswith("data: [DONE]\n\n")
    return sum(mark in line for line in reply.text.splitlines() for mark in ('"text":"', '"delta":{"content":"'))


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_new_prompt_is_computed_elsewhere_and_a_known_one_is_not(world: World, path: str, stream: bool):
    prefill = world.engines[0].url
    text = f"{path} {stream} {LONG}"
    kinds = ("prefill-decode", "decode-first", "fallback")
    before, computed = [decisions(world, kind) for kind in kinds], said(prefill, COMPUTED)
    with world.client() as client:
        for known in (False, True):
            reply = client.post(path, json=asks(path, text, stream=stream))
            assert (reply.status_code, tokens_in(reply, stream=stream)) == (200, 5)
            assert "cache_threshold" not in reply.text
            assert (said(prefill, COMPUTED) - computed > 400) is True
            if not known:
                computed_once = said(prefill, COMPUTED)
    assert said(prefill, COMPUTED) == computed_once
    assert [decisions(world, kind) - was for kind, was in zip(kinds, before, strict=True)] == [2, 1, 0]
    assert not said(world.admin, "llm_d_epp_request_running")


def test_a_clients_own_threshold_reaches_no_engine(world: World):
    with world.client() as client:
        reply = client.post("/v1/completions", json=body("short and new", cache_hit_threshold=1.0))
    assert (reply.status_code, reply.json()["choices"][0]["finish_reason"]) == (200, "length")


def test_a_prefill_that_fails_is_the_routers_trouble_alone(world: World):
    assert served_though_prefill_fails(world) == (200, 5, 1)


def test_what_the_client_asked_wrong_it_is_told(world: World):
    with world.client() as client:
        reply = client.post("/v1/completions", json=body("wrong " + LONG, temperature=-1))
    assert (reply.status_code, "temperature" in reply.text) == (400, True)


def test_a_client_that_leaves_ends_the_attempt(world: World):
    fault = world.engines[1].url + "/sim/fault"
    with world.client() as client:
        text = "leaving " + LONG
        assert client.post("/v1/completions", json=body(text)).status_code == 200
        assert httpx.post(fault, json={"kind": "hang"}).status_code == 200
        try:
            with pytest.raises(httpx.ReadTimeout):
                client.post("/v1/completions", json=body(text), timeout=0.5)
            until(lambda: not said(world.admin, "llm_d_epp_request_running"), "the router still counts it")
        finally:
            httpx.post(fault, json={"kind": "none"})
