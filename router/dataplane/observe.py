"""What an answer says about itself, read in passing: nothing is held back. Pure."""

from __future__ import annotations

from typing import Final

_EVENT: Final = b"\ndata:"
_KEEP: Final = 5
_DONE: Final = b"data: [DONE]"
_WINDOW: Final = 8 << 10
"""Bytes at the end of an answer among which its usage is looked for."""
_PROMPT: Final = b'"prompt_tokens"'
_COMPLETION: Final = b'"completion_tokens"'
_CACHED: Final = b'"cached_tokens"'
_SPACE: Final = 32
_TAB: Final = 9
_RETURN: Final = 13
_COLON: Final = 58
_ZERO: Final = 48
_MAX_DIGITS: Final = 12
_PIECES: Final = 8
"""Pieces at the end of an answer that are kept, at least half of them."""


class Usage:
    """Token counts as the engine gave them; ``None``: it did not."""

    __slots__ = ("cached_tokens", "completion_tokens", "prompt_tokens")

    def __init__(
        self, prompt_tokens: int | None = None, completion_tokens: int | None = None, cached_tokens: int | None = None
    ) -> None:
        self.prompt_tokens, self.completion_tokens = prompt_tokens, completion_tokens
        self.cached_tokens = cached_tokens


def find_usage(tail: bytes) -> Usage:
    """The last ``usage`` object in the end of an answer."""
    at = tail.rfind(b'"usage"')
    if at < 0:
        return Usage()
    return Usage(_number(tail, _PROMPT, at), _number(tail, _COMPLETION, at), _number(tail, _CACHED, at))


def _number(tail: bytes, name: bytes, at: int) -> int | None:
    """The whole number under ``name`` (with its quotes) behind ``at``, of at most twelve digits."""
    end = len(tail)
    while True:
        at = tail.find(name, at)
        if at < 0:
            return None
        at = _past_space(tail, at + len(name))
        if at >= end or tail[at] != _COLON:
            continue
        first = at = _past_space(tail, at + 1)
        found = 0
        while at < end and at - first < _MAX_DIGITS and 0 <= tail[at] - _ZERO <= 9:
            found = 10 * found + tail[at] - _ZERO
            at += 1
        if at > first:
            return found


def _past_space(tail: bytes, at: int) -> int:
    """The first place from ``at`` on where there is no white space."""
    end = len(tail)
    while at < end and (tail[at] == _SPACE or _TAB <= tail[at] <= _RETURN):
        at += 1
    return at


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

    def kept(self) -> bytes:
        """The body as far as it is kept: its end, and all of a short one."""
        return b"".join(self._last)

    def usage(self) -> Usage:
        """What the end of the body says."""
        return find_usage(b"".join(self._last)[-_WINDOW:])

    def output_tokens(self, usage: Usage) -> int:
        """Tokens generated: as the engine says, else one an event."""
        if usage.completion_tokens is not None:
            return usage.completion_tokens
        done = _DONE in b"".join(self._last)[-_WINDOW:]
        return max(0, self.events - done)
