"""Reads the router's configuration from disk: how it schedules, who may ask, what models are called."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Generic, TypeVar

from fleet.errors import ConfigError
from router.aliases import Split, parse_aliases
from router.config import parse_profile
from router.discovery.file import stamp
from router.profile import DEFAULT, Profile
from router.tenants import Tenants, parse_tenants

log = logging.getLogger(__name__)


T = TypeVar("T")


class FileWatcher(Generic[T]):
    """Reads a file again when it changes; a wrong one is said once and changes nothing.

    Args:
        path: the file.
        what: it holds, for the log.
        read: makes of the file what is used; raises ConfigError.
        use: called with what was read; may raise ConfigError too, and then has changed nothing.
    """

    def __init__(self, path: Path, what: str, read: Callable[[Path], T], use: Callable[[T], None]) -> None:
        self._path, self._what, self._read, self._use = path, what, read, use
        self._stamp = stamp(path)
        self.error = ""
        """Why the newest file is not in use; empty: it is."""

    def look(self) -> None:
        """Look once: a look costs one ``stat``."""
        found = stamp(self._path)
        if found == self._stamp:
            return
        self._stamp = found
        try:
            self._use(self._read(self._path))
        except ConfigError as error:
            self.error = str(error)
            log.error("the changed %s is not used: %s", self._what, error)
            return
        self.error = ""
        log.info("the changed %s is used: %s", self._what, self._path)


def load_profile(path: Path | None) -> Profile:
    """The profile in the file, or the built-in default for ``None``.

    Raises: ConfigError when the file cannot be read or used; its line says which and where.
    """
    if path is None:
        return DEFAULT
    return parse_profile(_read(path, "the scheduling configuration"), str(path))


def load_tenants(path: Path | None, *, share: float = 1.0) -> Tenants:
    """The tenants in the file, or none for ``None``; ``share``: this process's part of their limits.

    Raises: ConfigError when the file cannot be read or used; its line says which and where.
    """
    return Tenants() if path is None else parse_tenants(_read(path, "the tenants"), str(path)).shared(share)


def load_aliases(path: Path | None) -> Mapping[str, Split]:
    """Aliases and splits of models in the file, or none for ``None``.

    Raises: ConfigError when the file cannot be read or used; its line says which and where.
    """
    return {} if path is None else parse_aliases(_read(path, "the models' names"), str(path))


def _read(path: Path, what: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"{what} cannot be read: {reason}", where=str(path),
                          next_step="Check the path and its permissions.") from error  # fmt: skip
