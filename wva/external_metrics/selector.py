"""Kubernetes label selectors as they stand in a query. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

_SET = re.compile(r"^(?P<key>\S+)\s+(?P<how>in|notin)\s*\((?P<values>[^()]*)\)$")
_EQUAL = re.compile(r"^(?P<key>[^=!\s]+)\s*(?P<how>==|=|!=)\s*(?P<value>[^=!\s]*)$")
_KEY = re.compile(r"^(?:[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?/)?[A-Za-z0-9](?:[A-Za-z0-9_.-]*[A-Za-z0-9])?$")
_VALUE = re.compile(r"^(?:[A-Za-z0-9](?:[A-Za-z0-9_.-]*[A-Za-z0-9])?)?$")

Labels = Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirement:
    """One term of a selector."""

    key: str
    test: Callable[[str | None], bool]


def parse(text: str) -> tuple[Requirement, ...]:
    """A selector's terms; an empty one has none, and selects everything.

    Raises: ValueError naming the term that is malformed.

    >>> select(parse("a=b,c in (d, e),!f"), {"a": "b", "c": "e"})
    True
    """
    return tuple(_requirement(term.strip()) for term in _split(text)) if text.strip() else ()


def select(requirements: tuple[Requirement, ...], labels: Labels) -> bool:
    """Whether ``labels`` satisfy every requirement."""
    return all(each.test(labels.get(each.key)) for each in requirements)


def _split(text: str) -> list[str]:
    """At commas outside of parentheses."""
    return re.split(r",(?![^()]*\))", text)


def _requirement(term: str) -> Requirement:
    if match := _SET.match(term):
        values = frozenset(_value(each.strip(), term) for each in match["values"].split(","))
        if match["how"] == "in":
            return Requirement(key=_key(match["key"], term), test=lambda value: value in values)
        return Requirement(key=_key(match["key"], term), test=lambda value: value not in values)
    if match := _EQUAL.match(term):
        wanted = _value(match["value"], term)
        if match["how"] == "!=":
            return Requirement(key=_key(match["key"], term), test=lambda value: value != wanted)
        return Requirement(key=_key(match["key"], term), test=lambda value: value == wanted)
    if term.startswith("!"):
        return Requirement(key=_key(term[1:].strip(), term), test=lambda value: value is None)
    return Requirement(key=_key(term, term), test=lambda value: value is not None)


def _key(key: str, term: str) -> str:
    if not _KEY.match(key):
        raise ValueError(f"unable to parse requirement {term!r}: {key!r} is no label key")
    return key


def _value(value: str, term: str) -> str:
    if not _VALUE.match(value) or len(value) > 63:
        raise ValueError(f"unable to parse requirement {term!r}: {value!r} is no label value")
    return value
