"""Reads the router's scheduling configuration from disk."""

from __future__ import annotations

from pathlib import Path

from fleet.errors import ConfigError
from router.config import parse_profile
from router.profile import DEFAULT, Profile


def load_profile(path: Path | None) -> Profile:
    """The profile in the file, or the built-in default for ``None``.

    Raises: ConfigError when the file cannot be read or used; its line says which and where.
    """
    if path is None:
        return DEFAULT
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"the scheduling configuration cannot be read: {reason}", where=str(path),
                          next_step="Check the path and its permissions.") from error  # fmt: skip
    return parse_profile(text, str(path))
