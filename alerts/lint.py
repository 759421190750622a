"""Which series a PromQL expression names, and whether the project knows them. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import Final

from fleet.signals import BY_ANY_NAME, base_name

_STRING = re.compile(r'"(?:[^"\\]|\\.)*"|\'(?:[^\'\\]|\\.)*\'|`[^`]*`')
_NAME_MATCHER = re.compile(r'__name__\s*=~?\s*"((?:[^"\\]|\\.)*)"')
_BRACES = re.compile(r"\{[^{}]*\}")
_RANGE = re.compile(r"\[[^\]]*\]")
_OFFSET = re.compile(r"\boffset\s+-?\w+")
_GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)")
_IDENTIFIER = re.compile(r"(?<![\w:.])[a-zA-Z_:][\w:]*(?!\w)(?!\s*\()")
_WORDS: Final = frozenset(
    [
        "and",
        "or",
        "unless",
        "bool",
        "by",
        "without",
        "on",
        "ignoring",
        "group_left",
        "group_right",
        "offset",
        "inf",
        "nan",
        "Inf",
        "NaN",
        "sum",
        "min",
        "max",
        "avg",
        "count",
        "group",
        "stddev",
        "stdvar",
        "topk",
        "bottomk",
        "quantile",
        "count_values",
    ]
)


def series_in(expression: str) -> Iterator[str]:
    """Names of the series that an expression selects.

    >>> sorted(series_in('sum by (pod) (rate(vllm:num_preemptions_total{engine="0"}[5m])) / on (pod) up > 0.5'))
    ['up', 'vllm:num_preemptions_total']
    >>> list(series_in('{__name__=~"a_total|b_total"}'))
    ['a_total', 'b_total']
    """
    for match in _NAME_MATCHER.finditer(expression):
        yield from match[1].split("|")
    bare = _STRING.sub('""', expression)
    for pattern in (_BRACES, _RANGE, _OFFSET, _GROUPING):
        bare = pattern.sub(" ", bare)
    for match in _IDENTIFIER.finditer(bare):
        if match[0] not in _WORDS:
            yield match[0]


def unknown_series(expression: str, recorded: Collection[str]) -> tuple[str, ...]:
    """Series that are neither in the catalogue nor recorded by the rules at hand."""
    return tuple(
        sorted({name for name in series_in(expression) if name not in recorded and base_name(name) not in BY_ANY_NAME})
    )
