"""Model names that differ between clients and engines, and priorities by objective. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import msgspec


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where a name leads, with its share."""

    model: str
    weight: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule of an InferenceModelRewrite; no ``matches``: every model."""

    targets: tuple[Target, ...]
    matches: frozenset[str] = frozenset()


@dataclass(slots=True, kw_only=True)
class Names:
    """Rewrites and objectives as they are now."""

    rules: Sequence[Rule] = ()
    """The first that matches counts; those that name the model come before those that match all."""
    priorities: Mapping[str, int] = field(default_factory=dict)
    """InferenceObjective -> priority; negative ones may be shed."""
    decisions: dict[tuple[str, str], int] = field(default_factory=dict)
    """(name asked for, name sent) -> how often."""
    _turns: dict[int, int] = field(default_factory=dict)

    def target(self, model: str, asked: str | None, salt: int = 0) -> str:
        """The name that the engine gets; ``asked`` (a header) wins over the rules."""
        if asked:
            return asked
        if not self.rules:
            return model
        exact = [rule for rule in self.rules if model in rule.matches]
        rule = next(iter(exact or [rule for rule in self.rules if not rule.matches]), None)
        chosen = model if rule is None else self._share(rule)
        if chosen != model:
            self.decisions[model, chosen] = self.decisions.get((model, chosen), 0) + 1
        return chosen

    def _share(self, rule: Rule) -> str:
        """Targets in turn, each as often as its weight says, spread evenly."""
        turn = self._turns[id(rule)] = self._turns.get(id(rule), -1) + 1
        total = sum(max(0, one.weight) for one in rule.targets) or len(rule.targets)
        place = turn * 7919 % total if total % 7919 else turn % total
        for one in rule.targets:
            place -= max(0, one.weight) if any(each.weight for each in rule.targets) else 1
            if place < 0:
                return one.model
        return rule.targets[-1].model

    def priority(self, objective: str | None) -> int:
        """Priority of a request; 0 where none is set."""
        return self.priorities.get(objective, 0) if objective else 0

    @staticmethod
    def renamed(body: bytes, model: str, target: str) -> bytes:
        """The body with another model; everything else as it was, order included."""
        fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
        fields["model"] = msgspec.Raw(msgspec.json.encode(target))
        return msgspec.json.encode(fields)


class Rewriter:
    """Puts the client's model name back into an answer as it passes; holds back no more than half a name."""

    def __init__(self, engine: str, client: str) -> None:
        old, new = msgspec.json.encode(engine), msgspec.json.encode(client)
        self._pairs = [(b'"model":' + gap + old, b'"model":' + gap + new) for gap in (b"", b" ")]
        self._kept = b""

    def feed(self, data: bytes, *, end: bool) -> bytes:
        """What may go on now."""
        data = self._kept + data
        for old, new in self._pairs:
            data = data.replace(old, new)
        keep = 0 if end else max(_overlap(data, old) for old, _ in self._pairs)
        self._kept = data[len(data) - keep :]
        return data[: len(data) - keep]


def _overlap(data: bytes, wanted: bytes) -> int:
    """How many bytes at the end of ``data`` may be the beginning of ``wanted``.

    >>> _overlap(b'{"mod', b'"model"'), _overlap(b"x", b'"model"')
    (4, 0)
    """
    for size in range(min(len(wanted) - 1, len(data)), 0, -1):
        if data.endswith(wanted[:size]):
            return size
    return 0
