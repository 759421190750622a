"""History: what happened, in five tables, over SQLAlchemy (SQLite in WAL mode, or PostgreSQL).

``samples`` (signals over time), ``requests`` (outcomes with the features known at dispatch), ``decisions`` (wva's,
with their inputs), ``events`` (scalings, crashes, alerts) and ``training`` (latencies that did not come through our
router).
"""

from fleet.history.process import ProcessWriter
from fleet.history.rows import Event, RequestOutcome, RequestRecord, SignalSample, TrainingSample
from fleet.history.store import History, cause_of, existing, must_exist, parse_url, shown
from fleet.history.writer import HistoryWriter

__all__ = [
    "Event",
    "History",
    "HistoryWriter",
    "ProcessWriter",
    "RequestOutcome",
    "RequestRecord",
    "SignalSample",
    "TrainingSample",
    "cause_of",
    "existing",
    "must_exist",
    "parse_url",
    "shown",
]
