"""Decision trees over evidence, and how to walk them. Pure.

A question compares one piece of evidence with a limit (or with another piece). Evidence that is not known answers
neither yes nor no: the walk goes on as for "no", and says so; where nothing at all is known it draws no conclusion.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from alerts.algebra import COMPARISONS
from alerts.text import number, percent, rate, seconds

Evidence = Mapping[str, float | None]
"""Values by the names in :data:`alerts.trees.EVIDENCE`; ``None`` or missing: not known."""


class Answer(enum.StrEnum):
    """What the evidence says."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """One kind of evidence."""

    name: str
    text: str
    unit: str
    """``s``, ``ratio``, or the word for what is counted."""

    def show(self, value: float | None) -> str:
        """The value with its unit."""
        if value is None:
            return "not known"
        if self.unit in {"s", "ratio"}:
            return seconds(value) if self.unit == "s" else percent(value)
        figure = number(value) if abs(value) >= 1000 else rate(value)
        return f"{figure} {self.unit}".rstrip()


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaf:
    """Where a walk ends."""

    cause: str
    advice: str
    command: str = ""
    """What to run, if there is a command for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One step: ``fact op limit`` (or ``fact op times * other``)."""

    text: str
    fact: str
    op: str
    yes: Leaf | Question
    no: Leaf | Question
    limit: float = 0.0
    other: str = ""
    """Compare with ``limit`` times this fact instead of with ``limit``."""

    def answer(self, evidence: Evidence) -> Answer:
        """Yes, no, or unknown."""
        value, limit = evidence.get(self.fact), self._limit(evidence)
        if value is None or limit is None:
            return Answer.UNKNOWN
        return Answer.YES if COMPARISONS[self.op](value, limit) else Answer.NO

    def _limit(self, evidence: Evidence) -> float | None:
        if not self.other:
            return self.limit
        other = evidence.get(self.other)
        return None if other is None else self.limit * other


Node = Leaf | Question

UNDECIDED: Final = Leaf(
    cause="cannot tell: nothing that this tree asks for is known",
    advice="look at a time with traffic (--at), or supply evidence (--set NAME=VALUE)",
)
"""Where a walk ends that found no evidence at all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """A question that people ask, and how to find its answer."""

    name: str
    title: str
    root: Node


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One question of a walk with what answered it."""

    question: str
    answer: Answer
    evidence: tuple[tuple[str, float | None], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """The path through a tree and where it ended."""

    tree: str
    title: str
    path: tuple[Step, ...]
    cause: str
    advice: str
    command: str = ""

    @property
    def unknown(self) -> tuple[str, ...]:
        """Evidence that was asked for and not known: a reason for doubt."""
        doubtful = [step for step in self.path if step.answer is Answer.UNKNOWN]
        return tuple(dict.fromkeys(name for step in doubtful for name, value in step.evidence if value is None))


def diagnose(tree: Tree, evidence: Evidence) -> Diagnosis:
    """Walk ``tree`` with ``evidence``.

    >>> leaf = Leaf(cause="the queue grew", advice="scale up")
    >>> tree = Tree(name="t", title="Slow?", root=Question(text="Did the queue grow?", fact="queue", op=">", limit=1.0,
    ...             yes=leaf, no=Leaf(cause="unclear", advice="look")))
    >>> diagnose(tree, {"queue": 5.0}).cause, diagnose(tree, {}).unknown
    ('the queue grew', ('queue',))
    """
    node: Node = tree.root
    path: list[Step] = []
    while isinstance(node, Question):
        answer = node.answer(evidence)
        names = (node.fact, node.other) if node.other else (node.fact,)
        path.append(Step(question=node.text, answer=answer, evidence=tuple((n, evidence.get(n)) for n in names)))
        node = node.yes if answer is Answer.YES else node.no
    if path and all(step.answer is Answer.UNKNOWN for step in path):
        node = UNDECIDED
    return Diagnosis(tree=tree.name, title=tree.title, path=tuple(path), cause=node.cause, advice=node.advice,
                     command=node.command)  # fmt: skip


def questions(node: Node) -> Iterator[Question]:
    """All questions below a node."""
    if isinstance(node, Question):
        yield node
        yield from questions(node.yes)
        yield from questions(node.no)


def outline(tree: Tree) -> str:
    """The tree as an indented list in Markdown."""
    return "\n".join(_lines(tree.root, ""))


def _leaf(leaf: Leaf) -> str:
    return f"**{leaf.cause}**: {leaf.advice}" + (f" (`{leaf.command}`)" if leaf.command else "")


def _lines(node: Node, indent: str) -> Iterator[str]:
    """A chain of "no" is one list; only what follows a "yes" is indented."""
    while isinstance(node, Question):
        if isinstance(node.yes, Leaf):
            yield f"{indent}- {node.text} Yes: {_leaf(node.yes)}."
        else:
            yield f"{indent}- {node.text} Yes:"
            yield from _lines(node.yes, indent + "  ")
        node = node.no
    yield f"{indent}- Else: {_leaf(node)}."
