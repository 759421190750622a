"""Waiting for what another process or thread brings about."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, TypeVar

import httpx

ENDS_WITHIN_S: Final = 60.0
"""A process that was told to end has so long: far more than it takes on an idle machine."""
_LIMIT_S: Final = 120.0
_Found = TypeVar("_Found")


def until(
    holds: Callable[[], _Found], what: str | Callable[[], str] = "what was waited for", *, limit_s: float = _LIMIT_S,
    every_s: float = 0.02,
) -> _Found:  # fmt: skip
    """Wait until ``holds()`` is true, and return that; fail with ``what`` after ``limit_s`` seconds.

    Who does not answer yet (an OSError, or httpx's own) is asked again.
    """
    deadline = time.monotonic() + limit_s
    while True:
        unanswered: Exception | None = None
        try:
            if found := holds():
                return found
        except (OSError, httpx.TransportError) as error:
            unanswered = error
        if time.monotonic() > deadline:
            raise AssertionError(f"never: {what if isinstance(what, str) else what()}") from unanswered
        time.sleep(every_s)
