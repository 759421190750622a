"""``fleet router indexer`` as a process: a subscriber, its engines if any are named, and HTTP."""

from __future__ import annotations

import asyncio
import logging
import time

import aiohttp
import uvicorn

from fleet.discovery import static_fleet
from fleet.shell import bind
from fleet.stopping import on_stop
from router.endpoints import EndpointSet
from router.kvevents.follow import Follow
from router.kvevents.indexer import make_app
from router.kvevents.places import plan
from router.kvevents.subscriber import Subscriber
from router.kvindex.index import KVIndex

_TIMEOUT_S = 5.0
log = logging.getLogger(__name__)


async def serve(*, host: str, port: int, kv_events: str, engines: str, every_s: float = 0.5) -> None:
    """Serve until told to stop.

    Raises: ConfigError for an address that cannot be used.
    """
    how = plan(kv_events)
    endpoints = EndpointSet(clock=time.monotonic)
    subscriber = Subscriber(KVIndex())
    follow = Follow(subscriber, how, endpoints, every_s=every_s)
    if engines:
        endpoints.update(static_fleet(engines.split(",")))
    follow.open()
    socket = bind(host, port, what="indexer", setting="--port")
    server = uvicorn.Server(uvicorn.Config(make_app(subscriber), log_level="warning", access_log=False, lifespan="off"))
    log.info("listening on http://%s:%d", host, socket.getsockname()[1])
    on_stop(lambda: setattr(server, "should_exit", True))
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S)) as session:
        following = asyncio.get_running_loop().create_task(follow.run(session))
        serving = asyncio.get_running_loop().create_task(server.serve(sockets=[socket]))
        done, _ = await asyncio.wait((following, serving), return_when=asyncio.FIRST_COMPLETED)
        server.should_exit = True
        following.cancel()
        await asyncio.gather(following, serving, return_exceptions=True)
    await subscriber.close()
    for task in done:
        task.result()
