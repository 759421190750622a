"""Breaker, retries of what was turned away, aliases, model header, TLS, access log: over real sockets."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import ssl
import subprocess
import time
from collections import Counter

import pytest

from fleet.errors import ConfigError
from router.access_log import AccessLog
from router.aliases import parse_aliases, renamed
from router.config_file import load_profile
from router.service import RouterService
from router.settings import RouterSettings
from tests.router.dataplane_stubs import Engine, completion, events, on_loop, plain, raw, routed, until

BUSY = raw(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nbusy")
FAULT = raw(b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 4\r\n\r\nboom")


@on_loop
async def test_what_an_engine_turned_away_another_serves():
    async with Engine(BUSY) as bad, Engine(plain) as good, routed(bad, good) as router:
        client = await router.connect()
        answers = [await client.ask(completion(prompt=f"{number} " * 9)) for number in range(8)]
        assert [answer.status for answer in answers] == [200] * 8
        assert bad.requests
        assert router.gateway.director.ledger.of(bad.url).requests_in_flight == 0


@on_loop
async def test_turned_away_by_all_the_last_answer_is_passed_on():
    async with Engine(BUSY) as one, Engine(BUSY) as two, routed(one, two) as router:
        answer = await (await router.connect()).ask(completion())
        assert (answer.status, answer.body) == (503, b"busy")
        assert len(one.requests) + len(two.requests) == 2


@on_loop
async def test_a_500_may_have_been_worked_on_and_is_not_sent_again():
    async with Engine(FAULT) as one, Engine(FAULT) as two, routed(one, two) as router:
        assert (await (await router.connect()).ask(completion())).status == 500
        assert len(one.requests) + len(two.requests) == 1


@on_loop
async def test_a_burst_of_5xx_has_the_engine_left_out_until_it_is_well():
    async with (
        Engine(*[FAULT] * 3, plain) as bad, Engine(plain) as good,
        routed(bad, good, breaker_failures=3, eject_s=1.0) as router,
    ):  # fmt: skip
        director = router.gateway.director
        endpoint = director.endpoints.get(bad.url)
        client = await router.connect()
        for number in range(40):
            await client.ask(completion(prompt=f"{number} " * 9))
            if endpoint.ejected(time.monotonic()):
                break
        assert len(bad.requests) == 3
        before = len(bad.requests)
        for number in range(10):
            assert (await client.ask(completion(prompt=f"again {number} " * 9))).status == 200
        assert len(bad.requests) == before
        await asyncio.sleep(1.1)
        endpoint.reached(started_s=time.monotonic())
        for number in range(40):
            await client.ask(completion(prompt=f"later {number} " * 9))
        assert len(bad.requests) > before
        assert (endpoint.streak, endpoint.trips) == (0, 0)


@on_loop
async def test_a_long_generation_trips_nothing():
    script = events(*[b"data: {}\n\n"] * 10, gap_s=0.03)
    async with Engine(script) as engine, routed(engine, breaker_failures=1) as router:
        client = await router.connect()
        assert (await client.ask(completion(stream=True))).complete
        assert not router.gateway.director.endpoints.get(engine.url).ejections


@on_loop
async def test_an_alias_is_split_by_weight_and_the_engine_sees_the_model():
    aliases = parse_aliases("models: [{name: gpt, targets: [{model: m, weight: 3}, {model: n}]}]")
    async with Engine() as engine, routed(engine) as router:
        director = router.gateway.director
        director.aliases = aliases
        director.endpoints.get(engine.url).models = frozenset({"m", "n"})
        client = await router.connect()
        for _ in range(60):
            assert (await client.ask(completion(b"X-Gateway-Model-Name: evil", model="gpt"))).status == 200
        seen = Counter(json.loads(request.body)["model"] for request in engine.requests)
        assert set(seen) == {"m", "n"}
        assert seen["m"] > seen["n"]
        for request in engine.requests:
            assert request.headers["x-gateway-model-name"] == json.loads(request.body)["model"]


@pytest.mark.parametrize("model", ["a\r\nx-evil: 1", "a\nb", "\u00e9", "a\x00b"])
def test_no_model_name_breaks_out_of_its_header(model):
    @on_loop
    async def check():
        async with Engine() as engine, routed(engine) as router:
            router.gateway.director.endpoints.get(engine.url).models = frozenset({model})
            answer = await (await router.connect()).ask(completion(model=model))
            assert answer.status == 200
            (request,) = engine.requests
            assert "x-evil" not in request.headers
            assert "x-gateway-model-name" not in request.headers

    check()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param("models: [{name: a}]", "targets", id="no-targets"),
        pytest.param("models: [{name: a, targets: []}]", "needs a target", id="none"),
        pytest.param("models: [{name: a, targets: [{model: b, weight: 0}]}]", "above 0", id="weight-of-nothing"),
        pytest.param("models: [{name: a, targets: [{modle: b}]}]", "model", id="misspelt"),
    ],
)
def test_wrong_aliases_are_refused_with_their_line(text, says):
    with pytest.raises(ConfigError, match=says) as caught:
        parse_aliases(text)
    assert "line 1" in str(caught.value)


def test_a_split_keeps_to_its_weights():
    split = parse_aliases("models: [{name: a, targets: [{model: b, weight: 1}, {model: c, weight: 9}]}]")["a"]
    rng = random.Random(1)
    seen = Counter(split.draw(rng) for _ in range(2000))
    assert 0.07 < seen["b"] / 2000 < 0.13


def test_renaming_leaves_all_else_as_it_was():
    body = b'{"model":"a","x":1e3,"y":"\\u00e9","z":[1,2,{"model":"inner"}]}'
    assert json.loads(renamed(body, "b")) == {**json.loads(body), "model": "b"}


@on_loop
async def test_the_access_log_tells_of_every_request_and_of_no_text(tmp_path):
    path = tmp_path / "access.jsonl"
    log = AccessLog(path)
    async with Engine() as engine, routed(engine) as router:
        client = await router.connect()
        await client.ask(completion(b"Authorization: Bearer sk-secret", prompt="a very secret prompt"))
        await client.ask(completion(model="nobody"))
        for row in router.records:
            log(*row)
    log.close()
    good, refused = (json.loads(line) for line in path.read_text().splitlines())
    assert (good["status"], good["outcome"], good["endpoint"], good["output_tokens"]) == (200, "ok", engine.url, 3)
    assert (refused["status"], refused["endpoint"]) == (404, "")
    assert "secret" not in path.read_text()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_clients_are_served_over_tls(tmp_path):
    made = subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost", "-addext",
         "subjectAltName=DNS:localhost", "-keyout", str(tmp_path / "key"), "-out", str(tmp_path / "cert")],
        check=False, capture_output=True,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr

    @on_loop
    async def check():
        async with Engine() as engine:
            settings = RouterSettings(engines=engine.url, port=0, admin_port=0, tls_cert=tmp_path / "cert",
                                      tls_key=tmp_path / "key", drain_s=0)  # fmt: skip
            service = RouterService(settings, load_profile(None), home=tmp_path)
            await service.start()
            context = ssl.create_default_context(cafile=str(tmp_path / "cert"))
            reader, writer = await asyncio.open_connection("127.0.0.1", service.port, ssl=context,
                                                           server_hostname="localhost")  # fmt: skip
            writer.write(completion())
            assert b" 200 " in await reader.readline()
            plain_reader, plain_writer = await asyncio.open_connection("127.0.0.1", service.port)
            plain_writer.write(completion())
            assert b"200" not in await plain_reader.read(-1)
            writer.close()
            plain_writer.close()
            await until(lambda: not len(service.director.ledger))
            await service.stop()

    check()


def test_a_certificate_that_cannot_be_used_is_said_in_one_line(tmp_path):
    (tmp_path / "cert").write_text("nothing")

    @on_loop
    async def check():
        async with Engine() as engine:
            settings = RouterSettings(engines=engine.url, port=0, admin_port=0, tls_cert=tmp_path / "cert")
            service = RouterService(settings, load_profile(None), home=tmp_path)
            with pytest.raises(ConfigError, match="certificate"):
                await service.start()

    check()
