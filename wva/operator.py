"""Keeps an operator's overrides: in memory for the loop, in a file over restarts, in the history for people."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from fleet.errors import ConfigError, FleetError
from fleet.history import Event, HistoryWriter
from fleet.types import VariantSpec
from wva import snapshot_file
from wva.overrides import Override, Overrides, check
from wva.types import key_of

log = logging.getLogger(__name__)


class KeptError(FleetError):
    """An override that could not be written down, and so does not hold."""


class Operator:
    """The overrides of one controller; any thread may read and change them.

    Args:
        path: where they survive a restart.
        writer: takes an event for each change.
        clock: Unix time, seconds.

    Raises: ConfigError for a damaged file: what people had paused is not known, so nothing may be scaled.
    """

    def __init__(self, path: Path, writer: HistoryWriter, clock: Callable[[], float]) -> None:
        self._path, self._writer, self._clock = path, writer, clock
        self._lock = threading.Lock()
        self.now = self._restored()
        """What holds now; replaced as a whole."""

    def _restored(self) -> Overrides:
        if not self._path.exists():
            return Overrides()
        try:
            found = snapshot_file.read(Overrides, self._path)
        except ConfigError as error:
            raise ConfigError(f"the operator's overrides cannot be read: {error.what}", where=str(self._path),
                              next_step="Mend it, or remove it if nothing is to be paused.") from None  # fmt: skip
        if found.variants or found.dry_run:
            log.info("overrides: %d variants%s", len(found.variants), ", dry run" if found.dry_run else "")
        return found

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
            self._keep(self.now.with_variant(key_of(spec), kept))
        self._tell(spec.name, what, override.by, {"namespace": spec.namespace, "paused": override.paused,
                                                  "min_replicas": low, "max_replicas": high})  # fmt: skip
        return self.now

    def clear_variant(self, namespace: str, name: str, *, by: str) -> Overrides:
        """Take the override of a variant away; nothing happens where there is none.

        Raises: KeptError when that cannot be kept.
        """
        with self._lock:
            key = f"{namespace}/{name}"
            if key not in self.now.variants:
                return self.now
            self._keep(self.now.with_variant(key, None))
        self._tell(name, "back to the variant's own bounds", by, {"namespace": namespace})
        return self.now

    def set_dry_run(self, *, on: bool, by: str) -> Overrides:
        """Hold every variant where it is, or scale again.

        Raises: KeptError when that cannot be kept.
        """
        with self._lock:
            self._keep(replace(self.now, dry_run=on))
        self._tell("wva", "every variant stays where it is (dry run)" if on else "scales again", by, {"dry_run": on})
        return self.now

    def _keep(self, overrides: Overrides) -> None:
        try:
            snapshot_file.write(self._path, overrides)
        except OSError as error:
            raise KeptError(f"not kept: {error.strerror}", where=str(self._path),
                              next_step="Let the controller write there.") from None  # fmt: skip
        self.now = overrides

    def _tell(self, subject: str, what: str, by: str, data: dict[str, object]) -> None:
        message = f"{subject}: {what}{f', by {by}' if by else ''}"
        log.info("operator: %s", message)
        self._writer.put(Event(at_s=self._clock(), kind="config", subject=subject, message=message,
                               severity="warning", data={**data, "by": by, "action": True}))  # fmt: skip
