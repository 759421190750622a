"""What one router knows of one publisher's blocks that a shared store may not know yet. Pure.

Routers hear the same numbered batches, each in its own time, and any of them writes to the store. A version says up to
which batch a content is true: the batch's time on the engine's clock, and its number. Two routers that applied the same
batches hold the same, so whoever is ahead writes, on the condition that the store still holds the version it compared
with; who is behind writes nothing.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

from router.kvindex.keys import MASK
from router.kvindex.rows import Row

PATIENCE_S: Final = 10.0
"""What the store holds is replaced by what a router knows only when it is older than this: another router may know all
of it where this one missed something."""
_TIMES: Final = 4096
"""Versions remembered; a store further behind is written anew."""
_ROW = struct.Struct("<QB")


class Version(NamedTuple):
    """Up to which batch a content is true; later ones compare greater."""

    at_s: float
    seq: int

    def text(self, block_tokens: int) -> bytes:
        """As stored, with the block size of the content."""
        return f"{self.at_s!r} {self.seq} {block_tokens}".encode()


def read_version(text: bytes | None) -> tuple[Version, int] | None:
    """A stored version and block size; ``None``: there is none, or nobody of ours wrote it.

    >>> read_version(Version(1.5, 7).text(16)), read_version(b"x"), read_version(None)
    ((Version(at_s=1.5, seq=7), 16), None, None)
    """
    parts = (text or b"").split()
    try:
        return Version(float(parts[0]), int(parts[1])), int(parts[2])
    except (IndexError, ValueError):
        return None


def write_row(row: Row) -> tuple[bytes, bytes]:
    """A row's name and the rest, as stored."""
    return row.name.to_bytes(8, "little"), _ROW.pack(row.key, row.tiers)


def read_row(field: bytes, value: bytes) -> Row | None:
    """A stored row; ``None`` for what is none.

    >>> read_row(*write_row(Row(5, 9, 1))), read_row(b"x", b"")
    (Row(name=5, key=9, tiers=1), None)
    """
    if len(field) != 8 or len(value) != _ROW.size:
        return None
    return Row(int.from_bytes(field, "little"), *_ROW.unpack(value))


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a store holds of one publisher."""

    version: Version
    block_tokens: int
    rows: Sequence[Row]


@dataclass(slots=True)
class Told:
    """What happened between this router and the store so far."""

    up: bool = False
    """The last exchange went well."""
    rows: int = 0
    """Rows written."""
    errors: int = 0
    loaded: int = 0
    """Blocks taken over from the store."""
    refused: int = 0
    """Blocks that were there and not taken: the engine did not confirm them."""
    heard: int = 0
    """Prompts that other routers sent."""


class Shared(Protocol):
    """The store, as a subscriber sees it."""

    told: Told

    def window(self, name: str) -> Window:
        """Changes of one publisher."""

    def forget(self, name: str) -> None:
        """The publisher is gone."""

    async def load(self, name: str) -> Snapshot | None:
        """What is held of a publisher; ``None``: nothing, or it cannot be asked."""


class Step(enum.StrEnum):
    """What to write."""

    NOTHING = "nothing"
    CHANGES = "changes"
    """Only the rows that were touched."""
    ALL = "all"


class Window:
    """Changes since a version that the store is known to have had, or may have."""

    __slots__ = ("_everything", "_times", "names", "version")

    def __init__(self) -> None:
        self.version: Version | None = None
        """Up to where this router knows."""
        self.names: set[int] = set()
        """Blocks touched since the oldest remembered version."""
        self._times: dict[int, float] = {}
        self._everything = False

    def begin(self, version: Version) -> None:
        """This router and the store both know up to ``version``."""
        self.version, self.names, self._everything = version, set(), False
        self._times = {version.seq: version.at_s}

    def merge(self, older: Window) -> None:
        """What ``older`` held was not written after all: it is still to be."""
        self.names |= older.names
        self._times = older._times | self._times
        self._everything |= older._everything

    def broken(self) -> None:
        """What was known is not any more; what comes next follows nothing."""
        self.version, self.names, self._everything, self._times = None, set(), False, {}

    def took(self, seq: int, at_s: float, names: Iterable[int], *, everything: bool) -> None:
        """A batch was applied, the one after the last."""
        self.version = Version(at_s, seq)
        self._times[seq] = at_s
        self.names.update(name & MASK or 1 for name in names)
        self._everything |= everything
        if len(self._times) > _TIMES:
            self.begin(self.version)
            self._times.clear()  # what the store has is older than all that is remembered

    def plan(self, stored: Version | None, now_s: float) -> Step:
        """What to write over what the store holds; times on the engines' clock, as far as ``now_s`` is on it.

        Afterwards call :meth:`begin`, or keep everything for another try.
        """
        mine = self.version
        if mine is None or stored == mine:
            return Step.NOTHING
        if stored is None:
            return Step.ALL
        if self._times.get(stored.seq) == stored.at_s:
            return Step.ALL if self._everything else Step.CHANGES
        if stored > mine or now_s - stored.at_s < PATIENCE_S:
            return Step.NOTHING
        return Step.ALL
