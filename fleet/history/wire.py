"""Rows of the history as bytes, for the way from one process to another. Pure.

A frame is a length (4 bytes, big-endian) and a msgpack array of rows; a row is the number of its kind and the values of
its fields in order, without their names.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from operator import attrgetter
from typing import Any, Final

import msgspec

from fleet.history.rows import Event, RequestRecord, SignalSample, TrainingSample
from fleet.types import Decision

Row = SignalSample | RequestRecord | Decision | Event | TrainingSample

KINDS: Final[Sequence[type[Row]]] = (SignalSample, RequestRecord, Decision, Event, TrainingSample)
NAMES: Final = {kind: tuple(field.name for field in fields(kind)) for kind in KINDS}
"""Names of a kind's fields, which are those of its table's columns."""
_VALUES: Final = {kind: (number, attrgetter(*NAMES[kind])) for number, kind in enumerate(KINDS)}
LENGTH: Final = struct.Struct("!I")
WRITTEN: Final = struct.Struct("!II")
"""The answer to frames: how many are dealt with, and how many of their rows the database refused."""

UNSENDABLE: Final = (OverflowError, TypeError, ValueError)
"""An integer of more than 64 bits; a type that is no data; a text that is no Unicode."""

Flat = tuple[int, tuple[Any, ...]]
"""A row without names: the number of its kind, its values."""


def _plain(value: Any) -> Any:
    """What msgpack has no word for."""
    return dict(value) if isinstance(value, Mapping) else list(value)


_encode = msgspec.msgpack.Encoder(enc_hook=_plain).encode
_decode = msgspec.msgpack.Decoder(list[tuple[int, list[Any]]]).decode


def flat(row: Row) -> Flat:
    """A row without names."""
    number, values = _VALUES[type(row)]
    return number, values(row)


def frame(rows: Sequence[Flat]) -> bytes:
    """Rows as one frame.

    Raises: one of :data:`UNSENDABLE` for a value that has no form in msgpack.
    """
    body = _encode(rows)
    return LENGTH.pack(len(body)) + body


def rows_of(body: bytes) -> dict[type[Row], list[dict[str, Any]]]:
    """A frame's rows as dictionaries, by kind.

    >>> body = frame([flat(Event(at_s=1.0, kind="scale", subject="v", message="1 to 2"))])[LENGTH.size :]
    >>> [row["message"] for row in rows_of(body)[Event]]
    ['1 to 2']
    """
    found: dict[type[Row], list[dict[str, Any]]] = {}
    for number, values in _decode(body):
        kind = KINDS[number]
        found.setdefault(kind, []).append(dict(zip(NAMES[kind], values, strict=True)))
    return found


def values_of(rows: Iterable[Row]) -> dict[type[Row], list[dict[str, Any]]]:
    """The same from rows that went nowhere."""
    found: dict[type[Row], list[dict[str, Any]]] = {}
    for row in rows:
        kind = type(row)
        found.setdefault(kind, []).append(dict(zip(NAMES[kind], _VALUES[kind][1](row), strict=True)))
    return found
