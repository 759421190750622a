"""The decision trees of ``alerts``, walked over the history for the alerts page."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

import sqlalchemy as sa

from alerts.diagnosis import Diagnosis, Evidence, diagnose
from alerts.evidence import BEFORE_WINDOWS, Recorded
from alerts.evidence import evidence as gathered
from alerts.rules import rulebook
from alerts.trees import EVIDENCE, TREES
from dashboards.window import Window, within
from fleet import signals as s
from fleet.history import History
from fleet.history.schema import decisions, requests, samples
from fleet.slo import DEFAULT_SLOS

WINDOW_S = 300.0
"""The newest minutes that are compared with those before."""
DEFAULT_TREE = "ttft_high"


@lru_cache(maxsize=1)
def tree_by_alert() -> dict[str, str]:
    """Which tree an alert leads to."""
    return {rule.name: rule.tree for rule in rulebook(DEFAULT_SLOS).alerts if rule.tree}


def titles() -> dict[str, str]:
    """Trees with the question that each answers."""
    return {name: tree.title for name, tree in TREES.items()}


def tree_for(alert: str) -> str:
    """The tree of an alert, or that of a high TTFT for one that is not known.

    >>> tree_for("no such alert")
    'ttft_high'
    """
    return tree_by_alert().get(alert, DEFAULT_TREE)


def evidence(history: History, window: Window) -> Evidence:
    """What the history says about the minutes before the window's end, read in the database and bounded."""
    span = min(WINDOW_S, max(60.0, window.span_s / 7))
    wide = window.over(window.until_s - span * (1 + BEFORE_WINDOWS), window.until_s)
    asked, step = _requests(history, wide)
    rows = Recorded(
        requests=asked, samples=_samples(history, wide, window.until_s - span), decisions=_decisions(history, wide)
    )
    found = gathered(rows, at_s=window.until_s, window_s=span)
    return {name: value * step if value is not None and name in _COUNTED else value for name, value in found.items()}


MOST_REQUESTS: Final = 8_000
"""So many single requests are read for a diagnosis; of more, every second, third ... one."""
_COUNTED: Final = ("request_rps", "request_rps_before", "output_tps", "output_tps_before", "requests_recorded")
"""Figures that grow with the number of requests read."""
_BIN_S: Final = 60.0
_ASKED: Final = (requests.c.at_s, requests.c.outcome, requests.c.endpoint, requests.c.ttft_s, requests.c.tpot_s,
                 requests.c.cached_tokens, requests.c.input_tokens, requests.c.output_tokens,
                 requests.c.predicted_ttft_s)  # fmt: skip


def _requests(history: History, window: Window) -> tuple[list[dict[str, Any]], int]:
    """Single requests by time, and how many each stands for."""
    here: list[sa.ColumnElement[bool]] = [within(requests.c.at_s, window)]
    here += [requests.c.model == window.model] if window.model else []
    count = int(history.select(sa.select(sa.func.count().label("n")).where(*here))[0]["n"])
    step = max(1, -(-count // MOST_REQUESTS))
    query: sa.Select[Any] = sa.select(*_ASKED).where(*here)
    query = query.where(requests.c.id % step == 0) if step > 1 else query
    return history.select(query.order_by(requests.c.at_s)), step


def _samples(history: History, window: Window, newest_s: float) -> list[dict[str, Any]]:
    """The engines' queue (mean) and KV cache (highest) by minute, what the controller wrote row by row.

    Only queues are compared with those before: KV caches are read from ``newest_s`` on.
    """
    here: list[sa.ColumnElement[bool]] = [within(samples.c.at_s, window)]
    here += [samples.c.model == window.model] if window.model else []
    index = samples.c.at_s / _BIN_S
    series = (samples.c.signal, samples.c.variant, samples.c.endpoint)
    value = sa.case((samples.c.signal == s.KV_UTILISATION.name, sa.func.max(samples.c.value)),
                    else_=sa.func.avg(samples.c.value)).label("value")  # fmt: skip
    minutes = sa.select(sa.func.min(samples.c.at_s).label("at_s"), *series, value)
    cache = sa.and_(samples.c.signal == s.KV_UTILISATION.name, samples.c.at_s >= newest_s)
    minutes = minutes.where(sa.or_(samples.c.signal == s.WAITING.name, cache), *here)
    minutes = minutes.group_by(sa.cast(index, sa.Integer), *series)
    own = (s.WVA_DESIRED.name, s.WVA_CURRENT.name, s.WVA_SATURATION.name)
    plain = sa.select(samples.c.at_s, *series, samples.c.value).where(samples.c.signal.in_(own), *here)
    return history.select(minutes) + history.select(plain.order_by(samples.c.at_s))


def _decisions(history: History, window: Window) -> list[dict[str, Any]]:
    query = sa.select(decisions.c.at_s, decisions.c.variant, decisions.c.reason).where(within(decisions.c.at_s, window))
    query = query.where(decisions.c.model == window.model) if window.model else query
    return history.select(query.order_by(decisions.c.at_s))


def walk(tree: str, found: Evidence) -> Diagnosis:
    """Follow one tree."""
    return diagnose(TREES[tree], found)


def shown(name: str, value: float | None) -> str:
    """A piece of evidence in words.

    >>> shown("queue_max", 4.0)
    'requests waiting on the fullest endpoint: 4 requests'
    """
    return f"{EVIDENCE[name].text}: {EVIDENCE[name].show(value)}"
