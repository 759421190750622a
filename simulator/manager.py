"""A small platform: keeps the replicas of each variant running as engines, and scales them.

One task watches each replica: it starts the engine, sees it become healthy, and starts it anew with back-off when it
dies. A replica that is scaled away is announced as ``stopping``, finishes its requests, and only then ends.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import aiohttp
import msgspec

from fleet.errors import ConfigError, FleetError
from fleet.shell import bind
from fleet.types import Replica, ReplicaState, Variant, VariantSpec
from simulator.hosting import Host, LocalHost, ProcessHost, Running, VllmHost, end
from simulator.settings import FleetFile, SimSettings, VariantEntry

log = logging.getLogger(__name__)
POLL_S = 0.2
"""How often a starting or draining replica is asked."""
STABLE_S = 60.0
"""After that long in readiness a crash counts as the first one again."""
BACKOFF_MAX_S = 30.0


class _Load(msgspec.Struct):
    server_load: int


class ScaleError(FleetError):
    """A scale request that the platform refuses."""


@dataclass(slots=True, eq=False)
class Managed:
    """A replica with its engine."""

    name: str
    entry: VariantEntry
    host: str
    port: int
    state: ReplicaState = ReplicaState.STARTING
    since_s: float = field(default_factory=time.time)
    engine: Running | None = None
    watcher: asyncio.Task[None] | None = None

    def enter(self, state: ReplicaState) -> None:
        """Change state now; ``stopping`` is final."""
        if self.state is not state and self.state is not ReplicaState.STOPPING:
            self.state, self.since_s = state, time.time()


def backoff_s(failures: int) -> float:
    """Seconds before the next start after ``failures`` crashes in a row.

    >>> [backoff_s(n) for n in (1, 2, 3, 10)]
    [0.5, 1.0, 2.0, 30.0]
    """
    return float(min(BACKOFF_MAX_S, 0.5 * 2 ** (failures - 1)))


class Manager:
    """Replicas of all variants. Lives on one event loop; :meth:`start` first, :meth:`stop` last."""

    def __init__(self, fleet: FleetFile, settings: SimSettings) -> None:
        """Nothing runs yet.

        Raises: ConfigError when vLLM is asked for and not there, or engines' bootstrap servers would meet on one port.
        """
        check_bootstrap_ports(fleet.variants, settings.host)
        self._fleet, self._settings = fleet, settings
        self._host = host_of(settings)
        self._entries = {entry.name: entry for entry in fleet.variants}
        self._requested = {entry.name: entry.first_replicas for entry in fleet.variants}
        self._replicas: dict[str, list[Managed]] = {name: [] for name in self._entries}
        self._numbers = {name: itertools.count() for name in self._entries}
        self._next_port = settings.engine_port_base
        self.restarts = dict.fromkeys(self._entries, 0)
        """Engine restarts by variant."""
        self._retiring: set[asyncio.Task[None]] = set()
        self._session: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        """Start the initial replicas."""
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2.0))
        for name in self._entries:
            self._reconcile(name)

    async def stop(self) -> None:
        """End every engine, drained or not."""
        tasks = [*self._retiring]
        everyone = [replica for replicas in self._replicas.values() for replica in replicas]
        tasks += [replica.watcher for replica in everyone if replica.watcher is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(end(replica.engine) for replica in everyone))
        if self._session is not None:
            await self._session.close()

    def variants(self) -> tuple[Variant, ...]:
        """What there is now."""
        return tuple(
            Variant(spec=self._spec(entry), requested=self._requested[name],
                    replicas=tuple(self._public(replica) for replica in self._replicas[name]))
            for name, entry in self._entries.items()
        )  # fmt: skip

    @property
    def gpus(self) -> dict[str, int] | None:
        """GPUs that there are, by accelerator; ``None``: no limit."""
        return self._fleet.gpus

    def _spec(self, entry: VariantEntry) -> VariantSpec:
        """How long a real server takes to start is not ours to say."""
        spec = entry.spec(self._fleet.model)
        return replace(spec, startup_s=None) if self._settings.vllm else spec

    def _public(self, replica: Managed) -> Replica:
        return Replica(name=replica.name, url=self._url(replica), variant=replica.entry.name, state=replica.state,
                       since_s=replica.since_s)  # fmt: skip

    def _url(self, replica: Managed) -> str:
        return f"http://{replica.host}:{replica.port}"

    def scale(self, name: str, replicas: int) -> None:
        """Ask for ``replicas`` of a variant; returns at once.

        Raises: KeyError for an unknown variant, ScaleError outside 0..max_replicas.
        """
        limit = self._entries[name].max_replicas
        if not 0 <= replicas <= limit:
            raise ScaleError(f"{replicas} replicas asked for", where=name, limit=f"0..{limit}",
                             next_step="Ask for fewer, or raise max_replicas.")  # fmt: skip
        if replicas != self._requested[name]:
            log.info("%s: %d -> %d replicas", name, self._requested[name], replicas)
        self._requested[name] = replicas
        self._reconcile(name)

    def _reconcile(self, name: str) -> None:
        kept = [replica for replica in self._replicas[name] if replica.state is not ReplicaState.STOPPING]
        for _ in range(self._requested[name] - len(kept)):
            self._add(self._entries[name])
        # Those that serve nothing go first, then the youngest that is ready.
        kept.sort(key=lambda replica: (replica.state is not ReplicaState.READY, replica.since_s))
        for replica in reversed(kept[self._requested[name] :]):
            serving = replica.state is ReplicaState.READY
            replica.enter(ReplicaState.STOPPING)
            task = asyncio.ensure_future(self._retire(replica, serving=serving))
            self._retiring.add(task)
            task.add_done_callback(self._retiring.discard)

    def _add(self, entry: VariantEntry) -> None:
        name, host = f"{entry.name}-{next(self._numbers[entry.name])}", self._address(entry)
        replica = Managed(name=name, entry=entry, host=host, port=self._free_port(host))
        self._replicas[entry.name].append(replica)
        replica.watcher = asyncio.ensure_future(self._watch(replica))

    def _address(self, entry: VariantEntry) -> str:
        """Where its next replica listens: with a bootstrap server on an address of its own, where there are many."""
        if not entry.has_bootstrap or not has_many_addresses(self._settings.host):
            return self._settings.host
        taken = {replica.host for replicas in self._replicas.values() for replica in replicas}
        return next(host for host in map(loopback, itertools.count(1)) if host not in taken)

    def _free_port(self, host: str) -> int:
        """The next port nobody listens on; a port is not used again soon, so that a URL means one replica."""
        for _ in range(2000):
            port = self._next_port
            self._next_port = self._next_port + 1 if port < 65_000 else self._settings.engine_port_base
            try:
                bind(host, port, what="engine", setting="--engine-port-base").close()
            except ConfigError:
                continue
            return port
        raise ConfigError("no free port for an engine", where=host,
                          next_step="Choose another --engine-port-base.")  # fmt: skip

    # ---- one replica's life

    async def _watch(self, replica: Managed) -> None:
        failures = 0
        for attempt in itertools.count():
            started = time.monotonic()
            end = await self._run_once(replica, attempt)
            failures = 1 if time.monotonic() - started > replica.entry.startup_s + STABLE_S else failures + 1
            self.restarts[replica.entry.name] += 1
            replica.enter(ReplicaState.FAILED)
            log.warning("%s %s; restart %d of this variant in %.1f s", replica.name, end,
                        self.restarts[replica.entry.name], backoff_s(failures))  # fmt: skip
            await asyncio.sleep(backoff_s(failures))
            replica.enter(ReplicaState.STARTING)

    async def _run_once(self, replica: Managed, attempt: int) -> str:
        """From start to end of one engine; says how it ended."""
        startup_s = startup_time_s(replica.entry, seed=self._fleet.seed, replica=f"{replica.name}/{attempt}")
        options = replica.entry.options(self._fleet, startup_s=startup_s)
        try:
            replica.engine = await self._host.start(options, host=replica.host, port=replica.port)
        except (OSError, FleetError) as error:
            return f"could not be started ({error})"
        await self._until_exit(replica, replica.engine)
        return f"ended with code {replica.engine.returncode}"

    async def _until_exit(self, replica: Managed, engine: Running) -> None:
        """Returns when the engine has ended; meanwhile the replica turns ready."""
        ended = asyncio.ensure_future(engine.wait())
        try:
            while not ended.done() and not await self._healthy(replica):
                await asyncio.wait({ended}, timeout=POLL_S)
            if not ended.done():
                replica.enter(ReplicaState.READY)
                log.info("%s is ready", replica.name)
            await ended
        finally:
            ended.cancel()

    async def _healthy(self, replica: Managed) -> bool:
        return await self._ask(replica, "/health") is not None

    async def _load(self, replica: Managed) -> int | None:
        """Requests in the engine; ``None`` when it does not say."""
        answer = await self._ask(replica, "/load")
        return None if answer is None else msgspec.json.decode(answer, type=_Load).server_load

    async def _ask(self, replica: Managed, path: str) -> bytes | None:
        """The body of a 200 answer, else ``None``."""
        if self._session is None:
            return None
        try:
            async with self._session.get(self._url(replica) + path) as response:
                return await response.read() if response.status == 200 else None
        except (aiohttp.ClientError, TimeoutError, OSError):
            return None

    async def _retire(self, replica: Managed, *, serving: bool) -> None:
        if replica.watcher is not None:
            replica.watcher.cancel()
            await asyncio.gather(replica.watcher, return_exceptions=True)
        if serving:
            await self._drain(replica)
        await end(replica.engine)
        self._replicas[replica.entry.name].remove(replica)
        log.info("%s is gone", replica.name)

    async def _drain(self, replica: Managed) -> None:
        begun = time.monotonic()
        while (waited := time.monotonic() - begun) < self._settings.drain_s:
            if replica.engine is None or replica.engine.returncode is not None:
                return
            if waited >= self._settings.drain_at_least_s and await self._load(replica) == 0:
                return
            await asyncio.sleep(POLL_S)
        log.warning("%s still has requests after %.0f s; stopping it", replica.name, self._settings.drain_s)


def has_many_addresses(host: str) -> bool:
    """Whether all of 127.0.0.0/8 is this machine, as on Linux."""
    return host == "127.0.0.1" and sys.platform == "linux"


def loopback(number: int) -> str:
    """Addresses of this machine other than its first.

    >>> loopback(1), loopback(255)
    ('127.0.1.1', '127.0.2.1')
    """
    return f"127.0.{1 + (number - 1) // 254}.{1 + (number - 1) % 254}"


def check_bootstrap_ports(entries: Sequence[VariantEntry], host: str) -> None:
    """On one address one engine alone can have a bootstrap port.

    Raises: ConfigError, unless there is an address for each.
    """
    if has_many_addresses(host):
        return
    for port in {entry.kv_bootstrap_port for entry in entries if entry.has_bootstrap}:
        same = [entry for entry in entries if entry.has_bootstrap and entry.kv_bootstrap_port == port]
        if (most := sum(entry.max_replicas for entry in same)) > 1:
            raise ConfigError(f"up to {most} engines would run a bootstrap server on port {port} of {host}",
                              where=", ".join(entry.name for entry in same), limit="1 a port and address",
                              next_step="Listen on 127.0.0.1 (Linux), or set max_replicas to 1.")  # fmt: skip


def host_of(settings: SimSettings) -> Host:
    """Where engines run, by the settings.

    Raises: ConfigError when vLLM is asked for and not there.
    """
    if settings.vllm:
        return VllmHost(settings.vllm, settings.vllm_model, settings.vllm_args)
    return LocalHost() if settings.in_process else ProcessHost()


def startup_time_s(entry: VariantEntry, *, seed: int, replica: str) -> float:
    """Start-up of one replica: the variant's, moved by its jitter; the same for the same seed and name."""
    return entry.startup_s * (1.0 + entry.startup_jitter * random.Random(f"{seed}/{replica}").uniform(-1.0, 1.0))
