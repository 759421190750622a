"""What a rule does with labels and types, judged by the metric catalogue: the mistakes that promtool cannot see. Pure.

A rate of a gauge, a matcher or a grouping on a label that a series does not carry, a quantile without ``le``, two sides
that can never match, a sentence that names a label which the alert has lost, an alert that drops its model.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import promql_parser as p

from fleet.signals import BY_ANY_NAME, Kind, base_name

SCRAPED: Final = frozenset(
    {"cluster", "namespace", "pod", "instance", "job", "container", "node", "service", "endpoint"}
)
"""Labels that the scrape adds."""
RATES: Final = frozenset({"rate", "irate", "increase", "resets"})
"""Functions that are for counters alone."""
SLOPES: Final = frozenset({"delta", "idelta", "deriv", "predict_linear"})
"""Functions that are for gauges alone."""
KEEPS: Final = frozenset({"topk", "bottomk", "limitk", "limit_ratio"})
"""Aggregations that give whole series."""
FOLDS: Final = frozenset({"sum", "avg", "max", "min", "quantile", "stddev", "stdvar"})
SUBJECT: Final = ("namespace", "model_name")
"""Labels by which alerts are grouped, routed and silenced: one that is about a model must keep them."""
_MARK: Final = re.compile(r"\$labels\.([a-zA-Z_]\w*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """What is known of an expression's series."""

    labels: frozenset[str] = frozenset()
    """Labels that they may carry."""
    kind: Kind | None = None
    """Of plain series; None once something was computed from them."""
    name: str = ""
    about: frozenset[str] = frozenset()
    """Labels of the exported series that it is made of, without those of the scrape."""
    scalar: bool = False
    whole: bool = False
    """No aggregation chose the labels: what the scrape adds is only guessed."""


@dataclass(slots=True)
class Judge:
    """Walks expressions; ``recorded`` are the rules that make series, by name."""

    recorded: Mapping[str, Sequence[Mapping[str, Any]]]
    problems: list[str] = field(default_factory=list)
    _flows: dict[str, Flow] = field(default_factory=dict)

    def flow(self, node: Any) -> Flow:
        """What comes out of an expression; notes what is wrong in it."""
        if isinstance(node, p.VectorSelector | p.MatrixSelector):
            return self._selected(node if isinstance(node, p.VectorSelector) else node.vector_selector)
        if isinstance(node, p.Call):
            return self._called(node)
        if isinstance(node, p.AggregateExpr):
            return self._aggregated(node)
        if isinstance(node, p.BinaryExpr):
            return self._joined(node)
        if isinstance(node, p.ParenExpr | p.UnaryExpr | p.SubqueryExpr):
            return self.flow(node.expr)
        return Flow(scalar=True)

    def _selected(self, node: p.VectorSelector) -> Flow:
        matchers = [m for m in node.matchers.matchers if m.name != "__name__"]
        name = node.name or next((m.value for m in node.matchers.matchers if m.name == "__name__"), "")
        known = self._series(name)
        if known is None:
            return Flow(labels=SCRAPED | {m.name for m in matchers}, whole=True)  # another check names unknown series
        for matcher in matchers:
            if matcher.name not in known.labels and matcher.value:
                self.problems.append(f"{name} carries no label {matcher.name}")
        return known

    def _series(self, name: str) -> Flow | None:
        if name in self._flows:
            return self._flows[name]
        if name in self.recorded:
            found: Flow | None = self._made(name)
        elif (signal := BY_ANY_NAME.get(base_name(name))) is not None:
            own = {*signal.labels, *(("le",) if name.endswith("_bucket") else ())}
            kind = Kind.COUNTER if base_name(name) != name else signal.kind
            found = Flow(labels=SCRAPED | own, kind=kind, name=name, about=frozenset(own), whole=True)
        else:
            found = None
        if found is not None:
            self._flows[name] = found
        return found

    def _made(self, name: str) -> Flow:
        self._flows[name] = Flow(labels=SCRAPED, whole=True)  # a rule that reads itself
        quiet = Judge(self.recorded, _flows=self._flows)
        parts = [quiet.flow(p.parse(rule["expr"])) for rule in self.recorded[name]]
        own = frozenset(label for rule in self.recorded[name] for label in rule.get("labels") or {})
        return Flow(
            labels=own.union(*(part.labels for part in parts)), name=name,
            about=own.union(*(part.about for part in parts)), whole=all(part.whole for part in parts),
        )  # fmt: skip

    def _called(self, node: p.Call) -> Flow:
        function, parts = node.func.name, [self.flow(argument) for argument in node.args]
        inner = next((part for part in parts if not part.scalar), Flow(scalar=True))
        if function in RATES and inner.kind is Kind.GAUGE:
            self.problems.append(f"{function}() of the gauge {inner.name} means nothing")
        if function in SLOPES and inner.kind is Kind.COUNTER:
            self.problems.append(f"{function}() of the counter {inner.name} breaks at resets")
        if function == "absent":
            return Flow(about=frozenset())
        if function in {"time", "vector", "scalar"}:
            return Flow(scalar=True)
        if function == "histogram_quantile":
            if "le" not in inner.labels:
                self.problems.append("histogram_quantile() needs the label le, which was aggregated away")
            return Flow(labels=inner.labels - {"le"}, about=inner.about - {"le"}, whole=inner.whole)
        kept = inner.kind if function.endswith("_over_time") and function != "count_over_time" else None
        kept = None if kept is Kind.COUNTER and function in {"sum_over_time", "avg_over_time"} else kept
        return Flow(labels=inner.labels, about=inner.about, whole=inner.whole, kind=kept, name=inner.name)

    def _aggregated(self, node: p.AggregateExpr) -> Flow:
        inner, op = self.flow(node.expr), str(node.op)
        if op in FOLDS and inner.kind is Kind.COUNTER:
            self.problems.append(f"{op}() of the counter {inner.name} without rate() breaks at resets")
        if op in KEEPS:
            return inner
        chosen = frozenset(node.modifier.labels) if node.modifier is not None else frozenset[str]()
        if node.modifier is not None and node.modifier.type == p.AggModifierType.Without:
            return Flow(labels=inner.labels - chosen, about=inner.about, whole=inner.whole)
        for label in sorted(chosen - inner.labels):
            self.problems.append(f"{op} by ({label}): no series in it carries that label")
        return Flow(labels=inner.labels & chosen, about=inner.about)

    def _joined(self, node: p.BinaryExpr) -> Flow:
        left, right, op = self.flow(node.lhs), self.flow(node.rhs), str(node.op)
        if left.scalar or right.scalar:
            one = right if left.scalar else left
            return Flow(labels=one.labels, about=one.about, whole=one.whole, scalar=one.scalar)
        matching = node.modifier.matching if node.modifier is not None else None
        on = matching is not None and matching.type == p.LabelModifierType.Include
        chosen = frozenset(matching.labels) if matching is not None else frozenset[str]()
        self._must_match(op, left, right, chosen, on=on)
        if op == "or":
            return Flow(labels=left.labels | right.labels, about=left.about | right.about,
                        whole=left.whole and right.whole,
                        kind=left.kind if left.kind == right.kind else None, name=left.name)  # fmt: skip
        if op in {"and", "unless"}:
            return left
        if (side := _many(node, left, right)) is not None:
            added = frozenset(node.modifier.group_labels or ()) if node.modifier is not None else frozenset[str]()
            return Flow(labels=side.labels | added, about=side.about, whole=side.whole)
        labels = left.labels & chosen if on else left.labels - chosen
        return Flow(labels=labels, about=left.about, whole=left.whole and not on)

    def _must_match(self, op: str, left: Flow, right: Flow, chosen: frozenset[str], *, on: bool) -> None:
        if on:
            for label in sorted(chosen):
                if label not in left.labels or label not in right.labels:
                    side = "left" if label not in left.labels else "right"
                    self.problems.append(f"{op} on ({label}): the {side} side carries no such label")
            return
        apart = (left.labels ^ right.labels) - chosen
        apart -= SCRAPED if left.whole or right.whole else frozenset()
        if op != "or" and apart:
            self.problems.append(f"{op} can never match: only one side carries {', '.join(sorted(apart))}")


def _many(node: p.BinaryExpr, left: Flow, right: Flow) -> Flow | None:
    """The side that ``group_left`` or ``group_right`` names; None without them."""
    card = node.modifier.card if node.modifier is not None else None
    if card == p.VectorMatchCardinality.ManyToOne:
        return left
    return right if card == p.VectorMatchCardinality.OneToMany else None


def problems(rules: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """(rule's name, what is wrong with it) for each mistake in rules as Prometheus reads them.

    Expressions that cannot be parsed are left to promtool.

    >>> list(problems([{"alert": "A", "expr": "rate(vllm:num_requests_waiting[5m]) > 0"}]))
    [('A', 'rate() of the gauge vllm:num_requests_waiting means nothing')]
    """
    recorded: dict[str, list[Mapping[str, Any]]] = {}
    for rule in rules:
        if "record" in rule and _tree(rule) is not None:
            recorded.setdefault(str(rule["record"]), []).append(rule)
    for rule in rules:
        name, tree = str(rule.get("alert") or rule.get("record")), _tree(rule)
        if tree is None:
            continue
        judge = Judge(recorded)
        flow = judge.flow(tree)
        found = [*judge.problems, *(_of_alert(rule, flow) if "alert" in rule else ())]
        yield from ((name, problem) for problem in dict.fromkeys(found))


def _tree(rule: Mapping[str, Any]) -> Any:
    try:
        return p.parse(str(rule.get("expr", "")))
    except ValueError:
        return None


def _of_alert(rule: Mapping[str, Any], flow: Flow) -> Iterator[str]:
    carried = flow.labels | frozenset(rule.get("labels") or {}) | {"alertname"}
    for label in SUBJECT:
        if "model_name" in flow.about and label not in carried:
            yield f"is about a model and drops the label {label}, by which alerts are grouped and silenced"
    sentences = rule.get("annotations") or {}
    for label in _MARK.findall(f"{sentences.get('summary')} {sentences.get('description')}"):
        if label not in carried:
            yield f"its text names the label {label}, which it does not carry"
