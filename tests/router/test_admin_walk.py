"""The router's HTTP interfaces beside the hot path, asked by their own OpenAPI documents over sockets."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import httpx

from router.kvevents.indexer import make_app
from router.kvevents.subscriber import Subscriber
from router.kvindex.index import KVIndex
from router.profile import DEFAULT
from router.service import RouterService
from router.settings import RouterSettings
from tests.api_walk import served, walk
from tests.router.dataplane_stubs import on_loop


def test_the_admin_port_keeps_to_its_document(tmp_path: Path):
    settings = RouterSettings(engines="http://127.0.0.1:9", port=0, admin_port=0, drain_s=0.1)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        service = asyncio.run_coroutine_threadsafe(_started(settings, tmp_path), loop).result(120)
        url = f"http://127.0.0.1:{service.admin_port}"
        seen = walk(httpx.get(f"{url}/openapi.json").json(), url)
        service.endpoints.update([])
        assert httpx.get(f"{url}/readyz").status_code == 503, "documented, and no engine is left"
        asyncio.run_coroutine_threadsafe(service.stop(), loop).result(120)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
    assert len(seen) == 7
    assert seen["GET /debug/decisions"] == {200, 422}


@on_loop
async def test_the_indexer_keeps_to_its_document():
    subscriber = Subscriber(KVIndex())
    app = make_app(subscriber)
    with served(app) as url:
        seen = await asyncio.to_thread(walk, app.openapi(), url, picky={"POST /query"})
    await subscriber.close()
    assert seen["POST /query"] >= {200, 400, 422}


async def _started(settings: RouterSettings, home: Path) -> RouterService:
    service = RouterService(settings, DEFAULT, home=home)
    await service.start()
    return service
