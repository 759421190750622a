"""Reads engines' KV events over ZeroMQ into the index; asks again for what was missed. Needs ``pyzmq``."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

import zmq
import zmq.asyncio

from fleet.errors import ConfigError
from router.kvevents.feed import Feed, Step, Verdict
from router.kvevents.places import Source, base, pod_of, ranked
from router.kvevents.window import Shared, Snapshot
from router.kvevents.wire import BadBatchError, Batch, apply, decode, touched
from router.kvindex.index import KVIndex
from router.kvindex.rows import restore

log = logging.getLogger(__name__)
END = (-1).to_bytes(8, "big", signed=True)
_HWM = 100_000
_REPLAY_S = 5.0
"""Without an answer for this long, what was missed is given up."""
_JUST_S = 30.0
"""A restart that was seen in the events is seen in the metrics within this long."""
_YIELD = 64
"""Batches applied before others on the event loop get their turn."""


@dataclass(slots=True)
class Heard:
    """What was heard so far."""

    batches: int = 0
    events: int = 0
    unknown: int = 0
    """Events of a kind that is not known."""
    bad: int = 0
    """Messages that are no batches."""
    gaps: int = 0
    lost: int = 0
    """Batches given up; each time the engine's blocks were forgotten."""
    replays: int = 0
    restarts: int = 0
    lag_s: float = 0.0
    """From an engine's clock when it sent the newest batch to ours when it was applied."""


class Subscriber:
    """One index's ears.

    Args:
        index: where events go.
        on_done: called with each task that ends.
        shared: a store that several routers share; ``None``: there is none.
    """

    def __init__(
        self, index: KVIndex, *, on_done: Callable[[asyncio.Task[None]], None] = lambda _task: None,
        shared: Shared | None = None,
    ) -> None:  # fmt: skip
        self.index, self.heard = index, Heard()
        self._on_done, self._shared = on_done, shared
        self._snapshots: dict[str, Snapshot] = {}
        """Read from the store, and to be confirmed by the engine."""
        self._loaded: set[str] = set()
        """Publishers for whom the store was asked."""
        self._context = zmq.asyncio.Context()
        self._feeds: dict[str, Feed] = {}
        self._replays: dict[str, str] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._sockets: dict[str, zmq.asyncio.Socket] = {}
        self._asking: set[str] = set()
        self._anew_s: dict[str, float] = {}
        """When a feed last began anew."""
        self.bound = ""
        """Where it listens, once bound."""

    # ---- where from

    def bind(self, endpoint: str) -> None:
        """Listen for engines that connect.

        Raises: ConfigError when the address cannot be used.
        """
        socket = self._socket()
        try:
            socket.bind(endpoint)
        except zmq.ZMQError as error:
            socket.close(linger=0)
            raise ConfigError(f"cannot listen for KV events: {error.strerror}", where=endpoint,
                              next_step="Give a free address.") from None  # fmt: skip
        self.bound = socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self._sockets["bound"] = socket
        self._start(self._read(socket, ""))

    def follow(self, pod: str, sources: dict[int, Source]) -> None:
        """Hear the engine ``pod`` (``host:port``) at its sockets too; again changes nothing."""
        for rank, source in sources.items():
            name = ranked(pod, rank)
            if source.replay:
                self._replays[name] = source.replay
            if source.live and name not in self._sockets:
                socket = self._socket()
                try:
                    socket.connect(source.live)
                except zmq.ZMQError as error:
                    socket.close(linger=0)
                    log.warning("%s names %r for its KV events, which is no address: %s", pod, source.live, error)
                    continue
                self._sockets[name] = socket
                self._start(self._read(socket, pod))
                self._start(self._first(name))

    async def _first(self, name: str) -> None:
        """What an engine said before we listened: play it back from the beginning."""
        if name in self._replays and name not in self._asking:
            self._feeds.setdefault(name, Feed())
            await self._play_back(name, 0)

    def _socket(self) -> zmq.asyncio.Socket:
        socket: zmq.asyncio.Socket = self._context.socket(zmq.SUB)
        socket.set_hwm(_HWM)
        socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
        socket.setsockopt(zmq.IPV6, 1)
        socket.subscribe(b"")
        return socket

    def forget(self, pod: str) -> None:
        """The engine is gone, or restarted: nothing that it said holds."""
        for name in [one for one in {*self._feeds, *self._sockets, *self._replays} if base(one) == pod]:
            self._feeds.pop(name, None)
            self._replays.pop(name, None)
            self._snapshots.pop(name, None)
            self._loaded.discard(name)
            if self._shared is not None:
                self._shared.forget(name)
            if (socket := self._sockets.pop(name, None)) is not None:
                socket.close(linger=0)
            self.index.forget(name)

    def restarted(self, pod: str) -> None:
        """The engine's cache is empty, its numbers begin anew; nothing to do where its events have said so already."""
        now_s = time.monotonic()
        for name in [one for one in self._feeds if base(one) == pod]:
            if now_s - self._anew_s.get(name, -_JUST_S) >= _JUST_S:
                self._feeds[name] = Feed()
                self.index.clear(name)
                self._broken(name)

    async def close(self) -> None:
        """Hear no more."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._context.destroy(linger=0)

    # ---- what is said

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(self._on_done)

    async def _read(self, socket: zmq.asyncio.Socket, pod: str) -> None:
        taken = 0
        while not socket.closed:
            try:
                frames = await socket.recv_multipart()
            except zmq.ZMQError:
                return  # closed under us: the engine is gone
            self.message(frames, pod)
            taken += 1
            if taken % _YIELD == 0:
                await asyncio.sleep(0)

    def message(self, frames: list[bytes], pod: str = "") -> None:
        """One live message: topic, number, payload."""
        if len(frames) != 3 or len(frames[1]) != 8:
            self.heard.bad += 1
            return
        topic, number, payload = frames
        who, seq = pod or pod_of(topic), int.from_bytes(number, "big")
        try:
            batch = decode(payload)
        except BadBatchError:
            self.heard.bad += 1
            name = ranked(who, 0)
            self._follow_up(name, self._feeds.setdefault(name, Feed()).bad(seq))
            return
        name = ranked(who, batch.rank)
        self.heard.unknown += batch.unknown
        self._follow_up(name, self._feeds.setdefault(name, Feed()).take(seq, batch))

    def _follow_up(self, name: str, verdict: Verdict) -> None:
        """Do what a feed decided."""
        if verdict.step is Step.RESTARTED:
            self.heard.restarts += 1
            self._anew_s[name] = time.monotonic()
            log.info("%s counts its KV events anew: it restarted", name)
        if verdict.clear:
            self.index.clear(name)
            self._broken(name)
        if verdict.confirmed:
            self._confirmed(name)
        for batch in verdict.apply:
            self.heard.batches += 1
            self.heard.events += len(batch.events)
            apply(self.index, name, batch)
        if self._shared is not None and verdict.apply:
            self._note(self._shared, name, verdict.apply)
        if verdict.apply:
            self.heard.lag_s = max(0.0, time.time() - verdict.apply[-1].at_s)
        if verdict.ask_from is not None:
            self.heard.gaps += 1
            if name in self._replays:
                if name not in self._asking:
                    self._start(self._play_back(name, verdict.ask_from))
            else:
                self._give_up(name)

    def _note(self, shared: Shared, name: str, batches: Sequence[Batch]) -> None:
        """Batches that follow each other were applied, the last of them the feed's last."""
        window = shared.window(name)
        for seq, batch in enumerate(batches, self._feeds[name].next_seq - len(batches)):
            names, clears = touched(batch)
            window.took(seq, batch.at_s, names, everything=clears)

    def _broken(self, name: str) -> None:
        """Something was missed, or the engine restarted: what is known now follows nothing."""
        if self._shared is not None:
            self._shared.window(name).broken()

    def _confirmed(self, name: str) -> None:
        """The engine still has the batch up to which the store knows: take over what the store held."""
        snapshot = self._snapshots.pop(name, None)
        if snapshot is not None and self._shared is not None:
            taken = restore(self.index, name, snapshot.rows, block_tokens=snapshot.block_tokens)
            self._shared.told.loaded += taken
            self._shared.window(name).begin(snapshot.version)

    async def _resume(self, name: str, shared: Shared) -> int:
        """Before an engine is asked for all that it said: what the store knows; the number to ask from."""
        if name in self._loaded:
            return 0
        self._loaded.add(name)
        snapshot = await shared.load(name)
        feed = self._feeds.get(name)
        if snapshot is None or feed is None or not feed.fresh:
            return 0
        self._snapshots[name] = snapshot
        feed.resume(snapshot.version.seq, snapshot.version.at_s)
        return snapshot.version.seq

    def _give_up(self, name: str) -> None:
        feed = self._feeds[name]
        before = feed.lost
        verdict = feed.played_back()
        self._follow_up(name, verdict)
        lost = feed.lost - before
        self.heard.lost += lost
        if lost:
            log.warning("%d batches of KV events of %s were missed: what it had cached is not known", lost, name)

    async def _play_back(self, name: str, first: int) -> None:
        """Ask an engine for what it said from ``first`` on."""
        self._asking.add(name)
        try:
            if first == 0 and self._shared is not None:
                first = await self._resume(name, self._shared)
            await self._ask(name, first)
            if (unconfirmed := self._snapshots.pop(name, None)) is not None and name in self._feeds:
                if self._shared is not None:
                    self._shared.told.refused += len(unconfirmed.rows)
                self._feeds[name].unconfirmed()
                await self._ask(name, 0)
        finally:
            self._asking.discard(name)
        if name in self._feeds:
            self._give_up(name)

    async def _ask(self, name: str, first: int) -> None:
        """One replay, from ``first`` on."""
        if name not in self._replays:
            return  # the engine is gone
        self.heard.replays += 1
        socket: zmq.asyncio.Socket = self._context.socket(zmq.DEALER)
        socket.setsockopt(zmq.IPV6, 1)
        try:
            socket.connect(self._replays[name])
            await socket.send_multipart([b"", first.to_bytes(8, "big")])
            while await self._replayed(name, await asyncio.wait_for(socket.recv_multipart(), _REPLAY_S)):
                pass
        except (TimeoutError, zmq.ZMQError) as error:
            log.warning("%s does not play back its KV events: %s", name, error or "no answer")
        finally:
            socket.close(linger=0)

    async def _replayed(self, name: str, frames: list[bytes]) -> bool:
        """One message of a replay; False at its end."""
        parts = frames[1:] if frames and not frames[0] else frames  # vLLM before 0.26 leaves the topic out
        if len(parts) < 2 or parts[-2] == END or name not in self._feeds:
            return False
        feed = self._feeds[name]
        before = feed.lost
        try:
            verdict = feed.take(int.from_bytes(parts[-2], "big"), decode(parts[-1]), replayed=True)
        except BadBatchError:
            verdict = feed.bad(int.from_bytes(parts[-2], "big"))
        self.heard.lost += feed.lost - before
        self._follow_up(name, verdict)
        await asyncio.sleep(0)
        return verdict.step is not Step.RESTARTED  # another life of the engine than the one asked for
