"""The decision trees of ``alerts``, walked over the history for the alerts page."""

from __future__ import annotations

from functools import lru_cache

from alerts import recorded
from alerts.diagnosis import Diagnosis, Evidence, diagnose
from alerts.rules import rulebook
from alerts.trees import EVIDENCE, TREES
from dashboards.window import Window
from fleet.history import History
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
    """What the history says about the minutes before the window's end."""
    span = min(WINDOW_S, max(60.0, window.span_s / 7))
    return recorded.read(history, model=window.model, at_s=window.until_s, window_s=span)


def walk(tree: str, found: Evidence) -> Diagnosis:
    """Follow one tree."""
    return diagnose(TREES[tree], found)


def shown(name: str, value: float | None) -> str:
    """A piece of evidence in words.

    >>> shown("queue_max", 4.0)
    'requests waiting on the fullest endpoint: 4 requests'
    """
    return f"{EVIDENCE[name].text}: {EVIDENCE[name].show(value)}"
