"""Sentences with figures in them, once for Prometheus's templates and once for people on one machine. Pure.

A sentence marks its figures: ``<value:seconds>``, ``<value:percent>``, ``<value:number>``, ``<value:rate>``, and
labels by name: ``<model_name>``.

>>> sentence = "TTFT P95 of <model_name> is <value:seconds>"
>>> as_template(sentence)
'TTFT P95 of {{ $labels.model_name }} is {{ $value | humanizeDuration }}'
>>> as_text(sentence, {"model_name": "llama"}, 0.2425)
'TTFT P95 of llama is 242.5ms'
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

_MARK = re.compile(r"<([a-zA-Z_]+)(?::([a-z]+))?>")

_FILTERS = {"seconds": "humanizeDuration", "percent": "humanizePercentage", "number": "humanize",
            "rate": 'printf "%.3g"', "url": "urlquery"}  # fmt: skip
_LARGE, _SMALL = ("", "k", "M", "G", "T", "P"), ("m", "u", "n", "p")


def _significant(value: float) -> str:
    return f"{value:.4g}"


def _below_one(value: float) -> str:
    power = next((n for n in range(1, len(_SMALL)) if abs(value) * 1000**n >= 1), len(_SMALL))
    return _significant(value * 1000**power) + _SMALL[power - 1]


def number(value: float) -> str:
    """As Prometheus's ``humanize``.

    >>> number(10250.0), number(0.05), number(0.0)
    ('10.25k', '50m', '0')
    """
    if value == 0 or not math.isfinite(value):
        return _significant(value)
    if abs(value) < 1:
        return _below_one(value)
    for prefix in _LARGE:
        if abs(value) < 1000:
            return _significant(value) + prefix
        value /= 1000
    return _significant(value) + "E"


def seconds(value: float) -> str:
    """As Prometheus's ``humanizeDuration``.

    >>> seconds(0.2425), seconds(12.5), seconds(75), seconds(90061)
    ('242.5ms', '12.5s', '1m 15s', '1d 1h 1m 1s')
    """
    if value == 0 or not math.isfinite(value):
        return _significant(value) + ("s" if value == 0 else "")
    if abs(value) < 1:
        return _below_one(value) + "s"
    sign, whole = ("-" if value < 0 else ""), int(abs(value))
    if whole < 60:
        return f"{sign}{_significant(abs(value))}s"
    parts = ((whole // 86_400, "d"), (whole // 3_600 % 24, "h"), (whole // 60 % 60, "m"), (whole % 60, "s"))
    first = next(index for index, (amount, _) in enumerate(parts) if amount)
    return sign + " ".join(f"{amount}{unit}" for amount, unit in parts[first:])


def percent(value: float) -> str:
    """As Prometheus's ``humanizePercentage``.

    >>> percent(0.953)
    '95.3%'
    """
    return f"{_significant(value * 100)}%"


def rate(value: float) -> str:
    """Three digits, without the ``m`` for a thousandth that ``humanize`` would write.

    >>> rate(0.5)
    '0.5'
    """
    return f"{value:.3g}"


_FORMATS = {"seconds": seconds, "percent": percent, "number": number, "rate": rate}


def as_template(sentence: str) -> str:
    """The sentence as a Prometheus template.

    Raises: ValueError for an unknown format.
    """

    def replace(mark: re.Match[str]) -> str:
        name, kind = mark[1], mark[2]
        if kind and kind not in _FILTERS:
            raise ValueError(f"unknown format {kind!r} in {mark[0]}")
        source = "$value" if name == "value" else f"$labels.{name}"
        return f"{{{{ {source} | {_FILTERS[kind]} }}}}" if kind else f"{{{{ {source} }}}}"

    return _MARK.sub(replace, sentence)


def as_text(sentence: str, labels: Mapping[str, str], value: float) -> str:
    """The sentence with its figures filled in; a missing label reads empty."""

    def replace(mark: re.Match[str]) -> str:
        name, kind = mark[1], mark[2]
        if name == "value":
            return _FORMATS[kind or "number"](value)
        return _url(labels.get(name, "")) if kind == "url" else labels.get(name, "")

    return _MARK.sub(replace, sentence)


def _url(value: str) -> str:
    """As Go's ``urlquery``: everything but letters, digits and ``-_.~`` as %XX, a space as +."""
    safe = set(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.~")
    return "".join(chr(c) if c in safe else "+" if c == 32 else f"%{c:02X}" for c in value.encode())
