"""Everything that a router needs to know engines' caches, from its settings."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from fleet.errors import ConfigError
from router.endpoints import EndpointSet
from router.kvevents.follow import Follow
from router.kvevents.places import plan
from router.kvevents.precise import Precise
from router.kvevents.report import IndexCollector
from router.kvevents.subscriber import Subscriber
from router.kvevents.tokens import Local, Tokens, load_tokenizer
from router.kvindex.index import KVIndex
from router.settings import RouterSettings


@dataclass(frozen=True, slots=True)
class Ears:
    """What hears, what follows, what matches."""

    subscriber: Subscriber
    follow: Follow
    precise: Precise

    def collector(self) -> IndexCollector:
        """Their metrics."""
        return IndexCollector(self.subscriber, self.precise.tokens)


def make_ears(
    settings: RouterSettings, endpoints: EndpointSet, *, on_done: Callable[[asyncio.Task[None]], None]
) -> Ears:
    """By ``kv_events`` and ``tokenizer``.

    Raises: ConfigError for a setting that cannot be used.
    """
    index = KVIndex()
    subscriber = Subscriber(index, on_done=on_done)
    precise = Precise(index, Tokens(_local(settings.tokenizer), timeout_s=settings.tokenize_s), endpoints)
    return Ears(subscriber, Follow(subscriber, plan(settings.kv_events), endpoints), precise)


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
