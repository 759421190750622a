"""Everything that is told of finished requests: history, recorded workload, access log, traces."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from fleet.errors import ConfigError
from fleet.history import History, ProcessWriter
from router.access_log import AccessLog
from router.recorder import Facts, Recorder
from router.settings import RouterSettings
from router.tape import Tape
from router.ticket import Ticket

if TYPE_CHECKING:
    from router.tracing.otlp import OtlpTracing

Record = Callable[[Ticket, Facts], None]


def _all(records: Sequence[Record], ticket: Ticket, seen: Facts) -> None:
    for record in records:
        record(ticket, seen)


def _nobody(_ticket: Ticket, _seen: Facts) -> None:
    """Nobody wants to know."""


def _access_log(path: Path | None) -> AccessLog | None:
    """Raises: ConfigError when the file cannot be written."""
    try:
        return None if path is None else AccessLog(path)
    except OSError as error:
        reason = f"the access log cannot be written: {error.strerror}"
        raise ConfigError(reason, where=str(path), next_step="Choose another file with --access-log.") from error


def _tracing(settings: RouterSettings) -> OtlpTracing | None:
    """Traces, where they are asked for.

    Raises: ConfigError without the packages that they take, or for settings that cannot be used.
    """
    if not settings.traces_endpoint:
        return None
    try:
        from router.tracing.otlp import make  # noqa: PLC0415 - OpenTelemetry's SDK is an optional package
    except ImportError:
        raise ConfigError("traces need OpenTelemetry's SDK and exporter", where="--traces-endpoint",
                          next_step="pip install 'llm-fleet[otel]'.") from None  # fmt: skip
    return make(settings)


class Records:
    """Whoever is told of finished requests.

    Args:
        settings: what is asked for.
        history: where requests are recorded; ``None``: nowhere.
    Raises: ConfigError for a file that cannot be written, or a package that is missing.
    """

    def __init__(self, settings: RouterSettings, history: History | None) -> None:
        self._history = history
        self._writer = ProcessWriter(history.url) if history is not None else None
        self._recorder: Recorder | None = None
        self._access = _access_log(settings.access_log)
        self._tape = Tape(settings.record_workload) if settings.record_workload is not None else None
        self.tracing = _tracing(settings)
        """Makes requests' spans; ``None``: there are none."""
        told: list[Record] = []
        if self._writer is not None:
            self._recorder = Recorder(self._writer, rate_rps=settings.record_rps / settings.workers)
            told.append(self._recorder)
        told += [one for one in (self._tape, self._access, self.tracing) if one is not None]
        self.tell: Record = _nobody if not told else told[0] if len(told) == 1 else partial(_all, told)

    def rows(self) -> Mapping[str, int]:
        """What became of rows for the history."""
        if self._writer is None or self._recorder is None:
            return {}
        return {"written": self._writer.written, "sampled_out": self._recorder.skipped, "dropped": self._writer.dropped}

    def spans(self) -> Mapping[str, int]:
        """What became of spans."""
        return {} if self.tracing is None else self.tracing.counts()

    def flush(self) -> None:
        """Write what waits; never blocks."""
        if self._access is not None:
            self._access.flush()
        if self._writer is not None:
            self._writer.flush()

    async def close(self) -> None:
        """Write what waits, and close."""
        if self._access is not None:
            self._access.close()
        if self.tracing is not None:
            await self.tracing.close()
        if self._writer is not None:
            await asyncio.to_thread(self._writer.close)
        if self._tape is not None:
            await asyncio.to_thread(self._tape.close)
        if self._history is not None:
            self._history.close()
