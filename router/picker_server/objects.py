"""InferenceObjective and InferenceModelRewrite, read from their manifests. Pure.

``InferenceObjective`` (``llm-d.ai/v1alpha2``) gives a priority to a name that requests carry;
``InferenceModelRewrite`` leads the model names of clients to those that engines serve, by weight. The older group
``inference.networking.x-k8s.io`` is read alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from fleet.errors import ConfigError
from router.picker_server.rewrite import Rule, Target

OBJECTIVE: Final = "InferenceObjective"
REWRITE: Final = "InferenceModelRewrite"
GROUPS: Final = ("llm-d.ai", "inference.networking.x-k8s.io", "inference.networking.k8s.io")


@dataclass(frozen=True, slots=True)
class Objects:
    """What the manifests say."""

    rules: tuple[Rule, ...] = ()
    priorities: Mapping[str, int] | None = None


def parse(documents: Iterable[Any], *, pool: str = "", where: str = "objects") -> Objects:
    """Manifests as mappings; those of other kinds, or of another pool than ``pool`` (empty: any), are passed over.

    Raises: ConfigError for one of these kinds that cannot be read.
    """
    rules: list[Rule] = []
    priorities: dict[str, int] = {}
    for document in documents:
        if not isinstance(document, Mapping) or str(document.get("apiVersion", "")).split("/")[0] not in GROUPS:
            continue
        name, spec = _named(document), document.get("spec") or {}
        if not isinstance(spec, Mapping):
            raise _bad(where, name, "spec must be a mapping")
        if pool and str((spec.get("poolRef") or {}).get("name", pool)) != pool:
            continue
        if document.get("kind") == OBJECTIVE:
            priorities[name] = _priority(spec, where, name)
        elif document.get("kind") == REWRITE:
            rules += [_rule(one, where, name) for one in spec.get("rules") or ()]
    return Objects(tuple(rules), priorities)


def _named(document: Mapping[str, Any]) -> str:
    return str((document.get("metadata") or {}).get("name", ""))


def _priority(spec: Mapping[str, Any], where: str, name: str) -> int:
    found = spec.get("priority", 0)
    if not isinstance(found, int) or isinstance(found, bool):
        raise _bad(where, name, f"priority must be a whole number, not {found!r}")
    return found


def _rule(given: Any, where: str, name: str) -> Rule:
    if not isinstance(given, Mapping) or not given.get("targets"):
        raise _bad(where, name, "a rule needs targets")
    matches = []
    for match in given.get("matches") or ():
        model = match.get("model") if isinstance(match, Mapping) else None
        if not isinstance(model, Mapping) or str(model.get("type", "Exact")) != "Exact" or not model.get("value"):
            raise _bad(where, name, "a match needs model: {type: Exact, value: NAME}")
        matches.append(str(model["value"]))
    targets = []
    for target in given["targets"]:
        weight = target.get("weight", 1) if isinstance(target, Mapping) else None
        model = target.get("modelRewrite") if isinstance(target, Mapping) else None
        if not isinstance(weight, int) or weight < 0 or not isinstance(model, str) or not model:
            raise _bad(where, name, "a target needs modelRewrite: NAME, and a weight of 0 or more")
        targets.append(Target(model=model, weight=weight))
    return Rule(matches=frozenset(matches), targets=tuple(targets))


def _bad(where: str, name: str, what: str) -> ConfigError:
    return ConfigError(f"{name}: {what}", where=where, next_step="Correct that manifest.")
