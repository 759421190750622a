"""The fields of a request's JSON body that the router reads: msgspec makes the class, so this stays plain Python."""

from __future__ import annotations

from typing import Any

import msgspec

_EMPTY = msgspec.Raw(b"")


class Body(msgspec.Struct):
    """The fields that matter; all others are skipped. Their types are the engine's to check, except ``model``."""

    model: str | None = None
    prompt: msgspec.Raw = _EMPTY
    messages: msgspec.Raw = _EMPTY
    input: msgspec.Raw = _EMPTY
    stream: Any = None
    max_tokens: Any = None
    max_completion_tokens: Any = None
    cache_salt: Any = None


decode = msgspec.json.Decoder(Body).decode
"""The fields of a body. Raises: msgspec.DecodeError, RecursionError, UnicodeDecodeError."""
