"""Keeps an operator's overrides: in memory for the loop, with a keeper over restarts, in the history for people."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from fleet.errors import ConfigError, FleetError
from fleet.history import Event, HistoryWriter
from fleet.types import VariantSpec
from wva import snapshot_file
from wva.overrides import Override, Overrides, check
from wva.types import key_of

log = logging.getLogger(__name__)


class KeptError(FleetError):
    """An override that could not be written down, and so does not hold."""


class Keeper(Protocol):
    """Where overrides survive a restart, or a change of leader."""

    where: str
    shared: bool
    """Whether other controllers write there too: then it is read before each decision."""

    def read(self) -> Overrides:
        """What holds.

        Raises: ConfigError when it is damaged; SourceError when it cannot be reached.
        """
        ...

    def write(self, overrides: Overrides) -> None:
        """Replace it.

        Raises: KeptError.
        """
        ...


class FileKeeper:
    """A file of one controller; see :class:`Keeper`."""

    shared = False

    def __init__(self, path: Path) -> None:
        self._path, self.where = path, str(path)

    def read(self) -> Overrides:
        """See :class:`Keeper`."""
        if not self._path.exists():
            return Overrides()
        try:
            return snapshot_file.read(Overrides, self._path)
        except ConfigError as error:
            raise ConfigError(f"the operator's overrides cannot be read: {error.what}", where=self.where,
                              next_step="Mend it, or remove it if nothing is to be paused.") from None  # fmt: skip

    def write(self, overrides: Overrides) -> None:
        """See :class:`Keeper`."""
        try:
            snapshot_file.write(self._path, overrides)
        except OSError as error:
            raise KeptError(f"not kept: {error.strerror}", where=self.where,
                            next_step="Let the controller write there.") from None  # fmt: skip


class Operator:
    """The overrides of one controller; any thread may read and change them.

    Args:
        keeper: where they survive; one that is not shared is read at once.
        writer: takes an event for each change.
        clock: Unix time, seconds.

    Raises: ConfigError for a damaged file: what people had paused is not known, so nothing may be scaled.
    """

    def __init__(self, keeper: Keeper, writer: HistoryWriter, clock: Callable[[], float]) -> None:
        self._keeper, self._writer, self._clock = keeper, writer, clock
        self._lock = threading.Lock()
        self.now = Overrides()
        """What holds now; replaced as a whole."""
        self.known = False
        """Whether it was read: until then nothing may be decided."""
        if not keeper.shared:
            self.recall()

    def recall(self) -> None:
        """Read what holds, where others may have changed it, or where it was not read yet.

        Raises: ConfigError when it is damaged; SourceError when it cannot be reached: what was known still holds.
        """
        with self._lock:
            if self.known and not self._keeper.shared:
                return
            found = self._keeper.read()
            if found != self.now:
                log.info("overrides: %d variants%s", len(found.variants), ", dry run" if found.dry_run else "")
            self.now, self.known = found, True

    def set_variant(self, spec: VariantSpec, override: Override) -> Overrides:
        """Lay an override over a variant.

        Raises: ConfigError for bounds outside the variant's own; KeptError when it cannot be kept.
        """
        check(override, spec)
        low = spec.min_replicas if override.min_replicas is None else override.min_replicas
        high = spec.max_replicas if override.max_replicas is None else override.max_replicas
        what = "paused" if override.paused else f"held between {low} and {high} replicas"
        with self._lock:
            kept = replace(override, at_s=self._clock())
            self._keep(self._newest().with_variant(key_of(spec), kept))
        self._tell(spec.name, what, override.by, {"namespace": spec.namespace, "paused": override.paused,
                                                  "min_replicas": low, "max_replicas": high})  # fmt: skip
        return self.now

    def clear_variant(self, namespace: str, name: str, *, by: str) -> Overrides:
        """Take the override of a variant away; nothing happens where there is none.

        Raises: KeptError when that cannot be kept.
        """
        with self._lock:
            key = f"{namespace}/{name}"
            newest = self._newest()
            if key not in newest.variants:
                return newest
            self._keep(newest.with_variant(key, None))
        self._tell(name, "back to the variant's own bounds", by, {"namespace": namespace})
        return self.now

    def set_dry_run(self, *, on: bool, by: str) -> Overrides:
        """Hold every variant where it is, or scale again.

        Raises: KeptError when that cannot be kept.
        """
        with self._lock:
            self._keep(replace(self._newest(), dry_run=on))
        self._tell("wva", "every variant stays where it is (dry run)" if on else "scales again", by, {"dry_run": on})
        return self.now

    def _newest(self) -> Overrides:
        """What a change is laid over: another controller may have written meanwhile."""
        if not self._keeper.shared:
            return self.now
        try:
            return self._keeper.read()
        except FleetError as error:
            raise KeptError(f"not kept: {error.what}", where=self._keeper.where, next_step=error.next_step) from None

    def _keep(self, overrides: Overrides) -> None:
        self._keeper.write(overrides)
        self.now, self.known = overrides, True

    def _tell(self, subject: str, what: str, by: str, data: dict[str, object]) -> None:
        message = f"{subject}: {what}{f', by {by}' if by else ''}"
        log.info("operator: %s", message)
        self._writer.put(Event(at_s=self._clock(), kind="config", subject=subject, message=message,
                               severity="warning", data={**data, "by": by, "action": True}))  # fmt: skip
