"""History: what happened, in four tables, over SQLAlchemy (SQLite in WAL mode, or PostgreSQL).

``samples`` (signals over time), ``requests`` (outcomes with the features known at dispatch), ``decisions`` (wva's,
with their inputs) and ``events`` (scalings, crashes, alerts).
"""

from fleet.history.rows import Event, RequestOutcome, RequestRecord, SignalSample
from fleet.history.store import History
from fleet.history.writer import HistoryWriter

__all__ = ["Event", "History", "HistoryWriter", "RequestOutcome", "RequestRecord", "SignalSample"]
