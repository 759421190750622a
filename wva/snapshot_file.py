"""Snapshots and state as JSON: for ``decide`` offline, ``/fleet``, ``/state`` and the state file."""

from __future__ import annotations

import dataclasses
import logging
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from fleet.errors import ConfigError
from fleet.types import FleetSnapshot
from wva.overrides import Overrides
from wva.types import WvaState

log = logging.getLogger(__name__)
RecordT = TypeVar("RecordT", FleetSnapshot, WvaState, Overrides)


def to_json(record: Any, *, indent: int = 0) -> bytes:
    """Any of our records as JSON; NaN and infinity become null."""
    text = msgspec.json.encode(record)
    return msgspec.json.format(text, indent=indent) if indent else text


def parse(cls: type[RecordT], text: bytes, *, where: str, ours: bool = False) -> RecordT:
    """A record from JSON.

    Args:
        ours: a program of ours wrote it, perhaps another version: what it knows and this one does not is left out.

    Raises: ConfigError naming the key that is missing, of another type, or (unless it is ours) unknown.
    """
    try:
        document = msgspec.json.decode(text)
        if (unknown := _unknown(document, cls, "$")) and ours:
            log.info("%s: written by another version; %s is left out", where, unknown)
        elif unknown:
            raise ConfigError(f"unknown key {unknown}", where=where,
                              next_step="Remove or rename it; docs/examples/snapshot.json shows the keys.")  # fmt: skip
        return msgspec.convert(document, cls)
    except (msgspec.MsgspecError, UnicodeDecodeError, TypeError, ValueError) as error:
        raise ConfigError(f"is no {cls.__name__}: {error}", where=where,
                          next_step="docs/examples/snapshot.json shows the keys.") from None  # fmt: skip


def read(cls: type[RecordT], path: Path, *, ours: bool = False) -> RecordT:
    """A record from a file; ``ours`` as in :func:`parse`.

    Raises: ConfigError when it cannot be read, or is none.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", where=str(path), next_step="Check the path.") from None
    return parse(cls, text, where=str(path), ours=ours)


def write(path: Path, record: Any) -> None:
    """Replace the file in one step: a reader, or a restart, sees the old record or the new one.

    Raises: OSError when the folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".new")
    draft.write_bytes(to_json(record))
    draft.replace(path)


def _unknown(value: Any, cls: Any, path: str) -> str:
    """Path of the first key that no record has; empty when there is none (msgspec alone ignores such keys)."""
    for child, kind, where in _children(value, cls, path):
        if kind is None:
            return where
        if found := _unknown(child, kind, where):
            return found
    return ""


def _children(value: Any, cls: Any, path: str) -> Iterator[tuple[Any, Any, str]]:
    """Parts of ``value`` with their types; the type is None for a key that the record lacks."""
    kinds = typing.get_args(cls)
    if dataclasses.is_dataclass(cls) and isinstance(value, Mapping):
        hints = typing.get_type_hints(cls)
        yield from ((entry, hints.get(key), f"{path}.{key}") for key, entry in value.items())
    elif typing.get_origin(cls) is Mapping and isinstance(value, Mapping):
        yield from ((entry, kinds[1], f"{path}.{key}") for key, entry in value.items())
    elif typing.get_origin(cls) is tuple and isinstance(value, list):
        yield from ((entry, kinds[0], f"{path}[{index}]") for index, entry in enumerate(value))
    elif typing.get_origin(cls) in (types.UnionType, typing.Union):
        yield from ((value, kind, path) for kind in kinds if dataclasses.is_dataclass(kind))
