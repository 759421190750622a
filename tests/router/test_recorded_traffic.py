"""Why a request went where it went, told on request; live traffic recorded and replayed; a profile read again."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.routing import catalog
from benchmarks.routing.arms import LeastRequest
from benchmarks.routing.run import Simulation
from fleet.errors import ConfigError
from router.config import parse_profile
from router.config_file import load_profile
from router.profile import DEFAULT
from router.replayable import hash_ids
from router.service import RouterService
from router.settings import RouterSettings
from router.tape import Tape
from router.tenants import hashed
from simulator.traces import read_source
from simulator.workload import TraceSource
from tests.router.dataplane_stubs import Engine, completion, events, on_loop, plain, routed, until
from tests.router.test_router_app import ask, engine_script, started

EXPLAIN = b"X-Fleet-Explain: 1"


@on_loop
async def test_a_client_is_told_why_only_where_that_is_allowed_and_only_on_request():
    async with Engine(plain) as engine:
        async with routed(engine, explain=True) as router:
            client = await router.connect()
            told = await client.ask(completion(EXPLAIN))
            silent = await client.ask(completion())
        async with routed(engine) as router:
            refused = await (await router.connect()).ask(completion(EXPLAIN))
    decision = json.loads(told.headers["x-fleet-decision"])
    assert (decision["endpoint"], decision["reason"]) == (engine.url, "picked")
    assert decision["scores"][engine.url]["least-delay"] == 1.0
    for answer in (silent, refused):
        assert "x-fleet-decision" not in answer.headers
    assert all("x-fleet-explain" not in request.headers for request in engine.requests)


@on_loop
async def test_a_session_stays_where_it_was_where_the_profile_says_so():
    async with Engine(plain) as one, Engine(plain) as two, routed(one, two) as router:
        router.gateway.director.use(parse_profile("{scorers: [{type: session-affinity}], selection: {topK: 1}}"))
        client = await router.connect()
        for name in (b"a", b"b", b"c"):
            for _ in range(6):
                await client.ask(completion(b"X-Session-Id: " + name))
    assert sorted({len(one.requests), len(two.requests)}) in ([0, 18], [6, 12])
    by_session = [{request.headers["x-session-id"] for request in engine.requests} for engine in (one, two)]
    assert not by_session[0] & by_session[1]


def usage(prompt, answer):
    body = b'data: {"choices":[],"usage":{"prompt_tokens":%d,"completion_tokens":%d}}\n\n' % (prompt, answer)
    return events(b'data: {"choices":[{"text":"x"}]}\n\n', body, b"data: [DONE]\n\n")


def text(*words):
    """A prompt: 2048 bytes (512 tokens) a word."""
    return "".join((word * 2048)[:2048] for word in words)


@on_loop
async def test_recorded_traffic_is_replayed_as_it_was(tmp_path):
    """Lengths as the engine said them, what prompts share, no text; and the bench runs on it."""
    path = tmp_path / "recorded.jsonl"
    asked = [text("ab", "cd", "x"), text("ab", "cd", "y"), text("ef", "cd")]
    async with Engine(engine_script(usage(1600, 7))) as engine:
        service = await started(engine.url, tmp_path, record_workload=path)
        for prompt in asked:
            await ask(service.port, completion(prompt=prompt, stream=True))
        await ask(service.port, completion(prompt="refused", model="other"))
        await service.stop()
    source = read_source(path)
    assert isinstance(source, TraceSource)
    rows = source.requests
    assert [(row.input_tokens, row.output_tokens, row.model) for row in rows] == [(1600, 7, "m")] * 3
    one, two, three = (row.hash_ids for row in rows)
    assert one[0] == two[0] != three[0]
    assert len(one) == 3
    assert one[-1] != two[-1]
    assert "abab" not in path.read_text()
    assert rows[0].arrival_s <= rows[1].arrival_s <= rows[2].arrival_s
    make, _ = catalog.find(str(path), [])
    served = Simulation(make(1), LeastRequest, seed=1).run(make(1).stages[0])
    assert [one.prompt_tokens for one in sorted(served, key=lambda one: one.sent_s)] == [1600] * 3


def test_a_recording_that_cannot_be_written_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match="cannot be written"):
        Tape(tmp_path)


blocks = st.lists(st.integers(0, 2**64 - 1), max_size=40, unique=True)


@given(blocks, st.floats(1, 600), st.integers(0, 30_000), st.integers(0, 2**64 - 1))
def test_ids_are_of_full_blocks_and_small(hashes, block, tokens, seed):
    ids = hash_ids(hashes, block_tokens=block, input_tokens=tokens, seed=seed)
    assert len(ids) <= tokens // 512
    assert all(0 <= each < 2**48 for each in ids)


even = st.lists(st.integers(0, 2**63 - 1).map(lambda half: 2 * half), max_size=40, unique=True)


@given(even, even, st.sampled_from([16, 20, 64, 128, 512]))
def test_prompts_share_ids_as_far_as_they_share_blocks(common, rest, block):
    tokens = block * (len(common) + len(rest))
    one = hash_ids([*common, *rest], block_tokens=block, input_tokens=tokens, seed=1)
    two = hash_ids([*common, *[each ^ 1 for each in rest]], block_tokens=block, input_tokens=tokens, seed=1)
    shared = len(common) * block // 512
    assert one[:shared] == two[:shared]
    if block <= 512:
        assert not set(one[shared + 1 :]) & set(two[shared + 1 :])
    other = hash_ids([*common, *rest], block_tokens=block, input_tokens=tokens, seed=2)
    assert not set(one) & set(other), "another recording's ids mean nothing here"


@on_loop
async def test_a_changed_profile_is_used_at_once_and_a_wrong_one_not(tmp_path, caplog):
    path = tmp_path / "router.yaml"
    path.write_text("profile: documents")
    async with Engine(engine_script()) as engine:
        settings = RouterSettings(engines=engine.url, port=0, admin_port=0, config=path)
        service = RouterService(settings, load_profile(path), home=tmp_path)
        await service.start()
        await ask(service.port, completion(prompt="x" * 4096))
        director = service.director
        assert len(director.known.prefix) == 16
        _replace(path, "{profile: documents, selection: {topK: 1}}")
        await until(lambda: director.scheduler.profile.picker.top_k == 1)
        assert len(director.known.prefix) == 16, "what is remembered of prompts is kept"
        _replace(path, "{scorers: [{type: prefix-awar}]}")
        await until(lambda: director.config_error)
        assert "Did you mean 'prefix-aware'" in director.config_error
        assert director.scheduler.profile.picker.top_k == 1
        answer = await ask(service.port, completion())
        assert answer.status == 200
        _replace(path, "{scorers: [{type: prefix-aware, parameters: {hashBlockSize: 32}}]}")
        await until(lambda: director.scheduler.profile.prefix.block_tokens == 32)
        assert (director.config_error, len(director.known.prefix)) == ("", 0)
        await service.stop()
    assert len([record for record in caplog.records if "is not used" in record.message]) == 1


@on_loop
async def test_changed_tenants_are_used_at_once_and_wrong_ones_not(tmp_path, caplog):
    path, old, new = tmp_path / "tenants.yaml", b"sk-fleet-old", b"sk-fleet-new"
    path.write_text(f'tenants: [{{name: search, keys: ["{hashed(old)}"]}}]')
    async with Engine(engine_script()) as engine:
        settings = RouterSettings(engines=engine.url, port=0, admin_port=0, tenants=path)
        service = RouterService(settings, DEFAULT, home=tmp_path)
        await service.start()

        async def status(key):
            return (await ask(service.port, completion(b"Authorization: Bearer " + key))).status

        assert (await status(old), await status(new)) == (200, 401)
        _replace(path, f'tenants: [{{name: search, keys: ["{hashed(new)}"]}}]')
        await until(lambda: service.director.tenants.identify(b"Bearer " + new))
        assert (await status(old), await status(new)) == (401, 200)
        for wrong in ("tenants: []", "tenants: [{name: search, keys: [plain]}]", "tenants: ["):
            _replace(path, wrong)
            said = service.director.config_error
            await until(lambda: service.director.config_error not in ("", said))  # noqa: B023
            assert await status(new) == 200
        await service.stop()
    assert len([record for record in caplog.records if "is not used" in record.message]) == 3


def _replace(path, content):
    staged = path.with_suffix(".new")
    staged.write_text(content)
    staged.replace(path)
