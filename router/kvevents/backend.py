"""The KV index's shared store, Redis or Valkey: a router that starts knows at once what the others know.

Look-ups never ask it. One task writes what changed, in the background; a store that is slow, full or gone changes
nothing but that: each router goes on with its own index. What is read from it counts only after the engine has
confirmed it (:meth:`router.kvevents.feed.Feed.resume`). Needs the package ``redis``.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from array import array
from collections.abc import Sequence
from typing import Any, Final

import msgspec
import redis.asyncio as redis_client
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from fleet.errors import ConfigError
from router.kvevents.window import Snapshot, Step, Told, Window, read_row, read_version, write_row
from router.kvindex.index import KVIndex
from router.kvindex.rows import Row, rows
from router.kvindex.speculative import Speculation

log = logging.getLogger(__name__)
_ERRORS = (RedisError, OSError, TimeoutError)
_TIMEOUT_S: Final = 1.0
_LOAD_S: Final = 3.0
"""A router that starts waits this long for the store before it asks the engine for all."""
EXPIRE_S: Final = 3600
"""What nobody has written for this long is forgotten: its engine is gone."""
_STAGED_S: Final = 60
_CHUNK: Final = 2000
"""Rows written at a time, others of the event loop in between."""
_CHANNEL: Final = "fleet:kv:sent"
_KEYS_LIMIT: Final = 65_536
"""Keys of prompts that wait to be told; beyond that they are left out."""
_LONGEST_WAIT_S: Final = 30.0

_WRITE: Final = """
if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then return 0 end
if ARGV[4] == 'all' then
  redis.call('DEL', KEYS[2])
  if redis.call('EXISTS', KEYS[3]) == 1 then redis.call('RENAME', KEYS[3], KEYS[2]) end
end
local last = 5 + 2 * tonumber(ARGV[5])
for i = 6, last, 2 do redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1]) end
for i = last + 1, #ARGV do redis.call('HDEL', KEYS[2], ARGV[i]) end
redis.call('SET', KEYS[1], ARGV[2], 'EX', ARGV[3])
redis.call('EXPIRE', KEYS[2], ARGV[3])
return 1
"""
"""Write if the version is still the one that was compared with."""


class Backend:
    """One router's way to the store.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://``.
        index: whose content is shared.
        speculation: told of what other routers send.
        every_s: between two writes.

    Raises: ConfigError for a URL that is none.
    """

    def __init__(self, url: str, index: KVIndex, speculation: Speculation, *, every_s: float = 0.5) -> None:
        try:
            self._client: Any = redis_client.Redis.from_url(
                url, socket_timeout=_TIMEOUT_S, socket_connect_timeout=_TIMEOUT_S, retry=Retry(NoBackoff(), 1)
            )
        except ValueError:  # its text may hold a password that was not escaped
            raise ConfigError("no address of a Redis or Valkey", where="ROUTER_KV_BACKEND",
                              next_step="Write redis://:PASSWORD@HOST:PORT/DATABASE, with /, # and @ of the password "
                                        "as %2F, %23 and %40.") from None  # fmt: skip
        self._index, self._speculation, self._every_s = index, speculation, every_s
        self._windows: dict[str, Window] = {}
        self._write = self._client.register_script(_WRITE)
        self._me = uuid.uuid4().hex
        self._sent: list[tuple[str, bytes]] = []
        self._sent_keys = 0
        self.told = Told()

    # ---- what the subscriber tells

    def window(self, name: str) -> Window:
        """Changes of one publisher."""
        return self._windows.setdefault(name, Window())

    def forget(self, name: str) -> None:
        """The publisher is gone."""
        self._windows.pop(name, None)

    def sent(self, pod: str, keys: Sequence[int]) -> None:
        """A prompt was sent to ``pod``: the others should know soon."""
        if self.told.up and self._sent_keys + len(keys) <= _KEYS_LIMIT:
            self._sent.append((pod, array("Q", keys).tobytes()))
            self._sent_keys += len(keys)

    # ---- reading

    async def load(self, name: str) -> Snapshot | None:
        """What the store holds of a publisher; ``None``: nothing, or it cannot be asked."""
        at, blocks, _ = self._names(name)
        try:
            async with asyncio.timeout(_LOAD_S), self._client.pipeline(transaction=True) as pipe:
                version, rows = await pipe.get(at).hgetall(blocks).execute()
        except _ERRORS as error:
            self._failed(error)
            return None
        self.told.up = True
        if (found := read_version(version)) is None:
            return None
        read = (read_row(field, value) for field, value in rows.items())
        return Snapshot(*found, [row for row in read if row is not None])

    def _names(self, name: str) -> tuple[str, str, str]:
        root = f"fleet:kv:{{{name}}}"  # braces: all of one publisher in one slot of a cluster
        return f"{root}:at", f"{root}:blocks", f"{root}:new:{self._me}"

    # ---- writing

    async def run(self) -> None:
        """Write for ever."""
        wait_s = self._every_s
        while not _cancelled():
            await asyncio.sleep(wait_s)
            try:
                for name in tuple(self._windows):
                    await self._sync(name)
                wait_s = self._every_s
            except _ERRORS as error:
                self._failed(error)
                wait_s = min(_LONGEST_WAIT_S, 2 * wait_s)

    def _failed(self, error: Exception) -> None:
        self.told.errors += 1
        if self.told.up or self.told.errors == 1:
            log.warning("the shared KV index cannot be reached; this router goes on with its own: %s", error)
        self.told.up = False
        self._sent.clear()
        self._sent_keys = 0

    async def _sync(self, name: str) -> None:
        at, blocks, new = self._names(name)
        before: bytes | None = await self._client.get(at)
        self.told.up = True
        window, found = self._windows.get(name), read_version(before)
        if window is None or window.version is None:
            return
        step, mine = window.plan(None if found is None else found[0], time.time()), window.version
        if step is Step.NOTHING:
            if found is not None and found[0] >= mine:
                window.begin(mine)
            return
        # From here to the first await nothing else runs: the rows are those of this version.
        everything = step is Step.ALL
        found_rows = list(rows(self._index, name, None if everything else window.names))
        text = mine.text(self._index.block_tokens(name))
        after = self._windows[name] = Window()
        after.begin(mine)
        done = 0
        try:
            if everything:
                await self._stage(new, found_rows)
            changes = [] if everything else found_rows
            kept = [part for row in changes if row.tiers for part in write_row(row)]
            gone = [write_row(row)[0] for row in changes if not row.tiers]
            args: list[Any] = [before or b"", text, EXPIRE_S, step.value, len(kept) // 2, *kept, *gone]
            done = await self._write(keys=[at, blocks, new], args=args)
        finally:
            if not done:  # another router was quicker, or the store is gone
                after.merge(window)
        self.told.rows += len(found_rows) if done else 0

    async def _stage(self, new: str, found: Sequence[Row]) -> None:
        """Write all of a publisher's rows beside what is there."""
        await self._client.delete(new)
        for start in range(0, len(found), _CHUNK):
            await self._client.hset(new, mapping=dict(map(write_row, found[start : start + _CHUNK])))
        await self._client.expire(new, _STAGED_S)

    # ---- prompts on their way

    async def share(self) -> None:
        """Tell the others what is sent, and hear them, for ever."""
        while not _cancelled():
            try:
                async with self._client.pubsub(ignore_subscribe_messages=True) as heard:
                    await heard.subscribe(_CHANNEL)
                    while not _cancelled():
                        await self._tell()
                        message = await heard.get_message(timeout=0.02)
                        if message is not None:
                            self._hear(message["data"])
            except _ERRORS as error:
                self._failed(error)
                await asyncio.sleep(self._every_s)

    async def _tell(self) -> None:
        if self._sent:
            told, self._sent, self._sent_keys = self._sent, [], 0
            await self._client.publish(_CHANNEL, msgspec.msgpack.encode((self._me, told)))

    def _hear(self, data: bytes) -> None:
        try:
            who, prompts = msgspec.msgpack.decode(data, type=tuple[str, list[tuple[str, bytes]]])
        except msgspec.DecodeError:
            return  # not one of ours
        if who == self._me:
            return
        now_s = time.monotonic()
        for pod, packed in prompts:
            self._speculation.sent(pod, array("Q", packed[: len(packed) // 8 * 8]), now_s=now_s)
            self.told.heard += 1

    async def close(self) -> None:
        """No more."""
        await self._client.aclose()


def _cancelled() -> bool:
    """This task was told to end: the client's time limits can swallow that when both come at once."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
