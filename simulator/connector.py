"""An engine's KV connector: blocks kept for other engines under leases, blocks fetched from them over a shared link.

It stands for vLLM's NIXL connector. Where NIXL talks to a side channel, engines here ask each other over HTTP, on
the port that ``remote_port`` names. As Mooncake's connector it lets a decode engine that comes first wait until the
prompt is computed.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from simulator.api_types import ApiError
from simulator.batch import blocks_of
from simulator.link import Link, LinkSpec
from simulator.realtime import Runner, TokenStream
from simulator.sequence import Sequence
from simulator.transfer import ConnectorKind, Lease, Leases, Leg, Role, Transfer, answer_params

log = logging.getLogger(__name__)


class LoadFailedError(Exception):
    """KV of another engine could not be loaded."""


class PullBody(msgspec.Struct, kw_only=True):
    """``POST /sim/kv/pull``."""

    engine_id: str
    request_id: str
    blocks: list[int]


class MeetBody(msgspec.Struct, kw_only=True):
    """``POST /sim/kv/meet``."""

    engine_id: str
    transfer_id: str


class DoneBody(msgspec.Struct, kw_only=True):
    """``POST /sim/kv/done``."""

    request_id: str


class Peers(Protocol):
    """How other engines are asked."""

    async def pull(self, transfer: Transfer) -> Transfer:
        """Claim the blocks of ``transfer``, which comes back with the address where they are.

        Raises: LoadFailedError.
        """

    async def done(self, transfer: Transfer) -> None:
        """They were read; a peer that has gone does not matter."""

    async def close(self) -> None:
        """Nobody asks any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectorOptions:
    """One engine's connector."""

    role: Role
    engine_id: str
    host: str
    """Under which other engines reach this one."""
    port: int
    lease_s: float
    link: LinkSpec
    bytes_per_token: int
    tensor_parallel: int
    kind: ConnectorKind = ConnectorKind.NIXL
    recompute: bool = False
    """Compute the prompt here when its KV cannot be loaded (``kv_load_failure_policy`` ``recompute``), not fail."""


class Connector:
    """Serves both legs of one engine's requests."""

    def __init__(self, runner: Runner, options: ConnectorOptions, peers: Peers) -> None:
        """Idle; it listens to ``runner`` from now on."""
        self._runner, self._options, self._peers = runner, options, peers
        self.role, self.kind = options.role, options.kind
        self._leases = Leases(options.engine_id, capacity=runner.engine.config.blocks, lease_s=options.lease_s)
        self._legs: dict[str, tuple[TokenStream, Transfer]] = {}
        self._held: dict[str, str] = {}  # lease's request id -> the engine's
        self._answers: dict[str, dict[str, Any]] = {}
        self._met: dict[str, asyncio.Event] = {}  # transfer id -> its prompt is computed, or never will be
        self._link = Link(options.link)
        self._arrivals: dict[str, asyncio.Event] = {}
        self._link_timer: asyncio.TimerHandle | None = None
        self._lease_timer: asyncio.TimerHandle | None = None
        self._fetches: set[asyncio.Task[None]] = set()
        runner.on_admit, runner.on_finish = self._begin_fetches, self._keep

    async def close(self) -> None:
        """Give up all transfers."""
        for timer in (self._link_timer, self._lease_timer):
            if timer is not None:
                timer.cancel()
        for task in self._fetches:
            task.cancel()
        await asyncio.gather(*self._fetches, return_exceptions=True)
        await self._peers.close()

    def watch(self, stream: TokenStream, transfer: Transfer) -> None:
        """One sequence of a request with ``kv_transfer_params``."""
        self._legs[stream.sequence.request.request_id] = (stream, transfer)

    def forget(self, stream: TokenStream) -> None:
        """Its client has its answer, or has gone."""
        request_id = stream.sequence.request.request_id
        leg = self._legs.pop(request_id, None)
        self._answers.pop(request_id, None)
        if leg is not None and leg[1].leg is Leg.PREFILL:
            self._tell(leg[1].request_id)

    def params(self, stream: TokenStream) -> dict[str, Any] | None:
        """``kv_transfer_params`` of the answer."""
        return self._answers.get(stream.sequence.request.request_id)

    # ---- the prefill leg: blocks are kept

    def _keep(self, stream: TokenStream) -> None:
        sequence = stream.sequence
        request_id = sequence.request.request_id
        if request_id not in self._legs or self._legs[request_id][1].leg is not Leg.PREFILL:
            return
        options = self._options
        name = self._legs[request_id][1].request_id or f"{options.engine_id}-{request_id}"
        lease = self._leases.add(name, blocks=blocks_of(sequence.computed), tokens=sequence.computed,
                                 now_s=self._now_s())  # fmt: skip
        self._held[lease.request_id] = request_id
        if self.kind is ConnectorKind.NIXL:
            self._answers[request_id] = answer_params(
                lease, engine_id=options.engine_id, host=options.host, port=options.port,
                tensor_parallel=options.tensor_parallel,
            )  # fmt: skip
        self._watch_leases()
        self._tell(lease.request_id)

    def _tell(self, transfer_id: str) -> None:
        """Whoever waits for this prompt may look."""
        if (met := self._met.pop(transfer_id, None)) is not None:
            met.set()

    async def serve_meet(self, body: MeetBody) -> bytes:
        """Another engine waits for a prompt, which is being computed here or comes soon; then it begins to read.

        Raises: ApiError 404 when it was not computed within the time of a lease, or this is another engine.
        """
        if body.engine_id == self._options.engine_id and self._leases.get(body.transfer_id) is None:
            met = self._met.setdefault(body.transfer_id, asyncio.Event())
            try:
                await asyncio.wait_for(met.wait(), self._options.lease_s / self._runner.clock.speed)
            except TimeoutError:
                self._met.pop(body.transfer_id, None)
        return self._claimed(body.engine_id, body.transfer_id, None)

    def serve_pull(self, body: PullBody) -> bytes:
        """Another engine begins to read.

        Raises: ApiError 404 when the blocks are not kept for it.
        """
        return self._claimed(body.engine_id, body.request_id, body.blocks)

    def _claimed(self, engine_id: str, request_id: str, blocks: list[int] | None) -> bytes:
        self._drop_expired()
        lease = self._leases.claim(engine_id, request_id, blocks, now_s=self._now_s())
        if lease is None:
            raise ApiError(404, f"no blocks are kept for {request_id}", kind="NotFoundError")
        return msgspec.json.encode({"tokens": lease.tokens})

    def serve_done(self, body: DoneBody) -> bytes:
        """Another engine has read."""
        if (lease := self._leases.close(body.request_id)) is not None:
            self._release(lease)
        return b"{}"

    def _release(self, lease: Lease) -> None:
        self._runner.engine.free_held(self._held.pop(lease.request_id))
        self._runner.changed()
        self._runner.plan()

    def _drop_expired(self) -> None:
        for lease in self._leases.expired(self._now_s()):
            log.warning("nobody fetched the blocks of %s in %.0f s", lease.request_id, self._options.lease_s)
            self._runner.metrics.lease_expired()
            self._release(lease)

    def _watch_leases(self) -> None:
        """Arm the timer of the lease that runs out first."""
        until_s = self._leases.next_expiry_s()
        if self._lease_timer is None and until_s is not None:
            self._lease_timer = self._at(until_s, self._on_expiry)

    def _on_expiry(self) -> None:
        self._lease_timer = None
        self._drop_expired()
        self._watch_leases()

    # ---- the decode leg: blocks are fetched

    def _begin_fetches(self) -> None:
        for sequence in self._runner.engine.take_fetches():
            task = asyncio.ensure_future(self._fetch(sequence))
            self._fetches.add(task)
            task.add_done_callback(self._fetches.discard)

    async def _fetch(self, sequence: Sequence) -> None:
        request_id = sequence.request.request_id
        leg = self._legs.get(request_id)
        if leg is None:
            return
        stream, transfer = leg
        begun_s = self._now_s()
        try:
            transfer = await self._peers.pull(transfer)
        except LoadFailedError as error:
            self._on_failure(stream, transfer, str(error))
            return
        size = (sequence.arriving - sequence.computed) * self._options.bytes_per_token
        await self._transfer(request_id, size)
        self._runner.metrics.transferred(seconds=self._now_s() - begun_s, size=size)
        await self._peers.done(transfer)
        self._runner.engine.fetched(request_id)
        self._runner.changed()
        self._runner.plan()

    def _on_failure(self, stream: TokenStream, transfer: Transfer, why: str) -> None:
        self._runner.metrics.transfer_failed()
        what = "computing the prompt here" if self._options.recompute else "the request fails"
        where = transfer.bootstrap or f"{transfer.host}:{transfer.port}"
        log.warning("KV of %s cannot be loaded from %s: %s; %s", transfer.request_id, where, why, what)
        if self._options.recompute:
            self._runner.restart(stream)
        else:
            self._runner.fail(stream)

    async def _transfer(self, name: str, size: int) -> None:
        """The time that the link takes, shared with other transfers."""
        await asyncio.sleep(self._options.link.latency_s / self._runner.clock.speed)
        self._arrivals[name] = arrival = asyncio.Event()
        self._link.begin(name, size, self._now_s())
        self._watch_link()
        await arrival.wait()

    def _watch_link(self) -> None:
        """Arm the timer of the transfer that ends first."""
        if self._link_timer is not None:
            self._link_timer.cancel()
            self._link_timer = None
        if (due_s := self._link.due_s) is not None:
            self._link_timer = self._at(due_s, self._on_arrival, due_s)

    def _on_arrival(self, due_s: float) -> None:
        for name in self._link.ended(due_s):
            self._arrivals.pop(name).set()
        self._watch_link()

    # ---- time

    def _now_s(self) -> float:
        return self._runner.clock.now_s()

    def _at(self, at_s: float, callback: Any, *args: object) -> asyncio.TimerHandle:
        delay_s = self._runner.clock.real_delay_s(at_s)
        return asyncio.get_running_loop().call_later(max(0.0, delay_s), callback, *args)
