"""What became of each field: carried over, changed, left out, or worth knowing. Pure."""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from wva.migrate.documents import title


class Outcome(enum.StrEnum):
    """What happened to a field or an object."""

    CARRIED = "carried"
    """It says the same in ours."""
    CHANGED = "changed"
    """Ours has it, with another value or in another place."""
    DROPPED = "dropped"
    """Ours has nothing for it: what it did will not be done."""
    NOTE = "note"
    """Nothing is lost, but it should be known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One line of the report."""

    object: str
    field: str
    """Path in the object; empty: the object as a whole."""
    outcome: Outcome
    detail: str


@dataclass(slots=True)
class Notes:
    """Takes the lines of one migration, in the order in which they are met."""

    entries: list[Entry] = field(default_factory=list)

    def of(self, item: Mapping[str, Any]) -> Teller:
        """Takes lines about one object."""
        return Teller(self, title(item))

    def document(self) -> list[dict[str, str]]:
        """For JSON."""
        return [{"object": one.object, "field": one.field, "outcome": str(one.outcome), "detail": one.detail}
                for one in self.entries]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Teller:
    """Takes lines about one object."""

    notes: Notes
    title: str

    def carried(self, path: str, detail: str) -> None:
        """Says the same in ours."""
        self._add(path, Outcome.CARRIED, detail)

    def changed(self, path: str, detail: str) -> None:
        """Is in ours with another value or in another place."""
        self._add(path, Outcome.CHANGED, detail)

    def dropped(self, path: str, detail: str) -> None:
        """Has no counterpart in ours."""
        self._add(path, Outcome.DROPPED, detail)

    def note(self, path: str, detail: str) -> None:
        """Should be known."""
        self._add(path, Outcome.NOTE, detail)

    def _add(self, path: str, outcome: Outcome, detail: str) -> None:
        entry = Entry(object=self.title, field=path, outcome=outcome, detail=detail)
        if entry not in self.notes.entries:
            self.notes.entries.append(entry)


def lines(entries: Iterable[Entry]) -> Iterator[str]:
    """For people, object by object; what is simply carried over is left out."""
    told = [one for one in entries if one.outcome is not Outcome.CARRIED]
    order = {one.object: index for index, one in reversed(list(enumerate(told)))}
    for name, found in groupby(sorted(told, key=lambda one: order[one.object]), key=lambda one: one.object):
        yield name
        for one in found:
            yield f"  {one.outcome:<8} {one.field + ': ' if one.field else ''}{one.detail}"


def summary(entries: Iterable[Entry], *, read: int, written: Mapping[str, int]) -> str:
    """The last line: what came in, what went out, what was lost."""
    counts = Counter(one.outcome for one in entries)
    made = ", ".join(f"{count} {kind}" for kind, count in written.items()) or "nothing"
    return (f"{read} objects read; {made} written; fields: {counts[Outcome.CARRIED]} carried over, "
            f"{counts[Outcome.CHANGED]} changed, {counts[Outcome.DROPPED]} dropped")  # fmt: skip
