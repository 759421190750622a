"""Waiting for what another process brings about."""

from __future__ import annotations

import time
from collections.abc import Callable


def until(holds: Callable[[], object], what: str = "what was waited for", *, limit_s: float = 30.0) -> None:
    """Wait until ``holds()`` is true; fail with ``what`` after ``limit_s`` seconds."""
    deadline = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.02)
