"""Alert conditions as a small typed algebra with two faces: PromQL, and evaluation over a window in memory. Pure.

>>> from fleet import signals as s
>>> hits = Over("rate", s.PREFIX_HITS, 600).by("model_name")
>>> asked = Over("rate", s.PREFIX_QUERIES, 600).by("model_name")
>>> print((hits / (asked > 0)).promql()[:76])
sum by (model_name) (rate(vllm:prefix_cache_hits_total[10m])) / (sum by (mod
"""

from __future__ import annotations

import math
import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from functools import reduce
from typing import Any, Self

from alerts.functions import AGGREGATIONS, COUNTER_FUNCTIONS, RANGE_FUNCTIONS, bucket_quantile
from alerts.store import LOOKBACK_S, Labels, Matchers, SeriesStore
from fleet import promql
from fleet.signals import Kind, Signal

Vector = dict[Labels, float]
Value = Vector | float
"""A vector, or a scalar."""

_UNITS = (("d", 86_400.0), ("h", 3_600.0), ("m", 60.0), ("s", 1.0))


def duration(seconds: float) -> str:
    """A PromQL duration in its largest whole unit.

    >>> duration(300), duration(5400), duration(86400), duration(1.5)
    ('5m', '90m', '1d', '1500ms')
    """
    for unit, size in _UNITS:
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds * 1000:.0f}ms"


class Expr(ABC):
    """An expression; ``>`` ``<`` ``+`` ``-`` ``*`` ``/`` build larger ones, comparisons filter as in PromQL."""

    __slots__ = ()

    @abstractmethod
    def promql(self) -> str:
        """The expression in PromQL."""

    @abstractmethod
    def evaluate(self, store: SeriesStore, now_s: float) -> Value:
        """Its value at ``now_s``.

        Raises: ValueError where Prometheus would refuse (several series match one).
        """

    def children(self) -> Iterator[Expr]:
        """Expressions directly inside."""
        for item in fields(self):  # type: ignore[arg-type]  # every concrete expression is a dataclass
            value = getattr(self, item.name)
            if isinstance(value, Expr):
                yield value

    def walk(self) -> Iterator[Expr]:
        """This expression and all inside it."""
        yield self
        for child in self.children():
            yield from child.walk()

    def scaled(self, factor: float) -> Self:
        """The same with every window and offset times ``factor``."""
        changed: dict[str, Any] = {}
        for item in fields(self):  # type: ignore[arg-type]  # every concrete expression is a dataclass
            value = getattr(self, item.name)
            if isinstance(value, Expr):
                changed[item.name] = value.scaled(factor)
            elif item.name in {"window_s", "offset_s"}:
                changed[item.name] = value * factor
        return replace(self, **changed)  # type: ignore[type-var]  # as above

    def by(self, *labels: str) -> Agg:
        """``sum by (labels)``."""
        return Agg("sum", self, labels)

    def matching(self, op: str, other: Expr | float, *on: str, ignoring: tuple[str, ...] = ()) -> Binary:
        """A binary operation matched ``on`` labels (or ``ignoring`` some)."""
        return Binary(op, self, _expr(other), on, ignoring)

    def unless(self, other: Expr, *on: str) -> Binary:
        """``self unless on (labels) other``."""
        return self.matching("unless", other, *on)

    def __gt__(self, other: Expr | float) -> Binary:
        return self.matching(">", other)

    def __ge__(self, other: Expr | float) -> Binary:
        return self.matching(">=", other)

    def __lt__(self, other: Expr | float) -> Binary:
        return self.matching("<", other)

    def __add__(self, other: Expr | float) -> Binary:
        return self.matching("+", other)

    def __sub__(self, other: Expr | float) -> Binary:
        return self.matching("-", other)

    def __mul__(self, other: Expr | float) -> Binary:
        return self.matching("*", other)

    def __truediv__(self, other: Expr | float) -> Binary:
        return self.matching("/", other)


def _expr(value: Expr | float) -> Expr:
    return value if isinstance(value, Expr) else Number(float(value))


@dataclass(frozen=True, slots=True)
class Number(Expr):
    """A constant."""

    value: float

    def promql(self) -> str:
        """See :class:`Expr`."""
        return f"{self.value:.10g}"

    def evaluate(self, store: SeriesStore, now_s: float) -> Value:
        """See :class:`Expr`."""
        return self.value


@dataclass(frozen=True, slots=True)
class Now(Expr):
    """``time()``: the evaluation time, Unix seconds."""

    def promql(self) -> str:
        """See :class:`Expr`."""
        return "time()"

    def evaluate(self, store: SeriesStore, now_s: float) -> Value:
        """See :class:`Expr`."""
        return now_s


@dataclass(frozen=True, slots=True)
class Select(Expr):
    """The current value of a signal's series."""

    signal: Signal
    matchers: Matchers = ()
    suffix: str = ""
    offset_s: float = 0.0

    def promql(self) -> str:
        """See :class:`Expr`."""
        text = promql.selector(self.signal, suffix=self.suffix, **dict(self.matchers))
        return f"{text} offset {duration(self.offset_s)}" if self.offset_s else text

    def evaluate(self, store: SeriesStore, now_s: float) -> Value:
        """See :class:`Expr`."""
        return dict(store.instant(self.signal.name + self.suffix, self.matchers, now_s - self.offset_s))


@dataclass(frozen=True, slots=True)
class Over(Expr):
    """A function over a window of a signal's series: ``rate``, ``max_over_time`` and the like.

    Raises: ValueError for a rate of a gauge, and for an unknown function.
    """

    function: str
    signal: Signal
    window_s: float
    matchers: Matchers = ()
    suffix: str = ""

    def __post_init__(self) -> None:
        if self.function not in RANGE_FUNCTIONS:
            raise ValueError(f"unknown function {self.function}")
        if self.function in COUNTER_FUNCTIONS and self.signal.kind is Kind.GAUGE:
            raise ValueError(f"{self.signal.name} is a gauge; {self.function}() of it means nothing")

    def promql(self) -> str:
        """See :class:`Expr`."""
        selector = promql.selector(self.signal, suffix=self.suffix, **dict(self.matchers))
        return f"{self.function}({selector}[{duration(self.window_s)}])"

    def evaluate(self, store: SeriesStore, now_s: float) -> Value:
        """See :class:`Expr`."""
        start_s, function = now_s - self.window_s, RANGE_FUNCTIONS[self.function]
        found = store.window(self.signal.name + self.suffix, self.matchers, start_s, now_s)
        values = {labels: function(times, values, start_s, now_s) for labels, times, values in found}
        return {labels: value for labels, value in values.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Agg(Expr):
    """``sum``, ``max``, ``min``, ``count`` or ``group``, by labels."""

    op: str
    inner: Expr
    labels: tuple[str, ...] = ()

    def promql(self) -> str:
        """See :class:`Expr`."""
        if self.op == "sum":
            return promql.sum_by(self.inner.promql(), *self.labels)
        by = f" by ({', '.join(self.labels)}) " if self.labels else ""
        return f"{self.op}{by}({self.inner.promql()})"

    def evaluate(self, store: SeriesStore, now_s: float) -> Value:
        """See :class:`Expr`."""
        groups: dict[Labels, list[float]] = {}
        for labels, value in vector(self.inner, store, now_s).items():
            groups.setdefault(_keep(labels, self.labels), []).append(value)
        return {labels: AGGREGATIONS[self.op](values) for labels, values in groups.items()}


@dataclass(frozen=True, slots=True)
class Quantile(Expr):
    """``histogram_quantile`` over rates of buckets (which still carry ``le``)."""

    q: float
    buckets: Expr

    def promql(self) -> str:
        """See :class:`Expr`."""
        return f"histogram_quantile({self.q:g}, {self.buckets.promql()})"

    def evaluate(self, store: SeriesStore, now_s: float) -> Value:
        """See :class:`Expr`."""
        groups: dict[Labels, list[tuple[float, float]]] = {}
        for labels, count in vector(self.buckets, store, now_s).items():
            bound = next((value for label, value in labels if label == "le"), None)
            if bound is not None:
                groups.setdefault(_drop(labels, ("le",)), []).append((float(bound), count))
        return {labels: bucket_quantile(self.q, sorted(buckets)) for labels, buckets in groups.items()}


@dataclass(frozen=True, slots=True)
class Absent(Expr):
    """1 where ``inner`` has no series at all."""

    inner: Expr

    def promql(self) -> str:
        """See :class:`Expr`."""
        return f"absent({self.inner.promql()})"

    def evaluate(self, store: SeriesStore, now_s: float) -> Value:
        """See :class:`Expr`."""
        return {} if vector(self.inner, store, now_s) else {(): 1.0}


def _divide(left: float, right: float) -> float:
    if right:
        return left / right
    return math.nan if left == 0 or math.isnan(left) else math.copysign(math.inf, left)


ARITHMETIC: Mapping[str, Callable[[float, float], float]] = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "/": _divide,
}  # fmt: skip
COMPARISONS: Mapping[str, Callable[[float, float], bool]] = {
    ">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le, "==": operator.eq, "!=": operator.ne,
}  # fmt: skip
SETS = frozenset({"and", "or", "unless"})


@dataclass(frozen=True, slots=True)
class Binary(Expr):
    """Arithmetic, a filtering comparison, or a set operation; vectors match one to one."""

    op: str
    left: Expr
    right: Expr
    on: tuple[str, ...] = ()
    ignoring: tuple[str, ...] = ()

    def promql(self) -> str:
        """See :class:`Expr`."""
        chain = isinstance(self.left, Binary) and self.op in {"or", "+"} and self.left._operator() == self._operator()
        left = self.left.promql() if chain else _grouped(self.left)
        return f"{left} {self._operator()} {_grouped(self.right)}"

    def _operator(self) -> str:
        match = f" on ({', '.join(self.on)})" if self.on else ""
        match = f" ignoring ({', '.join(self.ignoring)})" if self.ignoring else match
        return self.op + match

    def evaluate(self, store: SeriesStore, now_s: float) -> Value:
        """See :class:`Expr`."""
        left, right = self.left.evaluate(store, now_s), self.right.evaluate(store, now_s)
        if self.op in SETS:
            return self._combine(_as_vector(left), _as_vector(right))
        if not isinstance(left, dict) and not isinstance(right, dict):
            return ARITHMETIC[self.op](left, right)
        pairs = self._pairs(left, right)
        if self.op in ARITHMETIC:
            return {labels: ARITHMETIC[self.op](a, b) for labels, a, b in pairs}
        holds, keep_left = COMPARISONS[self.op], isinstance(left, dict)
        return {labels: a if keep_left else b for labels, a, b in pairs if holds(a, b)}

    def _key(self, labels: Labels) -> Labels:
        return _keep(labels, self.on) if self.on else _drop(labels, self.ignoring)

    def _pairs(self, left: Value, right: Value) -> list[tuple[Labels, float, float]]:
        """(labels of the result, left value, right value) for each match."""
        if not isinstance(right, dict):
            return [(labels, value, right) for labels, value in _as_vector(left).items()]
        if not isinstance(left, dict):
            return [(labels, left, value) for labels, value in right.items()]
        others = _unique(right, self._key)
        matched = _unique({k: v for k, v in left.items() if self._key(k) in others}, self._key)
        return [(labels, value, others[labels]) for labels, value in matched.items()]

    def _combine(self, left: Vector, right: Vector) -> Vector:
        if self.op == "or":
            known = {self._key(labels) for labels in left}
            return left | {labels: value for labels, value in right.items() if self._key(labels) not in known}
        known = {self._key(labels) for labels in right}
        return {labels: value for labels, value in left.items() if (self._key(labels) in known) == (self.op == "and")}


def vector(expr: Expr, store: SeriesStore, now_s: float) -> Vector:
    """The value of an expression that is a vector.

    Raises: ValueError when it is a scalar.
    """
    return _as_vector(expr.evaluate(store, now_s))


def any_of(*expressions: Expr) -> Expr:
    """``a or b or c``: for each label set the first that has it."""
    return reduce(lambda left, right: left.matching("or", right), expressions)


def both(left: Expr, right: Expr, *on: str) -> Binary:
    """``left and on (labels) right``: what is left where right also holds."""
    return left.matching("and", right, *on)


def _grouped(expr: Expr) -> str:
    return f"({expr.promql()})" if isinstance(expr, Binary) else expr.promql()


def _as_vector(value: Value) -> Vector:
    if not isinstance(value, dict):
        raise ValueError("a scalar where a vector is needed")
    return value


def _unique(values: Vector, key: Callable[[Labels], Labels]) -> Vector:
    found: Vector = {}
    for labels, value in values.items():
        if key(labels) in found:
            raise ValueError(f"several series match {dict(key(labels))}")
        found[key(labels)] = value
    return found


def _keep(labels: Labels, names: tuple[str, ...]) -> Labels:
    return tuple(pair for pair in labels if pair[0] in names)


def _drop(labels: Labels, names: tuple[str, ...]) -> Labels:
    return tuple(pair for pair in labels if pair[0] not in names)


def lookbacks(expr: Expr) -> Iterator[tuple[str, float]]:
    """Each series name that an expression reads, with the seconds it reaches back."""
    for part in expr.walk():
        if isinstance(part, Select):
            yield part.signal.name + part.suffix, LOOKBACK_S + part.offset_s
        elif isinstance(part, Over):
            yield part.signal.name + part.suffix, part.window_s
