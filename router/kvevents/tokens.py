"""A prompt's token ids: from the request itself, from a tokenizer file, or from an engine's ``/tokenize``.

A chat needs the model's template, which engines have; so a local tokenizer serves plain prompts only. Where no way
works the router goes on with what it guesses (:mod:`router.prefix`), and says so.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from typing import Any, Final, Protocol

import aiohttp
import msgspec
import xxhash

from router.kvindex.keys import pack
from router.kvindex.prompt import Origin

log = logging.getLogger(__name__)
_REMEMBERED: Final = 2048
_CACHE_BYTES: Final = 32 << 20


class Local(Protocol):
    """A tokenizer in this process (``tokenizers.Tokenizer``)."""

    def encode(self, sequence: str) -> Any:
        """An encoding with ``ids``."""


def load_tokenizer(path: str) -> Local:
    """The tokenizer of a ``tokenizer.json``; needs the package ``tokenizers``.

    Raises: ImportError, OSError.
    """
    import tokenizers  # noqa: PLC0415 - an optional package, asked for by a setting

    found: Local = tokenizers.Tokenizer.from_file(path)
    return found


def from_request(prompt: bytes) -> bytes | None:
    """Packed ids where the client sent ids; ``None`` otherwise."""
    if prompt[:1] != b"[" or not prompt[1:17].lstrip()[:1].isdigit():
        return None
    try:
        return pack(msgspec.json.decode(prompt, type=list[int]))
    except (msgspec.DecodeError, OverflowError):
        return None


class Tokens:
    """Finds token ids and remembers them.

    Args:
        local: a tokenizer, for plain prompts; ``None``: there is none.
        timeout_s: how long an engine may take; beyond it the router guesses.
    """

    def __init__(self, local: Local | None = None, *, timeout_s: float = 0.25) -> None:
        self._local = local
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._cache: OrderedDict[int, tuple[bytes, Origin]] = OrderedDict()
        self._bytes = 0
        self.session: aiohttp.ClientSession | None = None
        self.counts = dict.fromkeys(Origin, 0)

    def at_once(self, model: str, prompt: bytes) -> tuple[bytes, Origin] | None:
        """Packed ids that can be had without asking; ``None``: ask."""
        if (given := from_request(prompt)) is not None:
            return given, Origin.REQUEST
        name = self._name(model, prompt)
        if (known := self._cache.get(name)) is not None:
            self._cache.move_to_end(name)
            return known
        if self._local is not None and prompt[:1] == b'"':
            packed = pack(self._local.encode(msgspec.json.decode(prompt, type=str)).ids)
            return self._remember(name, packed, Origin.LOCAL)
        return None

    async def ask(self, url: str, model: str, prompt: bytes) -> tuple[bytes, Origin] | None:
        """Packed ids from the engine at ``url``; ``None`` when it does not give them in time."""
        field = b"messages" if prompt[:1] == b"[" else b"prompt"
        body = b'{"model":%b,"%b":%b}' % (msgspec.json.encode(model), field, prompt)
        if self.session is None:
            return None
        try:
            async with self.session.post(url + "/tokenize", data=body, timeout=self._timeout,
                                         headers={"content-type": "application/json"}) as reply:  # fmt: skip
                if reply.status != 200:
                    return None
                packed = pack(msgspec.json.decode(await reply.read(), type=_Tokenized).tokens)
        except (aiohttp.ClientError, TimeoutError, msgspec.DecodeError, OverflowError) as error:
            log.debug("%s/tokenize: %s", url, error)
            return None
        return self._remember(self._name(model, prompt), packed, Origin.ENGINE)

    def _name(self, model: str, prompt: bytes) -> int:
        return xxhash.xxh3_64_intdigest(prompt, xxhash.xxh3_64_intdigest(model.encode()))

    def _remember(self, name: int, packed: bytes, origin: Origin) -> tuple[bytes, Origin]:
        self._cache[name] = packed, origin
        self._bytes += len(packed)
        while self._cache and (len(self._cache) > _REMEMBERED or self._bytes > _CACHE_BYTES):
            _, (gone, _) = self._cache.popitem(last=False)
            self._bytes -= len(gone)
        return packed, origin


class _Tokenized(msgspec.Struct):
    tokens: list[int]
