"""Pieces of HTML for what Streamlit has no element for. Pure; every text from data is escaped here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, Final

from dashboards.summary import Level, Sentence

MARKS: Final = {Level.GOOD: "✓", Level.ATTENTION: "▲", Level.BREACH: "✕", Level.UNKNOWN: "?"}
WORDS: Final = {Level.GOOD: "good", Level.ATTENTION: "attention", Level.BREACH: "breach", Level.UNKNOWN: "unknown"}


def banner(sentence: Sentence, *, links: Sequence[tuple[str, str]] = ()) -> str:
    """The sentence on top, and where it leads: (words, address)."""
    ways = "".join(f'<a href="{escape(to)}" target="_self">{escape(words)}</a>' for words, to in links)
    return (
        f'<section class="fl-banner fl-{sentence.level}" role="status" aria-live="polite">'
        f'<span class="fl-mark" aria-hidden="true">{MARKS[sentence.level]}</span>'
        f"<div><strong>{escape(sentence.headline)}</strong> <span>{escape(sentence.detail)}</span>"
        f"{f'<nav class=fl-ways aria-label=Next>{ways}</nav>' if ways else ''}</div></section>"
    )


def badge(level: Level, text: str = "") -> str:
    """A state: a shape and a word, never colour alone."""
    return (
        f'<span class="fl-badge fl-{level}"><span aria-hidden="true">{MARKS[level]}</span> '
        f"{escape(text or WORDS[level])}</span>"
    )


def tile(label: str, value: str, *, note: str = "", limit: str = "", level: Level | None = None) -> str:
    """One figure with its limit and its change."""
    state = f" fl-edge-{level}" if level else ""
    mark = f'<span class="fl-tile-mark fl-{level}">{MARKS[level]} {WORDS[level]}</span>' if level else ""
    return (
        f'<div class="fl-tile{state}"><div class="fl-tile-label">{escape(label)}{mark}</div>'
        f'<div class="fl-tile-value">{escape(value)}</div>'
        f'<div class="fl-tile-note"><span>{escape(limit)}</span><span>{escape(note)}</span></div></div>'
    )


def tiles(items: Sequence[str]) -> str:
    """Tiles in a row that wraps."""
    return f'<div class="fl-tiles">{"".join(items)}</div>'


def bar(
    value: float | None, *, low: float | None = None, high: float | None = None, label: str, colour: str = ""
) -> str:
    """A horizontal bar from 0 to 1 with its thresholds as ticks; the number stands beside it."""
    if value is None:
        return '<span class="fl-none">not known</span>'
    width = max(0.0, min(1.0, value)) * 100
    ticks = "".join(f'<i style="left:{mark * 100:.1f}%"></i>' for mark in (low, high) if mark is not None)
    paint = f";background:{colour}" if colour else ""
    said = f'role="img" aria-label="{escape(label)} {value:.2f} of 1"'
    filled = f'<b style="width:{width:.1f}%{paint}"></b>'
    return f'<span class="fl-bar" {said}>{filled}{ticks}</span><span class="fl-num">{value:.2f}</span>'


def dots(ready: int | None, wanted: int | None, *, most: int = 8) -> str:
    """Replicas: a filled dot is ready, a ring is on its way, and both numbers in words."""
    if ready is None:
        return '<span class="fl-none">not known</span>'
    target = ready if wanted is None else wanted
    shown = max(ready, target)
    if shown > most:
        return f'<span class="fl-num">{ready} / {target}</span>'
    marks = "●" * min(ready, target) + "○" * max(0, target - ready) + "◌" * max(0, ready - target)
    return f'<span class="fl-dots" aria-hidden="true">{marks}</span><span class="fl-num">{ready} / {target}</span>'


def swatch(colour: str) -> str:
    """The colour of a variant, beside its name."""
    return f'<span class="fl-swatch" style="background:{escape(colour)}" aria-hidden="true"></span>'


def cell(label: str, content: str, *, kind: str = "") -> str:
    """One cell of a row; the label shows only where rows become cards. ``content`` is HTML."""
    return f'<div class="fl-cell {kind}" role="cell"><span class="fl-cell-label">{escape(label)}</span>{content}</div>'


def rows(head: Sequence[str], body: Sequence[Sequence[str]], *, columns: str, label: str) -> str:
    """A grid of rows that turn into cards on a narrow screen. ``body`` holds cells from :func:`cell`."""
    top = "".join(f'<div role="columnheader">{escape(name)}</div>' for name in head)
    lines = "".join(f'<div class="fl-row" role="row">{"".join(line)}</div>' for line in body)
    return (
        f'<div class="fl-grid" role="table" aria-label="{escape(label)}" style="--fl-columns:{columns}">'
        f'<div class="fl-row fl-head" role="row">{top}</div>{lines}</div>'
    )


def feed(items: Sequence[str], *, label: str) -> str:
    """A list of things that happened, newest first. ``items`` are HTML."""
    return f'<ol class="fl-feed" aria-label="{escape(label)}">{"".join(f"<li>{item}</li>" for item in items)}</ol>'


def happening(when: str, title: str, text: str, *, mark: str = "", link: str = "", colour: str = "") -> str:
    """One entry of a feed: time, what, a sentence; with a link when there is more."""
    head = f"{swatch(colour) if colour else ''}<strong>{escape(title)}</strong>"
    if mark:
        head += f' <span class="fl-move">{escape(mark)}</span>'
    told = f"{head}<p>{escape(text)}</p>"
    body = f"<time>{escape(when)}</time><div>{told}</div>" if when else f'<div class="fl-timeless">{told}</div>'
    return f'<a href="{escape(link)}" target="_self">{body}</a>' if link else f"<div>{body}</div>"


def event_mark(row: Mapping[Any, Any]) -> str:
    """The sign before an event of the history: over, critical, a warning, or none.

    >>> event_mark({"severity": "warning", "data": {}}), event_mark({"severity": "info", "data": {"state": "resolved"}})
    ('▲', '✓')
    """
    if isinstance(row["data"], Mapping) and row["data"].get("state") == "resolved":
        return "✓"
    return {"critical": "✕", "warning": "▲"}.get(row["severity"], "")


def empty(title: str, text: str, *, command: str = "", icon: str = "○") -> str:
    """A designed nothing: what is missing and what to do about it."""
    code = f"<pre><code>{escape(command)}</code></pre>" if command else ""
    return (
        f'<section class="fl-empty"><div class="fl-empty-icon" aria-hidden="true">{escape(icon)}</div>'
        f"<h3>{escape(title)}</h3><p>{escape(text)}</p>{code}</section>"
    )


def part(name: str, level: Level, text: str) -> str:
    """A line about one part of the fleet."""
    return (
        f'<div class="fl-part"><span class="fl-badge fl-{level}">{MARKS[level]}</span>'
        f"<span>{escape(name)}</span><small>{escape(text)}</small></div>"
    )


def step(answer: str, question: str, evidence: str) -> str:
    """One question of a diagnosis with its answer and what answered it."""
    return (
        f'<span class="fl-answer fl-answer-{escape(answer)}">{escape(answer)}</span>'
        f"<div>{escape(question)}<p>{escape(evidence)}</p></div>"
    )


def steps(items: Sequence[str]) -> str:
    """The questions in order."""
    return f'<ol class="fl-steps">{"".join(f"<li>{item}</li>" for item in items)}</ol>'


def cause(text: str, advice: str, command: str) -> str:
    """Where a diagnosis ended, and what to do."""
    code = f"<pre><code>{escape(command)}</code></pre>" if command else ""
    return f'<div class="fl-cause"><strong>{escape(text)}</strong><p>{escape(advice)}</p>{code}</div>'
