"""A router's model over HTTP: only whole, sound artifacts get in, and the last good one stays."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from prometheus_client import CollectorRegistry
from starlette.testclient import TestClient

from fleet import signals
from fleet.errors import ConfigError
from predictor import artifact, fetch
from predictor.client import Watcher
from predictor.fetch import Fetcher, checked_url, tag_of
from predictor.fit import fit_once
from predictor.learner import Learner
from predictor.model import LatencyModel
from predictor.samples import dataset
from predictor.server import make_app
from predictor.settings import PredictorSettings


@pytest.fixture(scope="module")
def models(world) -> list[dict[str, Any]]:
    """Two artifacts."""
    fitted = [fit_once(dataset(world(300)), now_s=1_700_000_000.0 + n).model for n in range(2)]
    return [artifact.to_dict(one) for one in fitted if isinstance(one, LatencyModel)]


class Service:
    """A predictor as the network shows it; ``reply`` is what it answers."""

    def __init__(self) -> None:
        self.reply: Callable[[web.Request], Awaitable[web.StreamResponse]] = self.cold
        self.asked: list[str] = []

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.headers.get("If-None-Match", ""))
        return await self.reply(request)

    async def cold(self, _request: web.Request) -> web.StreamResponse:
        return web.Response(status=503)

    def serve(self, data: dict[str, Any], *, tag: str | None = None) -> None:
        async def reply(request: web.Request) -> web.StreamResponse:
            etag = tag_of(data["checksum"]) if tag is None else tag
            if etag and request.headers.get("If-None-Match") == etag:
                return web.Response(status=304)
            return web.Response(body=json.dumps(data), headers={"ETag": etag} if etag else {})

        self.reply = reply

    def say(self, **answer: Any) -> None:
        async def reply(_request: web.Request) -> web.StreamResponse:
            return web.Response(**answer)

        self.reply = reply


def follow(path: Path, script: Callable[[Service, Callable[[], Awaitable[bool]], Fetcher], Awaitable[None]]) -> None:
    """Run ``script`` with a service, a way to look once, and the fetcher."""

    async def run() -> None:
        service, app = Service(), web.Application()
        app.router.add_get("/model/download", service.handle)
        async with TestServer(app) as server, aiohttp.ClientSession() as session:
            fetcher = Fetcher(str(server.make_url("")).rstrip("/"), path, clock=lambda: 5.0)
            await script(service, lambda: fetcher.look(session), fetcher)

    asyncio.run(run())


def test_a_new_model_is_put_in_place_and_asked_for_only_once(tmp_path: Path, models):
    watcher = Watcher(tmp_path / "m.json", check_s=0.0)

    async def script(service, look, fetcher):
        assert not await look()
        assert watcher.cold
        assert (fetcher.failures, fetcher.checked_s) == (0, 5.0)
        service.serve(models[0])
        assert await look()
        assert watcher.model is not None
        assert watcher.model.fitted_at_s == models[0]["fitted_at_s"]
        assert not await look()
        assert service.asked[-1] == tag_of(models[0]["checksum"])
        service.serve(models[1])
        assert await look()
        assert watcher.model.fitted_at_s == models[1]["fitted_at_s"]
        assert fetcher.failures == 0

    follow(tmp_path / "m.json", script)


def _spoiled(models, **changes: Any) -> bytes:
    return json.dumps({**models[1], **changes}).encode()


BAD = {
    "another checksum": lambda m: {"body": _spoiled(m, fitted_at_s=1.0)},
    "another schema": lambda m: {"body": json.dumps(artifact.signed({**m[1], "schema": 1})).encode()},
    "half of it": lambda m: {"body": json.dumps(m[1]).encode()[:-200]},
    "no JSON": lambda _m: {"body": b"<html>"},
    "another tag": lambda m: {"body": json.dumps(m[1]).encode(), "headers": {"ETag": '"sha256:0"'}},
    "too large": lambda m: {"body": json.dumps(m[1]).encode() + b" " * 2000},
    "an error": lambda _m: {"status": 500},
    "a redirect": lambda _m: {"status": 307, "headers": {"Location": "/elsewhere"}},
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_sound_model_changes_nothing(tmp_path: Path, models, name, monkeypatch, caplog):
    monkeypatch.setattr(fetch, "MAX_BYTES", len(json.dumps(models[1])) + 1000)
    watcher = Watcher(tmp_path / "m.json", check_s=0.0)

    async def script(service, look, fetcher):
        service.serve(models[0])
        await look()
        service.say(**BAD[name](models))
        for _ in range(3):
            assert not await look()
        assert watcher.model.fitted_at_s == models[0]["fitted_at_s"]
        assert fetcher.failures == 3
        assert fetcher.error
        service.serve(models[1])
        assert await look()
        assert fetcher.error == ""
        assert watcher.model.fitted_at_s == models[1]["fitted_at_s"]

    with caplog.at_level(logging.WARNING):
        follow(tmp_path / "m.json", script)
    assert len(caplog.records) == 1  # said once, not at every look
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.json"]


def test_a_predictor_that_is_gone_leaves_the_model_and_the_next_process_finds_it(tmp_path: Path, models):
    path = tmp_path / "m.json"

    async def fetched(service, look, _fetcher):
        service.serve(models[0])
        await look()

    async def gone() -> Fetcher:
        fetcher = Fetcher("http://127.0.0.1:9", path)
        async with aiohttp.ClientSession() as session:
            assert not await fetcher.look(session)
        return fetcher

    follow(path, fetched)
    fetcher = asyncio.run(gone())
    assert fetcher.failures == 1
    assert fetcher.checked_s is None
    assert Watcher(path).model is not None


def test_a_file_that_was_lost_is_fetched_again(tmp_path: Path, models):
    async def script(service, look, fetcher):
        service.serve(models[0])
        await look()
        fetcher.path.unlink()
        assert await look()
        assert fetcher.path.exists()

    follow(tmp_path / "m.json", script)


def test_the_real_service_and_the_fetcher_agree(tmp_path: Path, models):
    """What the predictor's own app answers is what the fetcher takes; known tags are answered without a body."""
    (tmp_path / "model.json").write_text(json.dumps(models[0]))
    learner = Learner(PredictorSettings(), history_url=f"sqlite:///{tmp_path / 'h.sqlite3'}",
                      model_path=tmp_path / "model.json")  # fmt: skip
    client = TestClient(make_app(learner))
    assert client.get("/model/download").status_code == 503
    learner.restore()
    whole = client.get("/model/download")
    etag = whole.headers["etag"]
    assert etag == tag_of(models[0]["checksum"])
    for header in (etag, f'W/{etag}, "other"'):
        again = client.get("/model/download", headers={"If-None-Match": header})
        assert (again.status_code, again.content) == (304, b"")
    assert client.get("/model/download", headers={"If-None-Match": '"other"'}).status_code == 200

    async def script(service, look, _fetcher):
        service.say(body=whole.content, headers={"ETag": etag})
        assert await look()

    follow(tmp_path / "m.json", script)
    assert (tmp_path / "m.json").read_bytes() == whole.content


def test_failures_and_freshness_are_metrics(tmp_path: Path, models):
    async def script(service, look, fetcher):
        registry = CollectorRegistry()
        registry.register(fetcher.collector())
        read = registry.get_sample_value
        assert read(signals.ROUTER_MODEL_CHECKED.name) is None
        service.say(status=500)
        await look()
        service.serve(models[0])
        await look()
        assert read(signals.ROUTER_MODEL_FAILURES.name) == 1
        assert read(signals.ROUTER_MODEL_CHECKED.name) == 5.0

    follow(tmp_path / "m.json", script)


@pytest.mark.parametrize("url", ["", "predictor:8090", "ftp://predictor", "http://", "http://h:x"])
def test_a_wrong_address_is_refused(url):
    with pytest.raises(ConfigError, match="--predictor-url"):
        checked_url(url, where="--predictor-url")
    assert checked_url("http://predictor:8090/", where="") == "http://predictor:8090"
