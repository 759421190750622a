"""One simulated engine, whole: core, metrics, API, faults, and what it has of events and KV transfers."""

from __future__ import annotations

import asyncio
import logging
import random
import socket
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from fleet.errors import ConfigError
from fleet.hardware import MODELS, kv_bytes_per_token
from fleet.shell import bind
from simulator.adapters import Adapters
from simulator.answer_plan import parse_law
from simulator.bootstrap import BootstrapApp
from simulator.clock import ScaledClock
from simulator.config import EngineConfig, engine_config
from simulator.connector import Connector, ConnectorOptions
from simulator.engine import Engine
from simulator.engine_options import EngineOptions, parse_bounds, parse_modules
from simulator.fault_switch import FaultSwitch
from simulator.faults import Fault, Faults, parse_fault
from simulator.kvevents import Encoding, Journal
from simulator.link import LINKS
from simulator.listener import Listener
from simulator.lora import LoraConfig
from simulator.metrics_page import EngineMetrics, PageOptions
from simulator.realtime import Runner
from simulator.server import AppOptions, EngineApp
from simulator.transfer import ConnectorKind, Role

if TYPE_CHECKING:
    from simulator.kvpublisher import Publisher

log = logging.getLogger(__name__)
_WILDCARDS = {"0.0.0.0", "::", ""}  # compared, not bound


class Replica:
    """An engine that can be started, stopped and killed; it lives on one event loop."""

    def __init__(self, options: EngineOptions, sock: socket.socket, *, index: int = 0) -> None:
        """Everything is checked and made; nothing runs yet.

        Args:
            options: the engine.
            sock: bound, for this engine alone.
            index: its number among those of the process; each has event ports of its own.

        Raises: ConfigError, one line.
        """
        self.options = options
        self.host, self.port = sock.getsockname()[:2]
        self.ended = asyncio.Event()
        """It has stopped, crashed or been killed."""
        self.crashed = False
        self.on_crash: Callable[[], None] = self.kill
        """What a crash does; by default this replica alone is gone."""
        config = _config(options)
        metrics = _metrics(options, config)
        self._runner = Runner(
            Engine(config, ingress_s=config.timer.ingress_s), metrics, ScaledClock(time.monotonic, speed=options.speed)
        )
        self._planned: list[Fault] = [parse_fault(text) for text in options.fault]
        self._faults = FaultSwitch(self._runner, Faults(random.Random(f"{options.seed}/{index}"), model=options.served))
        adapters = Adapters(options.served, parse_modules(options.lora_module) if options.max_loras else ())
        for name in adapters.paths:
            self._runner.engine.adapters.preload(name)
        self._publisher, journal = _publisher(options, adapters, self._reached_at(), index)
        if journal is not None and self._publisher is not None:
            self._runner.engine.kv.listener = journal
            self._runner.on_clear = journal.cleared
            self._runner.on_change.append(self._publisher.flush)
        self._engine_id = str(uuid.uuid4())
        self._connector = self._make_connector()
        app = EngineApp(
            self._runner, _app_options(options, self._publisher), faults=self._faults, adapters=adapters,
            connector=self._connector, journal=journal,
        )  # fmt: skip
        self._listener = Listener(app, sock)
        self._bootstrap = self._make_bootstrap(index)

    def _reached_at(self) -> tuple[str, int]:
        host = self.options.advertise_host or self.host
        if host in _WILDCARDS and (self.options.role or self.options.kv_events):
            raise ConfigError("other parts cannot reach a wildcard address", where="--advertise-host",
                              next_step="Name the address under which this engine is reached.")  # fmt: skip
        return host, self.port

    def _make_connector(self) -> Connector | None:
        options = self.options
        if options.role is None:
            return None
        # Imported here: HTTP clients take memory, and most engines ask nobody.
        from simulator.peers import HttpPeers  # noqa: PLC0415

        host, port = self._reached_at()
        return Connector(self._runner, ConnectorOptions(
            role=Role(options.role), kind=ConnectorKind(options.kv_connector), engine_id=self._engine_id,
            host=host, port=port, lease_s=options.kv_lease_s, link=LINKS[options.kv_link],
            bytes_per_token=kv_bytes_per_token(MODELS[options.shape]), tensor_parallel=options.accelerator_count,
            recompute=options.kv_load_failure_policy == "recompute",
        ), HttpPeers())  # fmt: skip

    def _make_bootstrap(self, index: int) -> Listener | None:
        """Mooncake's server that tells decode engines and routers who prefills here."""
        options = self.options
        if options.kv_connector != ConnectorKind.MOONCAKE or options.role not in (Role.PREFILL, Role.BOTH):
            return None
        host, port = self._reached_at()
        sock = bind(self.host, options.kv_bootstrap_port + index, what="bootstrap server",
                    setting="--kv-bootstrap-port")  # fmt: skip
        return Listener(BootstrapApp(self._engine_id, f"{host}:{port}"), sock)

    async def start(self) -> None:
        """Listen; ready after the start-up time."""
        self._faults.crash, self._faults.refuse = self._crash, self._listener.refuse
        self._faults.accept = self._listener.accept_again
        await self._listener.start()
        if self._bootstrap is not None:
            await self._bootstrap.start()
        if self._publisher is not None:
            self._publisher.start()
        self._faults.arm(self._planned)

    async def stop(self) -> None:
        """End in good order."""
        self._faults.stop()
        await self._listener.stop()
        if self._bootstrap is not None:
            await self._bootstrap.stop()
        await self._close()

    def kill(self) -> None:
        """End at once: connections are reset, and what was to be sent is lost."""
        self._faults.stop()
        self._listener.kill()
        if self._bootstrap is not None:
            self._bootstrap.kill()
        self._runner.pause("killed")
        asyncio.ensure_future(self._close())  # noqa: RUF006  # it ends with the process at the latest

    async def _close(self) -> None:
        if self._connector is not None:
            await self._connector.close()
        if self._publisher is not None:
            await self._publisher.close()
            self._publisher = None
        self.ended.set()

    def _crash(self) -> None:
        self.crashed = True
        self.on_crash()


def _config(options: EngineOptions) -> EngineConfig:
    config = engine_config(
        options.shape, options.accelerator, options.accelerator_count, kv_tokens=options.kv_tokens,
        max_num_seqs=options.max_num_seqs, max_num_batched_tokens=options.max_num_batched_tokens,
        max_model_len=options.max_model_len,
    )  # fmt: skip
    return replace(config, lora=LoraConfig(max_loras=options.max_loras),
                   priority_scheduling=options.scheduling_policy == "priority")  # fmt: skip


def _metrics(options: EngineOptions, config: EngineConfig) -> EngineMetrics:
    page = PageOptions(
        version=options.metrics_version, show_hidden=options.show_hidden_metrics,
        ttft_bounds=parse_bounds(options.ttft_buckets), max_adapters=options.max_loras or None,
        transfers=options.role is not None,
        nixl=options.role is not None and options.kv_connector == ConnectorKind.NIXL,
    )  # fmt: skip
    return EngineMetrics(options.served, config, created_s=time.time(), options=page,
                         kv_bytes_per_token=kv_bytes_per_token(MODELS[options.shape]))  # fmt: skip


def _app_options(options: EngineOptions, publisher: Publisher | None) -> AppOptions:
    return AppOptions(
        model=options.served, startup_s=options.startup_s, law=parse_law(options.output_law, seed=options.seed),
        lora=options.max_loras > 0, kv_event_sources=None if publisher is None else publisher.sources(),
    )  # fmt: skip


def _publisher(
    options: EngineOptions, adapters: Adapters, address: tuple[str, int], index: int
) -> tuple[Publisher | None, Journal | None]:
    if options.kv_events is None:
        return None, None
    try:
        # Imported here: pyzmq is an extra.
        from simulator.kvpublisher import EventOptions, Publisher, offset_port  # noqa: PLC0415
    except ImportError:
        raise ConfigError("pyzmq is not installed", where="--kv-events",
                          next_step="Install it: pip install 'llm-fleet[sim]'.") from None  # fmt: skip
    journal = Journal(adapters.ids)
    own = "*" in options.kv_events or "::" in options.kv_events
    topic = f"kv@{address[0]}:{address[1]}@{options.served}"
    replay = options.kv_events_replay
    return Publisher(journal, EventOptions(
        endpoint=offset_port(options.kv_events, index if own else 0), topic=topic,
        replay_endpoint=replay and offset_port(replay, index), encoding=Encoding(options.kv_events_encoding),
    )), journal  # fmt: skip
