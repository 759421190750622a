"""What a page looks at, and how that is said to the database: conditions on tables, columns that are counted."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import sqlalchemy as sa

from fleet.history.schema import requests
from fleet.slo import CLIENT_STATUSES, SloBook

LOOKBACK_S: Final = 900.0
"""A request that finishes in a window may have arrived this long before it."""
MAX_BINS: Final = 400
MAX_LATENCIES: Final = 10_000
MAX_ROWS: Final = 2_000

TENANTS_S: Final = 3_600.0
"""Tenants are told apart over so long, at most: only single requests name them."""
TENANT_COUNTS: Final = frozenset(
    {"requests", "ok", "rejected", "aborted", "output_tokens", "ttft_n", "ttft_ok", "tpot_n", "tpot_ok", "good"}
)
"""What is counted of each."""
ROLLED_FROM_S: Final = 3_600.0
"""Windows from this length read single requests from the summaries."""
ADDED: Final = (
    "vllm:num_requests_waiting",
    "vllm:num_requests_running",
    "generation_tps",
    "prompt_tps",
    "request_rps",
    "vllm:num_preemptions_total",
)
"""Signals of an engine that add up to its variant's; the others are averaged."""

OUTCOMES: Final = ("ok", "error", "timeout", "rejected", "aborted")
TOKENS: Final = ("input_tokens", "output_tokens", "cached_tokens")

_REFUSED: Final = ("error", "rejected")
CLIENTS_FAULT: Final = sa.and_(requests.c.outcome.in_(_REFUSED), requests.c.status.in_(CLIENT_STATUSES))
"""An engine or the router refused it for what it was: a body that is none, a model that nobody serves."""

_NO_LIMIT: Final = 1e12
DONE: Final = requests.c.at_s + sa.func.coalesce(requests.c.e2e_s, 0.0)
"""When a request finished."""
LATENCY_COLUMNS: Final = (
    requests.c.model,
    requests.c.variant,
    requests.c.endpoint,
    requests.c.outcome,
    requests.c.input_tokens,
    requests.c.output_tokens,
    requests.c.ttft_s,
    requests.c.tpot_s,
    requests.c.e2e_s,
    requests.c.predicted_ttft_s,
    requests.c.predicted_tpot_s,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """What a page looks at: a stretch of time and, if not empty, one model and some variants."""

    since_s: float
    until_s: float
    model: str = ""
    variants: tuple[str, ...] = ()

    @property
    def span_s(self) -> float:
        """Its length, seconds."""
        return self.until_s - self.since_s

    def over(self, since_s: float, until_s: float) -> Window:
        """The same at another time."""
        return replace(self, since_s=since_s, until_s=until_s)

    def before(self) -> Window:
        """The stretch of the same length just before."""
        return self.over(self.since_s - self.span_s, self.since_s)


def within(column: sa.ColumnElement[float], window: Window) -> sa.ColumnElement[bool]:
    """A time inside the window."""
    return sa.and_(column >= window.since_s, column < window.until_s)


def finished(window: Window) -> tuple[sa.ColumnElement[bool], ...]:
    """Requests that ended inside the window."""
    arrived = sa.and_(requests.c.at_s >= window.since_s - LOOKBACK_S, requests.c.at_s < window.until_s)
    return arrived, window.since_s <= DONE, window.until_s > DONE


def chosen(query: sa.Select[Any], table: sa.Table, window: Window, *, shared: bool = False) -> sa.Select[Any]:
    """Rows of the window's model and variants; ``shared``: and those that belong to none."""
    for column, names in ((table.c.model, (window.model,) if window.model else ()), (table.c.variant, window.variants)):
        if names:
            query = query.where(column.in_(("", *names) if shared else names))
    return query


def _limit(slos: SloBook, promise: str) -> sa.ColumnElement[float]:
    """The promised threshold of a request's model, as SQL."""

    def threshold(model: str) -> float:
        target = getattr(slos.of(model), promise)
        return _NO_LIMIT if target is None else float(target.threshold_s)

    own = [(requests.c.model == model, sa.literal(threshold(model))) for model in slos.models]
    default = sa.literal(threshold(""))
    return sa.case(*own, else_=default) if own else default


def _total(condition: sa.ColumnElement[bool]) -> sa.ColumnElement[int]:
    return sa.func.sum(sa.case((condition, 1), else_=0))


def counts(slos: SloBook) -> list[sa.ColumnElement[Any]]:
    """Requests by outcome, tokens, and how many kept each promise.

    What a client did wrong is nobody's broken promise, as in the alerts: it stands with what clients gave up.
    """
    outcome = requests.c.outcome
    columns: list[sa.ColumnElement[Any]] = [sa.func.count().label("requests")]
    for name in OUTCOMES:
        own = outcome == name
        if name in _REFUSED:
            own = sa.and_(own, sa.not_(CLIENTS_FAULT))
        columns.append(_total(sa.or_(own, CLIENTS_FAULT) if name == "aborted" else own).label(name))
    columns += [sa.func.sum(requests.c[name]).label(name) for name in TOKENS]
    kept: list[sa.ColumnElement[bool]] = []
    for promise in ("ttft", "tpot", "e2e"):
        latency = requests.c[f"{promise}_s"]
        inside = latency < _limit(slos, promise)
        columns.append(sa.func.count(latency).label(f"{promise}_n"))
        columns.append(_total(sa.and_(latency.is_not(None), inside)).label(f"{promise}_ok"))
        kept.append(sa.or_(latency.is_(None), inside))
    return [*columns, _total(sa.and_(outcome == "ok", *kept)).label("good")]
