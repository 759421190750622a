"""The router as one process on one event loop: the proxy, its scraper, its admin port, its history."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import socket
import ssl
import time
from collections.abc import Generator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import uvicorn
from prometheus_client import CollectorRegistry

from fleet.discovery import static_fleet
from fleet.errors import ConfigError
from fleet.history import History
from fleet.settings import load_slos
from fleet.shell import bind
from predictor import artifact
from predictor.client import Watcher
from predictor.fetch import FETCHED_NAME, Fetcher, checked_url
from router.admission import Admission, PredictedHopes
from router.app import make_app
from router.config_file import FileWatcher, load_aliases, load_profile, load_tenants
from router.dataplane.gateway import Gateway
from router.director import Director
from router.disaggregation.setup import protocol, splitter
from router.discovery.choose import source
from router.discovery.follow import Follower
from router.endpoints import EndpointSet
from router.metrics import EndpointGauges, RouterCollector, RouterMetrics
from router.parts import Parts
from router.predict import Predictor
from router.profile import Profile, Scheduler
from router.records import Records
from router.scrape import Scraper
from router.settings import RouterSettings
from router.workers import Place, Workers, command

if TYPE_CHECKING:
    from router.kvevents.ears import Ears

log = logging.getLogger(__name__)

_TICK_S = 0.25
_SCRAPE_TIMEOUT_S = 5.0
_WORKERS_S = 5.0
"""The other workers drain while this one does; then they have so long."""


class _Admin(uvicorn.Server):
    """Leaves signals to the router."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


def _tls(settings: RouterSettings) -> ssl.SSLContext | None:
    """What the client port speaks; ``None``: plain HTTP.

    Raises: ConfigError for a certificate or key that cannot be used.
    """
    if settings.tls_cert is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(settings.tls_cert, settings.tls_key)
    except OSError as error:  # ssl.SSLError is one
        raise ConfigError(f"the certificate or its key cannot be used: {error}", where=str(settings.tls_cert),
                          next_step="Give PEM files with --tls-cert and --tls-key.") from error  # fmt: skip
    return context


def _unix(path: Path) -> socket.socket:
    """A listening socket of this machine's own, for this user only."""
    path.unlink(missing_ok=True)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.bind(str(path))
    sock.listen(64)
    sock.setblocking(False)
    return sock


def _check(settings: RouterSettings) -> None:
    """Refuse settings that exclude each other.

    Raises: ConfigError.
    """
    if sum(map(bool, (settings.platform, settings.engines, settings.discover))) != 1:
        raise ConfigError("name one source of engines", where="router",
                          limit="--platform URL, --engines LIST or --discover SOURCE",
                          next_step="Give exactly one of them.")  # fmt: skip
    if settings.workers > 1 and settings.record_workload is not None:
        raise ConfigError("live traffic is recorded by one worker only", where="router", limit="--workers 1",
                          next_step="Record without --workers.")  # fmt: skip
    if settings.workers > 1 and settings.kv_events.startswith("tcp://"):
        raise ConfigError("several workers cannot listen for KV events on one port", where="router",
                          limit="--workers 1", next_step="Let workers connect: ROUTER_KV_EVENTS=auto.")  # fmt: skip


def _admission(settings: RouterSettings, source: Watcher) -> Admission | None:
    if settings.slo_admission is None:
        return None
    return Admission(settings.slo_admission, PredictedHopes(source), usual=settings.slo_defaults == "admit",
                     wait_s=settings.slo_wait_s)  # fmt: skip


class RouterService:
    """Start it, and it serves until it is stopped.

    Args:
        settings: addresses, limits, times.
        profile: how endpoints are chosen.
        home: folder with the predictor's artifact.
        history: where finished requests are recorded; ``None``: nowhere.
        slo_file: latency targets of requests that name none; ``None``: they have none.
        place: which of several workers this is; ``None``: the only one.
    Raises: ConfigError when no source of engines is named, two are, or a port is taken.
    """

    def __init__(
        self,
        settings: RouterSettings,
        profile: Profile,
        *,
        home: Path,
        history: History | None = None,
        slo_file: Path | None = None,
        place: Place | None = None,
    ) -> None:
        self.settings, self.clock = settings, time.monotonic
        self._slo_file = slo_file if settings.slo_defaults != "off" else None
        _check(settings)
        self._place = place
        self._board = place.board() if place is not None else None
        self.workers: Workers | None = None
        self.records = Records(settings, history)
        self.metrics = RouterMetrics()
        self.endpoints = EndpointSet(clock=self.clock, on_gone=self._gone)
        self._ears = self._listener()
        self._fetcher = self._follow_predictor(home)
        self.director = Director(self._parts(profile, home))
        self.gateway = Gateway(self.director)
        self.gateway.tracing = self.records.tracing
        self.endpoints.on_restart = self._restarted
        self._files = self._watched()
        named = settings.platform or settings.discover
        self._platform = Follower(source(named), self.endpoints, every_s=settings.poll_s) if named else None
        self._scraper = Scraper(self.endpoints, every_s=settings.scrape_s, models_s=settings.models_s, clock=self.clock,
                                on_sample=self.director.sampled, on_done=self._watch)  # fmt: skip
        if settings.engines:
            self.endpoints.update(static_fleet(settings.engines.split(",")))
        self._tasks: list[asyncio.Task[None]] = []
        self.broken = asyncio.Event()
        """A part that must run for ever has crashed: stop, rather than route blindly."""
        self._sockets: list[socket.socket] = []

    def _parts(self, profile: Profile, home: Path) -> Parts:
        settings, watcher = self.settings, Watcher(home / self._model_name)
        return Parts(settings=settings, scheduler=Scheduler(profile), endpoints=self.endpoints,
                     metrics=self.metrics, rng=random.Random(settings.seed),
                     predict=Predictor(watcher), admission=_admission(settings, watcher),
                     slos=None if self._slo_file is None else load_slos(self._slo_file),
                     tenants=load_tenants(settings.tenants, share=1.0 / settings.workers),
                     precise=self._ears.precise if self._ears is not None else None,
                     splitter=splitter(settings), protocol=protocol(settings), board=self._board,
                     aliases=load_aliases(settings.models), record=self.records.tell)  # fmt: skip

    def _watched(self) -> Sequence[FileWatcher[Any]]:
        """Files that are read again when they change."""
        settings, found = self.settings, list[FileWatcher[Any]]()
        if settings.config is not None:
            found.append(FileWatcher(settings.config, "scheduling configuration", load_profile, self._use))
        if settings.tenants is not None:
            read = partial(load_tenants, share=1.0 / settings.workers)
            found.append(FileWatcher(settings.tenants, "file of tenants", read, self.director.tenants.use))
        if self._slo_file is not None:
            found.append(FileWatcher(self._slo_file, "SLO file", load_slos, self.director.models.promise))
        return found

    def _use(self, profile: Profile) -> None:
        for note in profile.notes:
            log.warning("%s", note)
        self.director.use(profile)

    @property
    def _model_name(self) -> str:
        """The file, in the home folder, that holds the model."""
        return FETCHED_NAME if self.settings.predictor_url else artifact.FILE_NAME

    def _follow_predictor(self, home: Path) -> Fetcher | None:
        """What fetches the model, where that is asked for; of several workers the first does it for all.

        Raises: ConfigError for a URL that cannot be used.
        """
        if not self.settings.predictor_url:
            return None
        url = checked_url(self.settings.predictor_url, where="--predictor-url or ROUTER_PREDICTOR_URL")
        if self._place is not None and self._place.index:
            return None
        return Fetcher(url, home / self._model_name, every_s=self.settings.predictor_poll_s)

    def _listener(self) -> Ears | None:
        """What hears engines' KV events, where that is asked for.

        Raises: ConfigError without the package that it takes.
        """
        if not self.settings.kv_events:
            return None
        try:
            from router.kvevents.ears import make_ears  # noqa: PLC0415 - pyzmq is an optional package
        except ImportError:
            raise ConfigError("KV events need the package pyzmq", where="--kv-events",
                              next_step="pip install 'llm-fleet[kv]'.") from None  # fmt: skip
        return make_ears(self.settings, self.endpoints, on_done=self._watch)

    def _gone(self, url: str) -> None:
        self.gateway.gone(url)
        if self._ears is not None:
            self._ears.follow.gone(url)

    def _restarted(self, url: str) -> None:
        self.director.restarted(url)
        if self._ears is not None:
            self._ears.follow.restarted(url)

    @property
    def platform_error(self) -> str:
        """Why the platform's last answer is missing; empty: it is not."""
        return self._platform.error if self._platform else ""

    @property
    def port(self) -> int:
        """The data port, once started."""
        return int(self._sockets[0].getsockname()[1])

    @property
    def admin_port(self) -> int:
        """The admin port, once started."""
        name = self._sockets[1].getsockname()
        return int(name[1]) if isinstance(name, tuple) else 0

    def bind(self) -> None:
        """Take both ports.

        Raises: ConfigError when one is taken.
        """
        settings = self.settings
        shared = self._place is not None
        self._sockets = [bind(settings.host, settings.port, what="router", setting="--port or ROUTER_PORT",
                              shared=shared)]  # fmt: skip
        if self._place is not None and self._place.index:
            self._sockets.append(_unix(self._place.socket(self._place.index)))
            return
        self._sockets.append(
            bind(settings.host, settings.admin_port, what="router admin", setting="--admin-port or ROUTER_ADMIN_PORT")
        )

    async def start(self) -> None:
        """Serve; both ports answer when this returns."""
        if not self._sockets:
            self.bind()
        loop = asyncio.get_running_loop()
        self.records.flush()
        if self._ears is not None:
            self._ears.follow.open()
        timeout = aiohttp.ClientTimeout(total=_SCRAPE_TIMEOUT_S)
        self._session = aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0))
        if self._platform is not None:
            await self._platform.look()
            self._tasks.append(loop.create_task(self._platform.run()))
        self._scraper.start(self._session)
        if self._ears is not None:
            self._ears.precise.tokens.session = self._session
            self._tasks.append(loop.create_task(self._ears.follow.run(self._session)))
            if (shared := self._ears.shared) is not None:
                self._tasks += [loop.create_task(shared.run()), loop.create_task(shared.share())]
        if self._fetcher is not None:
            self._tasks.append(loop.create_task(self._fetcher.run(self._session)))
        self._tasks.append(loop.create_task(self._ticks()))
        for task in self._tasks:
            task.add_done_callback(self._watch)
        self._server = await self._listen(loop)
        await self._start_admin()
        if self._place is not None and not self._place.index:
            self.workers = Workers(self._place, partial(command, port=self.port))
            self.workers.start()

    async def _listen(self, loop: asyncio.AbstractEventLoop) -> asyncio.Server:
        context = _tls(self.settings)
        return await loop.create_server(self.gateway.client, sock=self._sockets[0], ssl=context)

    def _watch(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a part of the router crashed: stopping", exc_info=error)
            self.broken.set()

    async def _start_admin(self) -> None:
        registry = CollectorRegistry()
        registry.register(RouterCollector(self.metrics, self._gauges, waiting=lambda: self.director.gate.lengths,
                                          late=lambda: self.director.gate.late,
                                          recorded=self.records.rows, spans=self.records.spans,
                                          targets=lambda model: self.director.models.of(model).targets))  # fmt: skip
        if self._ears is not None:
            registry.register(self._ears.collector())
        if self._fetcher is not None:
            registry.register(self._fetcher.collector())
        config = uvicorn.Config(make_app(self, registry), log_level="warning", access_log=False, lifespan="off",
                                timeout_graceful_shutdown=1)  # fmt: skip
        self._admin = _Admin(config)
        self._admin_task = asyncio.get_running_loop().create_task(self._admin.serve(sockets=[self._sockets[1]]))
        while not self._admin.started and not self._admin_task.done():  # noqa: ASYNC110 - uvicorn gives no event
            await asyncio.sleep(0.005)

    def _gauges(self) -> Sequence[EndpointGauges]:
        now_s = self.clock()
        return [
            EndpointGauges(one.url, waiting=one.sample.waiting if one.sample else None,
                           age_s=now_s - one.sampled_s if one.sample else None)
            for one in self.endpoints.ready
        ]  # fmt: skip

    async def _ticks(self) -> None:
        while True:
            for file in self._files:
                file.look()
            self.director.config_error = "; ".join(file.error for file in self._files if file.error)
            self._tick()
            await asyncio.sleep(_TICK_S)

    def _tick(self) -> None:
        self.gateway.tick(self.clock())
        self.records.flush()

    def _drain(self) -> None:
        self.gateway.drain()

    def _busy(self) -> int:
        """Requests under way, or connections that may have one."""
        return len(self.gateway.clients)

    def _abort(self) -> None:
        self.gateway.abort()

    async def stop(self) -> None:
        """Take no more requests, let those in flight finish for ``drain_s``, then close."""
        self._server.close()
        if self.workers is not None:
            self.workers.signal_stop()
        self._drain()
        end_s = self.clock() + self.settings.drain_s
        while self._busy() and self.clock() < end_s:  # noqa: ASYNC110 - fifty looks a second, at a stop only
            await asyncio.sleep(0.02)
        if busy := self._busy():
            log.warning("%d requests did not finish in %g s", busy, self.settings.drain_s)
        self._abort()
        await asyncio.sleep(0)
        await self._stop_rest()

    async def _stop_rest(self) -> None:
        if self.workers is not None:
            await self.workers.stop(within_s=_WORKERS_S)
        self._admin.should_exit = True
        await self._admin_task
        self._scraper.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._ears is not None:
            await self._ears.close()
        await self._session.close()
        if self._platform is not None:
            await self._platform.source.close()
        if self._board is not None:
            self._board.close()
        await self.records.close()
