"""Engines from a file, read again when it changes."""

from __future__ import annotations

import asyncio
from pathlib import Path

from fleet.errors import ConfigError
from fleet.types import Variant
from router.discovery.listed import parse_endpoints

Stamp = tuple[int, int, int]


def stamp(path: Path) -> Stamp | None:
    """What changes with a file's content: a ConfigMap's link is followed; ``None`` where there is no file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


class FileSource:
    """See :mod:`router.discovery.listed` for the format."""

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._path = path
        self._stamp: Stamp | None = None
        self._variants: tuple[Variant, ...] = ()

    async def variants(self) -> tuple[Variant, ...]:
        """See :class:`router.discovery.follow.Source`."""
        found = stamp(self._path)
        if found is None or found != self._stamp:
            self._variants = await asyncio.to_thread(self._read)
            self._stamp = found
        return self._variants

    def _read(self) -> tuple[Variant, ...]:
        try:
            text = self._path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise ConfigError(f"the list of engines cannot be read: {reason}", where=self.name,
                              next_step="Check the path and its permissions.") from error  # fmt: skip
        return parse_endpoints(text, self.name)

    async def close(self) -> None:
        """See :class:`router.discovery.follow.Source`."""
