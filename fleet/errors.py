"""Errors that a person reads: what, where, the limit, and the next step, on one line."""

from __future__ import annotations


class FleetError(Exception):
    """A problem whose cause lies outside the program; the CLI prints it on one line and exits with 2.

    Args:
        what: what is wrong, with the number that shows it ("port 8080 is taken").
        where: the file, line, setting or address it concerns.
        limit: what would have been accepted.
        next_step: what the reader can do now.

    >>> str(FleetError("weight is -3", where="router.yaml line 7", limit=">= 0", next_step="Give it a weight."))
    'router.yaml line 7: weight is -3 (limit: >= 0). Give it a weight.'
    """

    def __init__(self, what: str, *, where: str = "", limit: str = "", next_step: str = "") -> None:
        self.what, self.where, self.limit, self.next_step = what, where, limit, next_step
        super().__init__(self._sentence())

    def _sentence(self) -> str:
        head = f"{self.where}: {self.what}" if self.where else self.what
        if self.limit:
            head += f" (limit: {self.limit})"
        return f"{head}. {self.next_step}".replace("\n", " ") if self.next_step else head.replace("\n", " ")


class ConfigError(FleetError):
    """A setting, file or argument that cannot be used."""


class SourceError(FleetError):
    """A metric source that cannot be reached or answers nonsense; the caller holds."""


class HistoryError(FleetError):
    """The history database cannot be opened or written."""
