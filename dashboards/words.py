"""Numbers and times as a person reads them: three significant digits, SI suffixes, units always. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from datetime import UTC, datetime, tzinfo
from typing import Final

NOTHING: Final = "–"
"""Stands for a value that is not known."""

_SI: Final = ((1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""), (1e-3, "m"), (1e-6, "µ"))


def _known(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def significant(value: float | None, digits: int = 3) -> str:
    """A number with so many significant digits and no exponent.

    >>> significant(1234.5), significant(0.012345), significant(9.999), significant(None)
    ('1230', '0.0123', '10', '–')
    """
    if value is None or not _known(value):
        return NOTHING
    if value == 0:
        return "0"
    rounded = round(value, digits - 1 - math.floor(math.log10(abs(value))))
    places = max(0, digits - 1 - math.floor(math.log10(abs(rounded))))
    text = f"{rounded:.{places}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def si(value: float | None, unit: str = "", digits: int = 3) -> str:
    """A number with an SI suffix and its unit; counts below one stay plain.

    >>> si(12345, "tok/s"), si(0.5, "rps"), si(950)
    ('12.3k tok/s', '0.5 rps', '950')
    """
    if value is None or not _known(value):
        return NOTHING
    size = float(significant(abs(value), digits))
    scale, suffix = next(((s, x) for s, x in _SI if s >= 1 and size >= s), (1.0, ""))
    return f"{significant(value / scale, digits)}{suffix}{' ' + unit if unit else ''}"


def seconds(value: float | None) -> str:
    """A latency or a duration.

    >>> seconds(0.0421), seconds(0.482), seconds(1.5), seconds(95), seconds(7320)
    ('42.1 ms', '482 ms', '1.5 s', '95 s', '2 h 2 min')
    """
    if value is None or not _known(value):
        return NOTHING
    if abs(value) < 1:
        return f"{significant(value * 1000)} ms" if value else "0 s"
    if abs(value) < 120:
        return f"{significant(value)} s"
    minutes = int(value // 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h" if hours else f"{days} d"
    if hours:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    return f"{minutes} min"


def percent(ratio: float | None) -> str:
    """A ratio as a percentage; near 100 % it keeps enough digits to show that something failed.

    >>> percent(0.98712), percent(0.99996), percent(1.0), percent(0.0)
    ('98.7 %', '99.996 %', '100 %', '0 %')
    """
    if ratio is None or not _known(ratio):
        return NOTHING
    if 0.995 <= ratio < 1:
        text = f"{math.floor(ratio * 100_000) / 1000:.3f}".rstrip("0").rstrip(".")
        return f"{text} %"
    return f"{significant(ratio * 100)} %"


def percents(ratios: Iterable[float | None]) -> str:
    """Several ratios in the width of one.

    >>> percents([0.911, 0.764]), percents([0.9, None]), percents([None, None])
    ('91 / 76 %', '90 / – %', '–')
    """
    found = [NOTHING if ratio is None else significant(ratio * 100, 2) for ratio in ratios]
    return f"{' / '.join(found)} %" if set(found) != {NOTHING} else NOTHING


def money(dollars: float | None) -> str:
    """US dollars.

    >>> money(31.2), money(1250), money(0.5)
    ('$31.20', '$1250', '$0.50')
    """
    if dollars is None or not _known(dollars):
        return NOTHING
    return f"${dollars:.0f}" if abs(dollars) >= 1000 else f"${dollars:.2f}"


def change(now: float | None, before: float | None) -> str:
    """How much a figure moved against the window before; empty when nothing can be said.

    >>> change(110, 100), change(90, 100), change(100.2, 100), change(5, None), change(690, 10)
    ('↑ 10 %', '↓ 10 %', 'unchanged', '', '↑ 69x')
    """
    if now is None or before is None or not _known(now) or not _known(before) or before == 0:
        return ""
    ratio = now / before - 1
    if abs(ratio) < 0.005:
        return "unchanged"
    if ratio >= 9:
        return f"↑ {significant(now / before, 2)}x"
    return f"{'↑' if ratio > 0 else '↓'} {significant(abs(ratio) * 100, 2)} %"


def change_points(now: float | None, before: float | None) -> str:
    """The same for ratios, in percentage points.

    >>> change_points(0.98, 0.991), change_points(1.0, 1.0)
    ('↓ 1.1 pt', 'unchanged')
    """
    if now is None or before is None or not _known(now) or not _known(before):
        return ""
    points = (now - before) * 100
    if abs(points) < 0.005:
        return "unchanged"
    return f"{'↑' if points > 0 else '↓'} {significant(abs(points), 2)} pt"


def ago(age_s: float | None) -> str:
    """How long ago.

    >>> ago(0.4), ago(3.2), ago(95), ago(None)
    ('now', '3 s ago', '95 s ago', 'never')
    """
    if age_s is None or not _known(age_s):
        return "never"
    return "now" if age_s < 1 else f"{seconds(float(round(age_s)))} ago"


def clock(at_s: float | None, zone: tzinfo = UTC, *, with_date: bool = False) -> str:
    """A Unix time on the viewer's clock.

    >>> clock(0.0), clock(0.0, with_date=True)
    ('00:00:00', '1970-01-01 00:00:00')
    """
    if at_s is None or not _known(at_s):
        return NOTHING
    return datetime.fromtimestamp(at_s, zone).strftime("%Y-%m-%d %H:%M:%S" if with_date else "%H:%M:%S")


_MARKS: Final = re.compile(r"([\\`*_\[\]$~:<>#|])")
"""What Markdown, as Streamlit reads it, takes for more than itself inside a line."""


def verbatim(text: str) -> str:
    """A text for a place that reads Markdown, to be read as it is written.

    >>> print(verbatim("a_b at $3: [up]"))
    a\\_b at \\$3\\: \\[up\\]
    """
    return _MARKS.sub(r"\\\1", text)


def plural(count: int, noun: str) -> str:
    """A count with its noun.

    >>> plural(1, "replica"), plural(0, "replica")
    ('1 replica', '0 replicas')
    """
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def endpoint_name(url: str) -> str:
    """An endpoint without what all of them share.

    >>> endpoint_name("http://127.0.0.1:9100"), endpoint_name("http://10.0.0.7:8000/")
    (':9100', '10.0.0.7:8000')
    """
    short = url.removeprefix("http://").removeprefix("https://").rstrip("/")
    return short.removeprefix("127.0.0.1").removeprefix("localhost") or short
