"""Precise prefix matching for a director: whose cache holds how much of this very prompt, as the engines said.

For each request: token ids (at once where they are known, else asked of an engine, within a limit), keys at every block
size in use, and one look-up for all engines. Engines that publish no events keep the director's own guess.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence

from router.dataplane.body import ParsedBody
from router.endpoints import Endpoint, EndpointSet, address
from router.kvevents.places import base
from router.kvevents.tokens import Tokens
from router.kvindex.index import KVIndex
from router.kvindex.keys import prompt_keys
from router.kvindex.prompt import Origin, Prompt
from router.kvindex.speculative import Speculation

log = logging.getLogger(__name__)
MAX_BLOCKS = 8192
"""Of one prompt that are looked up: 131 072 tokens at 16 a block."""


class Precise:
    """Used by a director; one an event loop.

    Args:
        index: fed by a subscriber.
        tokens: finds token ids.
        endpoints: the engines.
        speculation: what was just sent; ``None``: a new one.
        on_sent: told of every prompt that is sent, with its keys.
    """

    def __init__(
        self, index: KVIndex, tokens: Tokens, endpoints: EndpointSet, *, speculation: Speculation | None = None,
        on_sent: Callable[[str, Sequence[int]], None] | None = None,
    ) -> None:  # fmt: skip
        self._on_sent = on_sent
        self.index, self.tokens, self._endpoints = index, tokens, endpoints
        self.speculation = Speculation() if speculation is None else speculation
        self._asking: set[asyncio.Task[None]] = set()
        self.lookup_s = 0.0
        """Spent in look-ups so far."""

    def begin(self, parsed: ParsedBody) -> Prompt:
        """A request came."""
        model = parsed.model
        prompt = Prompt(model if model in self._endpoints.adapters else None, parsed.cache_salt or None)
        if not self.index.pods:
            return prompt
        known = self.tokens.at_once(model, parsed.prompt)
        if known is not None:
            self._known(prompt, *known)
        elif parsed.prompt and (url := self._asked(model)) is not None:
            prompt.waiting = True
            task = asyncio.get_running_loop().create_task(self._ask(prompt, url, model, parsed.prompt))
            self._asking.add(task)
            task.add_done_callback(self._asking.discard)
        else:
            self.tokens.counts[Origin.ESTIMATED] += 1
        return prompt

    def _known(self, prompt: Prompt, packed: bytes, origin: Origin) -> None:
        prompt.packed, prompt.origin = packed, origin
        self.tokens.counts[origin] += 1

    def _asked(self, model: str) -> str | None:
        """An engine that can tell, the least busy by its last sample."""
        able = [one for one in self._endpoints.candidates() if model in one.models]
        return min(able, key=_busy).url if able else None

    async def _ask(self, prompt: Prompt, url: str, model: str, text: bytes) -> None:
        found = await self.tokens.ask(url, model, text)
        if found is None:
            self.tokens.counts[Origin.ESTIMATED] += 1
        else:
            self._known(prompt, *found)
        prompt.waiting = False
        if prompt.on_known is not None:
            prompt.on_known()

    def match(self, prompt: Prompt, now_s: float) -> Mapping[str, int] | None:
        """Tokens of the prompt's beginning by engine address, for all that publish; ``None``: not known."""
        if prompt.packed is None:
            return None
        start_s = time.perf_counter()
        found = dict.fromkeys(map(base, self.index.pods), 0)
        for size in self.index.block_sizes:
            self._match(prompt, size, now_s, found)
        self.lookup_s += time.perf_counter() - start_s
        return found

    def _match(self, prompt: Prompt, size: int, now_s: float, found: dict[str, int]) -> None:
        keys = prompt.keys.get(size)
        if keys is None:
            keys = prompt.keys[size] = prompt_keys(prompt.packed or b"", block_tokens=size, lora=prompt.lora,
                                                   salt=prompt.salt, limit=MAX_BLOCKS)  # fmt: skip
        for pod, held in self.index.match(keys).items():
            if self.index.block_tokens(pod) == size:
                name = base(pod)
                found[name] = max(found.get(name, 0), round(held.weighted * size))
        for name, blocks in self.speculation.match(keys, now_s=now_s).items():
            if name in found:
                found[name] = max(found[name], blocks * size)

    def sent(self, prompt: Prompt, url: str, now_s: float) -> None:
        """The request went to ``url``: its blocks will be there before the events say so."""
        name = address(url)
        keys = prompt.keys.get(self.index.block_tokens(name))
        if keys:
            self.speculation.sent(name, keys, now_s=now_s)
            if self._on_sent is not None:
                self._on_sent(name, keys)

    def gone(self, url: str) -> None:
        """The engine's cache is gone."""
        self.speculation.forget(address(url))


def _busy(endpoint: Endpoint) -> float:
    sample = endpoint.sample
    return ((sample.waiting or 0.0) + (sample.running or 0.0)) if sample else 0.0
