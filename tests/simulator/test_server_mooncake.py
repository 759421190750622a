"""Mooncake's connector, simulated: legs that run at once, and engines that trust nothing."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from simulator.api_types import ApiError
from simulator.transfer import ConnectorKind, Leg, check_rank, parse_transfer
from tests.ports import free_ports

PROMPT = "a prompt that fills many blocks of the cache " * 40
TOKENS = len(PROMPT) // 4
KIND = ConnectorKind.MOONCAKE
PREFILL = {"do_remote_decode": True, "do_remote_prefill": False, "transfer_id": "t"}
DECODE = {"do_remote_decode": False, "do_remote_prefill": True, "transfer_id": "t", "remote_engine_id": "e",
          "remote_bootstrap_addr": "http://h:8998"}  # fmt: skip


class Pair:
    """A prefill engine and a decode engine that speak Mooncake."""

    def __init__(self, prefill: Any, decode: Any, port: int) -> None:
        self.prefill, self.decode, self.bootstrap = prefill.url, decode.url, f"http://127.0.0.1:{port}"
        self.client, self.pool = httpx.Client(timeout=60), ThreadPoolExecutor(4)
        (entry,) = self.client.get(self.bootstrap + "/query").json().values()
        self.engine_id = entry["engine_id"]

    def first(self, transfer_id: str, prompt: str, headers: Any = (("X-data-parallel-rank", "0"),)) -> httpx.Response:
        body = {"prompt": prompt, "max_tokens": 1, "kv_transfer_params": {**PREFILL, "transfer_id": transfer_id}}
        return self.client.post(self.prefill + "/v1/completions", json=body, headers=dict(headers))

    def second(self, transfer_id: str, prompt: str, **change: Any) -> httpx.Response:
        params = {**DECODE, "transfer_id": transfer_id, "remote_engine_id": self.engine_id,
                  "remote_bootstrap_addr": self.bootstrap, **change}  # fmt: skip
        body = {"prompt": prompt, "max_tokens": 9, "ignore_eos": True, "kv_transfer_params": params}
        return self.client.post(self.decode + "/v1/completions", json=body)

    def later(self, *args: Any, **change: Any) -> "Future[httpx.Response]":
        """The decode leg in the background."""
        return self.pool.submit(self.second, *args, **change)


@pytest.fixture(scope="module")
def pair(launch_engine: Callable[..., Any]) -> Iterator[Pair]:
    port = free_ports()
    common = ("--kv-connector", "mooncake", "--kv-bootstrap-port", str(port), "--speed", "20", "--kv-lease-s", "60")
    prefill = launch_engine("--role", "prefill", *common)
    decode = launch_engine("--role", "decode", *common)
    made = Pair(prefill.ready(), decode.ready(), port)
    yield made
    made.pool.shutdown()
    made.client.close()


@pytest.mark.integration
@pytest.mark.parametrize("order", ["prefill first", "decode first"])
def test_the_legs_meet_whichever_comes_first(pair: Pair, order: str) -> None:
    prompt = order + PROMPT
    if order == "prefill first":
        first, second = pair.first(order, prompt), pair.second(order, prompt)
    else:
        waiting = pair.later(order, prompt)
        time.sleep(0.2)
        assert not waiting.done()
        first, second = pair.first(order, prompt), waiting.result()
    assert first.status_code == 200
    assert first.json()["kv_transfer_params"] is None
    assert second.json()["usage"]["completion_tokens"] == 9
    assert second.json()["usage"]["prompt_tokens_details"]["cached_tokens"] == -(-len(prompt) // 4) - 1


@pytest.mark.integration
@pytest.mark.parametrize("change", [
    pytest.param({"remote_engine_id": "another"}, id="another-engine"),
    pytest.param({"remote_bootstrap_addr": "http://127.0.0.1:1"}, id="nobody-there"),
])  # fmt: skip
def test_a_decode_leg_that_names_the_wrong_engine_fails(pair: Pair, change: dict[str, Any]) -> None:
    assert pair.second("wrong", "wrong" + PROMPT, **change).status_code == 500


@pytest.mark.integration
def test_a_decode_leg_waits_for_the_time_of_a_lease_and_no_longer(pair: Pair) -> None:
    began = time.monotonic()
    assert pair.second("nobody", "nobody" + PROMPT).status_code == 500
    assert time.monotonic() - began > 2.0  # 60 s at a speed of 20, less a margin


@pytest.mark.integration
def test_blocks_are_fetched_once(pair: Pair) -> None:
    assert pair.first("once", "once" + PROMPT).status_code == 200
    assert pair.second("once", "once" + PROMPT).status_code == 200
    assert pair.second("once", "once again" + PROMPT).status_code == 500


@pytest.mark.integration
def test_a_prefill_leg_names_its_rank(pair: Pair) -> None:
    assert "X-data-parallel-rank" in pair.first("rankless", PROMPT, headers={}).json()["error"]["message"]
    assert pair.first("ranked", PROMPT, headers={"X-data-parallel-rank": "1"}).status_code == 400


@pytest.mark.integration
def test_metrics_of_another_connector_are_not_shown(pair: Pair) -> None:
    assert "nixl" not in pair.client.get(pair.decode + "/metrics").text


# ---- the rules themselves


def test_what_the_legs_say() -> None:
    prefill, decode = parse_transfer(PREFILL, KIND), parse_transfer(DECODE, KIND)
    assert prefill is not None
    assert decode is not None
    assert (prefill.leg, prefill.request_id) == (Leg.PREFILL, "t")
    assert (decode.leg, decode.request_id, decode.engine_id, decode.bootstrap) == (
        Leg.DECODE,
        "t",
        "e",
        "http://h:8998",
    )
    assert parse_transfer({"transfer_id": "t"}, KIND) is None
    with pytest.raises(ApiError):
        check_rank(prefill, KIND, "")
    for transfer, kind, rank in ((decode, KIND, ""), (prefill, KIND, "0"), (None, KIND, ""),
                                 (prefill, ConnectorKind.NIXL, "")):  # fmt: skip
        check_rank(transfer, kind, rank)


@pytest.mark.parametrize(("given", "said"), [
    pytest.param({**PREFILL, "transfer_id": ""}, "transfer_id", id="no-transfer"),
    pytest.param({**DECODE, "transfer_id": 7}, "transfer_id", id="a-number"),
    pytest.param({**DECODE, "remote_engine_id": None}, "remote_engine_id", id="no-engine"),
    pytest.param({**DECODE, "remote_bootstrap_addr": None}, "remote_bootstrap_addr", id="no-server"),
    pytest.param({**DECODE, "remote_bootstrap_addr": "h:8998"}, "http://", id="no-url"),
    pytest.param({**DECODE, "do_remote_decode": True}, "cannot both", id="both-ways"),
])  # fmt: skip
def test_incomplete_legs_are_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ApiError, match=said):
        parse_transfer(given, KIND)
