"""What an answer says about itself, read in passing: nothing is held back. Pure."""

from __future__ import annotations

import re
from typing import NamedTuple

_EVENT = b"\ndata:"
_KEEP = len(_EVENT) - 1
_DONE = b"data: [DONE]"
_WINDOW = 8 << 10
"""Bytes at the end of an answer among which its usage is looked for."""
_FIELD = re.compile(rb'"(prompt_tokens|completion_tokens|cached_tokens)"\s*:\s*(\d{1,12})')
_PROMPT, _COMPLETION, _CACHED = b"prompt_tokens", b"completion_tokens", b"cached_tokens"
_PIECES = 8
"""Pieces at the end of an answer that are kept, at least half of them."""


class Usage(NamedTuple):
    """Token counts as the engine gave them; ``None``: it did not."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None


def find_usage(tail: bytes) -> Usage:
    """The last ``usage`` object in the end of an answer."""
    at = tail.rfind(b'"usage"')
    if at < 0:
        return Usage()
    found: dict[bytes, bytes] = {}
    for name, digits in _FIELD.findall(tail, at):
        found.setdefault(name, digits)
    prompt, completion, cached = found.get(_PROMPT), found.get(_COMPLETION), found.get(_CACHED)
    return Usage(
        None if prompt is None else int(prompt),
        None if completion is None else int(completion),
        None if cached is None else int(cached),
    )


class Observer:
    """Times and counts of one answer's body.

    Events are counted by their marker, which JSON cannot contain (a line feed inside a string is escaped), also when
    it is cut between two reads.
    """

    __slots__ = ("_end", "_last", "events", "first_s", "last_s")

    def __init__(self) -> None:
        self._end = b"\n"
        self._last: list[bytes] = []
        self.events = 0
        self.first_s = 0.0
        """When the first event came; 0.0: not yet."""
        self.last_s = 0.0

    def stream(self, data: bytes, now_s: float) -> int:
        """A piece of an event stream; returns how many events began in it."""
        count = data.count(_EVENT) + (self._end + data[:_KEEP]).count(_EVENT)
        self._end = data[-_KEEP:] if len(data) >= _KEEP else (self._end + data)[-_KEEP:]
        self.plain(data)
        if count:
            self.events += count
            self.last_s = now_s
            if not self.first_s:
                self.first_s = now_s
        return count

    def plain(self, data: bytes) -> None:
        """A piece of any other body."""
        last = self._last
        last.append(data)
        if len(last) > _PIECES:
            del last[: _PIECES // 2]

    def usage(self) -> Usage:
        """What the end of the body says."""
        return find_usage(b"".join(self._last)[-_WINDOW:])

    def output_tokens(self, usage: Usage) -> int:
        """Tokens generated: as the engine says, else one an event."""
        if usage.completion_tokens is not None:
            return usage.completion_tokens
        done = _DONE in b"".join(self._last)[-_WINDOW:]
        return max(0, self.events - done)
