"""Names that clients use for models: aliases, and splits of one name over several models by weight. Pure.

models:
  - name: gpt-4o                                  # as clients say
    targets: [{model: qwen-72b, weight: 9}, {model: llama-70b, weight: 1}]
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import msgspec

from router.located import Located, locate
from router.pickers import Rng


@dataclass(frozen=True, slots=True)
class Split:
    """Where requests for one name go."""

    models: tuple[str, ...]
    sums: tuple[float, ...]
    """Of the weights up to each."""

    def draw(self, rng: Rng) -> str:
        """One of the models, each with its weight's share."""
        if len(self.models) == 1:
            return self.models[0]
        return self.models[min(bisect_right(self.sums, rng.random() * self.sums[-1]), len(self.models) - 1)]


def parse_aliases(text: str, where: str = "models.yaml") -> Mapping[str, Split]:
    """Splits by name from a YAML document.

    Raises: ConfigError with the line and the nearest right word.
    """
    entries = locate(text, where=where).only("the document", ("models",))
    found: dict[str, Split] = {}
    for at in entries["models"].sequence("models") if "models" in entries else ():
        fields = at.only("a model", ("name", "targets"))
        if "name" not in fields or "targets" not in fields:
            raise at.refuse("a model needs a name and targets", next_step="Write both.")
        name = fields["name"].word("name")
        if name in found:
            raise at.refuse(f"{name!r} is given twice", next_step="Keep one.")
        found[name] = _split(fields["targets"])
    return found


def _split(at: Located) -> Split:
    models, weights = [], []
    for entry in at.sequence("targets"):
        fields = entry.only("a target", ("model", "weight"))
        if "model" not in fields:
            raise entry.refuse("a target has no model", next_step="Add model: NAME.")
        models.append(fields["model"].word("model"))
        weight = fields["weight"].value if "weight" in fields else 1
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < 1e9:
            raise entry.refuse("a weight must be a number above 0", next_step="Leave the target out for none.")
        weights.append(float(weight))
    if not models:
        raise at.refuse("a model needs a target", next_step="Name one.")
    return Split(tuple(models), tuple(accumulate(weights)))


def renamed(body: bytes, model: str) -> bytes:
    """The body with another model.

    >>> renamed(b'{"model": "a", "n": 1}', "b")
    b'{"model":"b","n":1}'
    """
    fields: dict[str, Any] = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    fields["model"] = model
    return msgspec.json.encode(fields)
