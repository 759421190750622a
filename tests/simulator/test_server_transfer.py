"""Disaggregated prefill: both legs over real sockets, and what happens when somebody does not keep to the rules."""

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from simulator.api_types import ApiError
from simulator.transfer import Leases, Leg, Role, check_role, parse_transfer
from tests.waiting import until

PROMPT = "a prompt that fills many blocks of the cache " * 40
TOKENS = len(PROMPT) // 4
PREFILL_LEG = {"do_remote_decode": True, "do_remote_prefill": False, "remote_engine_id": None, "remote_block_ids": None,
               "remote_host": None, "remote_port": None}  # fmt: skip


class Pair:
    """A prefill engine and a decode engine."""

    def __init__(self, prefill: Any, decode: Any) -> None:
        self.prefill, self.decode = prefill.url, decode.url
        self.client = httpx.Client(timeout=60)

    def first(self, prompt: str = PROMPT, **fields: Any) -> dict[str, Any]:
        """The prefill leg as a router sends it; its ``kv_transfer_params``."""
        body = {"prompt": prompt, "max_tokens": 1, "kv_transfer_params": PREFILL_LEG, **fields}
        response = self.client.post(self.prefill + "/v1/completions", json=body)
        assert response.status_code == 200, response.text
        return response.json()["kv_transfer_params"]

    def second(self, params: dict[str, Any], prompt: str = PROMPT, **fields: Any) -> httpx.Response:
        """The decode leg."""
        body = {"prompt": prompt, "max_tokens": 9, "ignore_eos": True, "kv_transfer_params": params, **fields}
        return self.client.post(self.decode + "/v1/completions", json=body)

    def metric(self, url: str, name: str, label: str = "") -> float:
        lines = self.client.get(url + "/metrics").text.splitlines()
        return next(float(line.split()[-1]) for line in lines if line.startswith(f"vllm:{name}{{") and label in line)


@pytest.fixture(scope="module")
def pair(launch_engine: Callable[..., Any]) -> Iterator[Pair]:
    prefill = launch_engine("--role", "prefill", "--speed", "20", "--kv-lease-s", "20")
    decode = launch_engine("--role", "decode", "--speed", "20")
    made = Pair(prefill.ready(), decode.ready())
    yield made
    made.client.close()


def _fresh(prompt: str, number: int) -> str:
    return f"{number:08d}{prompt}"


@pytest.mark.integration
def test_the_prefill_leg_names_the_blocks_it_keeps(pair: Pair) -> None:
    params = pair.first(_fresh(PROMPT, 1))
    tokens = TOKENS + 2
    assert params["do_remote_prefill"] is True
    assert params["do_remote_decode"] is False
    assert (params["remote_host"], params["remote_port"]) == ("127.0.0.1", int(pair.prefill.rsplit(":", 1)[1]))
    assert params["remote_num_tokens"] == tokens
    (group,) = params["remote_block_ids"]
    assert len(set(group)) == len(group) == -(-tokens // 16)
    assert pair.metric(pair.prefill, "kv_cache_usage_perc") > 0


@pytest.mark.integration
def test_the_decode_leg_fetches_them_and_computes_one_token_of_the_prompt(pair: Pair) -> None:
    prompt = _fresh(PROMPT, 2)
    held = pair.metric(pair.prefill, "kv_cache_usage_perc")
    params = pair.first(prompt)
    before = pair.metric(pair.decode, "prompt_tokens_by_source_total", "external_kv_transfer")
    body = pair.second(params, prompt).json()
    assert body["usage"]["completion_tokens"] == 9
    assert body["usage"]["prompt_tokens_details"]["cached_tokens"] == TOKENS + 1
    fetched = pair.metric(pair.decode, "prompt_tokens_by_source_total", "external_kv_transfer") - before
    assert fetched == TOKENS + 1
    assert pair.metric(pair.decode, "nixl_bytes_transferred_count") >= 1
    until(lambda: pair.metric(pair.prefill, "kv_cache_usage_perc") <= held, "let go")


@pytest.mark.integration
def test_a_streamed_decode_leg_reads_like_any_other(pair: Pair) -> None:
    prompt = _fresh(PROMPT, 3)
    text = pair.second(pair.first(prompt), prompt, stream=True).text
    assert text.count('"finish_reason":"length"') == 1
    assert text.endswith("data: [DONE]\n\n")


@pytest.mark.integration
@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"remote_engine_id": "another"}, id="another-engine"),
        pytest.param({"remote_request_id": "never-seen"}, id="unknown-request"),
        pytest.param({"remote_block_ids": [[1, 2, 3]]}, id="wrong-blocks"),
        pytest.param({"remote_port": 1}, id="nobody-there"),
    ],
)
def test_blocks_that_are_not_kept_fail_the_request(pair: Pair, change: dict[str, Any]) -> None:
    prompt = _fresh(PROMPT, 4)
    params = pair.first(prompt)
    failed = pair.metric(pair.decode, "nixl_num_failed_transfers_total")
    response = pair.second({**params, **change}, prompt)
    assert response.status_code == 500
    assert response.json()["error"] == {"message": "Internal server error", "type": "InternalServerError",
                                        "param": None, "code": 500}  # fmt: skip
    assert pair.metric(pair.decode, "nixl_num_failed_transfers_total") == failed + 1
    assert pair.metric(pair.decode, "request_success_total", 'finished_reason="error"') >= 1
    streamed = pair.second({**params, **change}, prompt, stream=True)
    assert streamed.status_code == 200
    assert '"message":"Internal server error"' in streamed.text
    assert pair.second(params, prompt).status_code == 200


@pytest.mark.integration
def test_blocks_can_be_fetched_once(pair: Pair) -> None:
    prompt = _fresh(PROMPT, 5)
    params = pair.first(prompt)
    assert pair.second(params, prompt).status_code == 200
    other = _fresh(PROMPT, 6)  # not in the decode engine's own cache
    assert pair.second(params, other).status_code == 500


@pytest.mark.integration
def test_blocks_that_nobody_fetches_are_let_go_and_counted(launch_engine: Callable[..., Any]) -> None:
    prefill = launch_engine("--role", "both", "--speed", "20", "--kv-lease-s", "8").ready()
    pair = Pair(prefill, prefill)
    params = pair.first()
    assert pair.metric(pair.prefill, "kv_cache_usage_perc") > 0
    until(lambda: pair.metric(pair.prefill, "nixl_num_kv_expired_reqs_total") == 1, "expired")
    assert pair.metric(pair.prefill, "kv_cache_usage_perc") == 0
    assert pair.second(params, "another prompt of some blocks " * 30).status_code == 500


@pytest.mark.integration
def test_by_another_policy_the_prompt_is_computed_again(pair: Pair, launch_engine: Callable[..., Any]) -> None:
    decode = launch_engine("--role", "both", "--speed", "20", "--kv-load-failure-policy", "recompute").ready()
    params = pair.first(_fresh(PROMPT, 7))
    forgiving = Pair(decode, decode)
    response = forgiving.second({**params, "remote_request_id": "gone"}, _fresh(PROMPT, 7))
    assert response.status_code == 200
    assert response.json()["usage"]["prompt_tokens_details"]["cached_tokens"] == 0


@pytest.mark.integration
def test_a_leg_at_the_wrong_engine_is_refused(pair: Pair) -> None:
    body = {"prompt": PROMPT, "max_tokens": 1, "kv_transfer_params": PREFILL_LEG}
    response = pair.client.post(pair.decode + "/v1/completions", json=body)
    assert response.status_code == 400
    assert "a prefill leg was sent to a decode engine" in response.json()["error"]["message"]


@pytest.mark.integration
def test_requests_without_transfer_are_served_by_either(pair: Pair) -> None:
    for url in (pair.prefill, pair.decode):
        body = pair.client.post(url + "/v1/completions", json={"prompt": "x", "max_tokens": 2}).json()
        assert body["kv_transfer_params"] is None


# ---- the rules themselves

COMPLETE = {"do_remote_prefill": True, "remote_engine_id": "e", "remote_request_id": "r", "remote_host": "h",
            "remote_port": 5600, "remote_block_ids": [[1, 2], [3]]}  # fmt: skip


def test_both_forms_of_block_lists_are_read() -> None:
    nested, flat = parse_transfer(COMPLETE), parse_transfer({**COMPLETE, "remote_block_ids": [1, 2, 3]})
    assert nested is not None
    assert nested == flat
    assert (nested.leg, nested.blocks) == (Leg.DECODE, (1, 2, 3))


@pytest.mark.parametrize("given", [None, {}, {"do_remote_decode": False, "do_remote_prefill": False}])
def test_parameters_that_ask_for_nothing_are_no_leg(given: dict[str, Any] | None) -> None:
    assert parse_transfer(given) is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        pytest.param({"do_remote_decode": True}, "cannot both", id="both-ways"),
        pytest.param({"remote_block_ids": []}, "remote_block_ids", id="no-blocks"),
        pytest.param({"remote_block_ids": [[]]}, "no lists of block numbers", id="empty-groups"),
        pytest.param({"remote_block_ids": ["a"]}, "no lists of block numbers", id="no-numbers"),
        pytest.param({"remote_engine_id": None}, "remote_engine_id", id="no-engine"),
        pytest.param({"remote_port": "5600"}, "remote_port", id="port-as-text"),
    ],
)
def test_incomplete_parameters_are_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ApiError, match=said):
        parse_transfer({**COMPLETE, **change})


@pytest.mark.parametrize(
    ("role", "leg", "taken"),
    [
        (Role.BOTH, Leg.PREFILL, True), (Role.BOTH, Leg.DECODE, True), (Role.PREFILL, Leg.PREFILL, True),
        (Role.PREFILL, Leg.DECODE, False), (Role.DECODE, Leg.DECODE, True), (Role.DECODE, Leg.PREFILL, False),
    ],
)  # fmt: skip
def test_roles_take_their_legs(role: Role, leg: Leg, *, taken: bool) -> None:
    transfer = parse_transfer({"do_remote_decode": True} if leg is Leg.PREFILL else COMPLETE)
    if taken:
        check_role(transfer, role)
    else:
        with pytest.raises(ApiError, match="was sent to"):
            check_role(transfer, role)


def test_a_lease_is_claimed_in_time_or_not_at_all() -> None:
    leases = Leases("e", capacity=100, lease_s=30.0)
    lease = leases.add("r", blocks=3, tokens=40, now_s=0.0)
    assert leases.claim("e", "r", lease.blocks, now_s=29.0) is lease
    assert leases.next_expiry_s() == 59.0  # a transfer that has begun renews it
    assert leases.claim("e", "r", lease.blocks, now_s=60.0) is None
    assert leases.expired(60.0) == [lease]
    assert len(leases) == 0


def test_block_numbers_of_leases_differ_and_stay_inside_the_cache() -> None:
    leases = Leases("e", capacity=10, lease_s=1.0)
    first, second = (leases.add(name, blocks=4, tokens=64, now_s=0.0).blocks for name in "ab")
    assert not set(first) & set(second)
    assert all(0 < number < 10 for number in (*first, *second))
