"""The evaluation as one HTML file: curves, coverage, predicted against actual; nothing to load. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any, Final

_COLOURS: Final = ("#1b6ca8", "#c0392b", "#7f8c8d", "#d68910", "#16a085")
_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 460.0, 300.0, 56.0, 40.0
_STYLE: Final = (
    "body{font:14px system-ui;margin:2em;max-width:62em}table{border-collapse:collapse;margin:1em 0}"
    "td,th{border:1px solid #ccc;padding:.25em .6em;text-align:right}th:first-child,td:first-child{text-align:left}"
    "svg{margin:.5em 1em .5em 0}text{font:11px system-ui}"
)


def html(report: Mapping[str, Any], *, title: str) -> str:
    """A page from what :func:`predictor.evaluate.evaluation` gives."""
    curve = [point for point in report["curve"] if point["regime"] == "all"]
    parts = [f"<p>{report['samples']} samples, {report['censored']} of them given up waiting. Trained on the rows "
             "before a gap of 20, tested on the newest 40 %.</p>"]  # fmt: skip
    parts += [_curve(curve, target, report["methods"]) for target in ("ttft", "tpot")]
    parts.append(_table(report["curve"]))
    for target, pairs in report.get("pairs", {}).items():
        parts.append(_dots(pairs, target))
    parts.append(_endpoints(report))
    return (f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{escape(title)}</title>"
            f"<style>{_STYLE}</style><h1>{escape(title)}</h1>{''.join(parts)}</html>")  # fmt: skip


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def _table(points: Sequence[Mapping[str, Any]]) -> str:
    head = ("method", "target", "regime", "trained on", "rows", "MAPE", "median", "bias", "coverage of 90 %", "width",
            "pinball, ms")  # fmt: skip
    rows = []
    for point in points:
        score = point["score"]
        figures = [_percent(score[name]) for name in ("mape", "median_ape", "bias", "coverage")]
        width = "-" if score["width"] is None else f"{score['width']:.2f}"
        loss = "-" if score["pinball_s"] is None else f"{1000 * score['pinball_s']:.1f}"
        rows.append((point["method"], point["target"], point["regime"], point["n"], score["n"], *figures, width, loss))
    return _rows(head, rows)


def _endpoints(report: Mapping[str, Any]) -> str:
    rows = [(endpoint, target, _percent(score["mape"]), _percent(score["coverage"]))
            for target, found in report.get("endpoints", {}).items() for endpoint, score in found.items()]  # fmt: skip
    left = [(one["endpoint"], one["target"], _percent(one["unseen"]["mape"]), _percent(one["after"]["mape"]))
            for one in report.get("left_out", ())]  # fmt: skip
    return ("<h2>By endpoint</h2>" + _rows(("endpoint", "target", "MAPE", "coverage"), rows)
            + "<h2>Left out of training</h2>"
            + _rows(("endpoint", "target", "unseen", "after 10 of its rows"), left))  # fmt: skip


def _rows(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    top = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{top}</tr>{body}</table>"


def _curve(points: Sequence[Mapping[str, Any]], target: str, methods: Sequence[str]) -> str:
    """MAPE against training rows, both logarithmic."""
    own = [one for one in points if one["target"] == target and one["score"]["mape"]]
    if not own:
        return ""
    lines = {name: [(one["n"], 100 * one["score"]["mape"]) for one in own if one["method"] == name]
             for name in methods}  # fmt: skip
    place = _scale([x for line in lines.values() for x, _ in line], [y for line in lines.values() for _, y in line])
    marks = []
    for index, (name, line) in enumerate(lines.items()):
        colour = _COLOURS[index % len(_COLOURS)]
        path = " ".join("{:.1f},{:.1f}".format(*place(x, y)) for x, y in line)
        marks.append(f"<polyline points='{path}' fill='none' stroke='{colour}' stroke-width='2'/>"
                     f"<text x='{_WIDTH - 90}' y='{20 + 14 * index}' fill='{colour}'>"
                     f"{escape(name)}</text>")  # fmt: skip
    labels = "".join(f"<text x='{place(x, 0)[0]:.1f}' y='{_HEIGHT - 22:.1f}'>{x}</text>"
                     for x in sorted({one["n"] for one in own}))  # fmt: skip
    return _svg(f"{target.upper()}: MAPE, % by training rows", "".join(marks) + labels, place.ticks)


def _dots(pairs: Sequence[Sequence[float]], target: str) -> str:
    """Predicted against actual with its interval; queued rows red."""
    if not pairs:
        return ""
    values = [value for actual, point, *_ in pairs for value in (actual, point)]
    place = _scale(values, values)
    marks = []
    for actual, point, low, high, queued in pairs:
        (x, y), y_low, y_high = place(actual, point), place(actual, low)[1], place(actual, high)[1]
        colour = _COLOURS[1] if queued else _COLOURS[0]
        marks.append(f"<line x1='{x:.1f}' x2='{x:.1f}' y1='{y_low:.1f}' y2='{y_high:.1f}' stroke='{colour}' "
                     f"opacity='.25'/><circle cx='{x:.1f}' cy='{y:.1f}' r='2' fill='{colour}'/>")  # fmt: skip
    return _svg(f"{target.upper()}: predicted (y) against actual (x), seconds", "".join(marks), place.ticks)


class _Place:
    """Logarithmic axes onto the picture."""

    def __init__(self, xs: Sequence[float], ys: Sequence[float]) -> None:
        self._x, self._y = _ends(xs), _ends(ys)

    def __call__(self, x: float, y: float) -> tuple[float, float]:
        """Where a point lies; beyond the axes it lies on their ends."""
        return (_LEFT + _share(x, self._x) * (_WIDTH - _LEFT - 10), _HEIGHT - _BOTTOM - _share(y, self._y)
                * (_HEIGHT - _BOTTOM - 24))  # fmt: skip

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Heights and labels of the y axis."""
        low, high = self._y
        steps = [low + (high - low) * part / 4 for part in range(5)]
        return [(self(1.0, math.exp(step))[1], f"{math.exp(step):.3g}") for step in steps]


def _scale(xs: Sequence[float], ys: Sequence[float]) -> _Place:
    return _Place(xs, ys)


def _ends(values: Sequence[float]) -> tuple[float, float]:
    logs = [math.log(value) for value in values if value > 0]
    return (min(logs), max(*logs, min(logs) + 1e-6)) if logs else (0.0, 1.0)


def _share(value: float, ends: tuple[float, float]) -> float:
    low, high = ends
    return min(1.0, max(0.0, (math.log(max(value, 1e-9)) - low) / (high - low)))


def _svg(title: str, marks: str, ticks: Sequence[tuple[float, str]]) -> str:
    axis = "".join(f"<text x='4' y='{y:.1f}'>{label}</text><line x1='{_LEFT}' x2='{_WIDTH}' y1='{y:.1f}' y2='{y:.1f}' "
                   "stroke='#eee'/>" for y, label in ticks)  # fmt: skip
    return (f"<svg width='{_WIDTH:.0f}' height='{_HEIGHT:.0f}' role='img' aria-label='{escape(title)}'>{axis}"
            f"<text x='{_LEFT}' y='14' font-weight='bold'>{escape(title)}</text>{marks}</svg>")  # fmt: skip
