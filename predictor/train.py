"""Rows of the history: the newest for a fit, and the following of new ones."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from fleet.errors import HistoryError
from fleet.history import Event, History, schema
from predictor.pool import Pool

_REQUESTS = schema.requests.c


class Follower:
    """Reads each finished request once, in the order they were written; opens the history when it can.

    A history that is missing, locked or broken costs one failed :meth:`poll`; the next one opens it anew.
    """

    def __init__(self, url: str, *, limit: int) -> None:
        self._url, self._limit = url, limit
        self._history: History | None = None
        self._position: int | None = None

    def poll(self) -> list[dict[str, Any]]:
        """Finished requests since the last poll (at first: of the newest ``limit`` rows), oldest first.

        Raises: HistoryError when it cannot be opened or read now.
        """
        try:
            history = self._open()
            newest = int(history.select(sa.select(sa.func.max(_REQUESTS.id).label("id")))[0]["id"] or 0)
            if self._position is None or newest < self._position:  # first poll, or another file took its place
                self._position = max(newest - self._limit, 0)
            upto = min(newest, self._position + self._limit)
            rows = history.select(_finished(self._position, upto))
        except SQLAlchemyError as error:
            raise self._lost(error) from None
        self._position = upto
        return [{**row, "features": _features(row["features"])} for row in rows]

    def note(self, events: Iterable[Event]) -> None:
        """Write events.

        Raises: HistoryError when they cannot be written now.
        """
        try:
            self._open().add(events)
        except SQLAlchemyError as error:
            raise self._lost(error) from None

    def close(self) -> None:
        """Release the connections."""
        if self._history is not None:
            self._history.close()
            self._history = None

    def _open(self) -> History:
        if self._history is None:
            self._history = History(self._url)
        return self._history

    def _lost(self, error: SQLAlchemyError) -> HistoryError:
        self.close()
        cause = str(getattr(error, "orig", None) or error).splitlines()[0]
        return HistoryError(f"cannot be used now: {cause}", where="history", next_step="Trying again.")


def _finished(after_id: int, upto_id: int) -> sa.Select[Any]:
    """Finished requests with ids in (after, upto]; features as text, so that one garbled row spoils only itself."""
    wanted = (_REQUESTS.endpoint, _REQUESTS.variant, _REQUESTS.outcome, _REQUESTS.streaming, _REQUESTS.ttft_s,
              _REQUESTS.tpot_s, _REQUESTS.predicted_ttft_s, _REQUESTS.predicted_tpot_s,
              sa.cast(_REQUESTS.features, sa.Text).label("features"))  # fmt: skip
    query = sa.select(*wanted).where(_REQUESTS.id > after_id, _REQUESTS.id <= upto_id, _REQUESTS.outcome == "ok")
    return query.order_by(_REQUESTS.id)


def _features(text: str | None) -> dict[str, Any]:
    try:
        found = json.loads(text or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def newest_pool(url: str, *, limit: int) -> Pool:
    """A pool filled from the newest ``limit`` requests.

    Raises: HistoryError if the history cannot be opened or read.
    """
    pool, follower = Pool(limit), Follower(url, limit=limit)
    try:
        pool.add_records(follower.poll())
    finally:
        follower.close()
    return pool
