"""What is known of one request's tokens. Pure."""

from __future__ import annotations

import enum
from collections.abc import Callable

from router.kvindex.keys import TOKEN_BYTES


class Origin(enum.StrEnum):
    """Where token ids come from."""

    REQUEST = "request"
    LOCAL = "local"
    ENGINE = "engine"
    ESTIMATED = "estimated"
    """They are not known: lengths are guessed from bytes, and the index cannot be asked."""


class Prompt:
    """What is known of one request's tokens."""

    __slots__ = ("keys", "lora", "on_known", "origin", "packed", "salt", "waiting")

    def __init__(self, lora: str | None, salt: str | None) -> None:
        self.lora, self.salt = lora, salt
        self.packed: bytes | None = None
        self.origin = Origin.ESTIMATED
        self.keys: dict[int, list[int]] = {}
        """By block size."""
        self.waiting = False
        """An engine is asked for its tokens."""
        self.on_known: Callable[[], None] | None = None

    @property
    def tokens(self) -> int:
        """How many, 0 where they are not known."""
        return len(self.packed or b"") // TOKEN_BYTES
