"""Everything that a router needs to know engines' caches, from its settings."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fleet.errors import ConfigError
from router.endpoints import EndpointSet
from router.kvevents.follow import Follow
from router.kvevents.places import plan
from router.kvevents.precise import Precise
from router.kvevents.report import IndexCollector
from router.kvevents.subscriber import Subscriber
from router.kvevents.tokens import Local, Tokens, load_tokenizer
from router.kvindex.index import KVIndex
from router.kvindex.speculative import Speculation
from router.settings import RouterSettings

if TYPE_CHECKING:
    from router.kvevents.backend import Backend


@dataclass(frozen=True, slots=True)
class Ears:
    """What hears, what follows, what matches."""

    subscriber: Subscriber
    follow: Follow
    precise: Precise
    shared: Backend | None = None
    """A store that several routers share."""

    async def close(self) -> None:
        """Hear no more."""
        await self.subscriber.close()
        if self.shared is not None:
            await self.shared.close()

    def collector(self) -> IndexCollector:
        """Their metrics."""
        told = None if self.shared is None else self.shared.told
        return IndexCollector(self.subscriber, self.precise.tokens, told)


def make_ears(
    settings: RouterSettings, endpoints: EndpointSet, *, on_done: Callable[[asyncio.Task[None]], None]
) -> Ears:
    """By ``kv_events`` and ``tokenizer``.

    Raises: ConfigError for a setting that cannot be used.
    """
    index, speculation = KVIndex(), Speculation()
    shared = _shared(settings.kv_backend.get_secret_value(), index, speculation)
    subscriber = Subscriber(index, on_done=on_done, shared=shared)
    tokens = Tokens(_local(settings.tokenizer), timeout_s=settings.tokenize_s)
    precise = Precise(
        index, tokens, endpoints, speculation=speculation, on_sent=None if shared is None else shared.sent
    )
    return Ears(subscriber, Follow(subscriber, plan(settings.kv_events), endpoints), precise, shared)


def _shared(url: str, index: KVIndex, speculation: Speculation) -> Backend | None:
    if not url:
        return None
    try:
        # Imported here: the client is an extra.
        from router.kvevents.backend import Backend  # noqa: PLC0415
    except ImportError:
        raise ConfigError("a shared KV index needs the package redis", where="ROUTER_KV_BACKEND",
                          next_step="pip install 'llm-fleet[redis]'.") from None  # fmt: skip
    return Backend(url, index, speculation)


def _local(path: str) -> Local | None:
    if not path:
        return None
    try:
        return load_tokenizer(path)
    except ImportError:
        raise ConfigError("a local tokenizer needs the package tokenizers", where="--tokenizer",
                          next_step="pip install tokenizers, or leave it out.") from None  # fmt: skip
    except Exception as error:
        raise ConfigError(f"{path} is no tokenizer: {error}", where="--tokenizer",
                          next_step="Name a tokenizer.json.") from error  # fmt: skip
