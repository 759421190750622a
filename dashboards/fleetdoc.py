"""The controller's ``/fleet`` document as frames: replicas with their states, variants with their specs. Pure.

A console may be newer or older than the controller it asks: what is missing or of another shape is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, Final

import pandas as pd

from wva.analyzers import ANALYZERS
from wva.types import Policy

REPLICA_COLUMNS: Final = (
    "variant",
    "replica",
    "endpoint",
    "state",
    "since_s",
    "age_s",
    "running",
    "waiting",
    "kv",
    "kv_capacity_tokens",
    "preemptions",
)
SPEC_COLUMNS: Final = (
    "variant",
    "model",
    "accelerator",
    "accelerator_count",
    "cost_per_hour",
    "min_replicas",
    "max_replicas",
    "scale_down_threshold",
    "saturation_threshold",
    "startup_s",
    "requested",
)


def _variants(document: Any) -> list[Mapping[str, Any]]:
    snapshot = document.get("snapshot") if isinstance(document, Mapping) else None
    entries = snapshot.get("variants") if isinstance(snapshot, Mapping) else None
    return [entry for entry in entries if isinstance(entry, Mapping)] if isinstance(entries, Sequence) else []


def _part(entry: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = entry.get(name)
    return value if isinstance(value, Mapping) else {}


def replicas(document: Any) -> pd.DataFrame:
    """One row a replica: state, since when, age of its newest sample, load."""
    rows = []
    for variant in _variants(document):
        for seen in variant.get("replicas") or ():
            replica, sample = _part(seen, "replica"), _part(seen, "sample")
            rows.append(
                {
                    "variant": _part(variant, "spec").get("name"),
                    "replica": replica.get("name"),
                    "endpoint": replica.get("url"),
                    "state": replica.get("state"),
                    "since_s": replica.get("since_s"),
                    "age_s": seen.get("age_s"),
                    "running": sample.get("running"),
                    "waiting": sample.get("waiting"),
                    "kv": sample.get("kv_utilisation"),
                    "kv_capacity_tokens": sample.get("kv_capacity_tokens"),
                    "preemptions": sample.get("preemptions_total"),
                }
            )
    return pd.DataFrame(rows, columns=list(REPLICA_COLUMNS))


def specs(document: Any) -> pd.DataFrame:
    """One row a variant: accelerator, cost, bounds, thresholds, replicas asked for."""
    rows = []
    for variant in _variants(document):
        spec = _part(variant, "spec")
        own = {name: spec.get(name) for name in SPEC_COLUMNS}
        rows.append(own | {"variant": spec.get("name"), "requested": variant.get("requested")})
    return pd.DataFrame(rows, columns=list(SPEC_COLUMNS))


def policy(document: Any) -> Policy | None:
    """How the controller decides, as far as it says so; ``None``: it does not."""
    told = document.get("policy") if isinstance(document, Mapping) else None
    if not isinstance(told, Mapping):
        return None
    usual = Policy()
    same = {one.name: told[one.name] for one in fields(Policy)
            if one.name in told and _alike(told[one.name], getattr(usual, one.name))}  # fmt: skip
    found = replace(usual, **same)
    return found if found.analyzer in ANALYZERS else None


def _alike(value: object, usual: object) -> bool:
    """A value of another kind is from another version, and is left out."""
    if isinstance(usual, bool) or isinstance(value, bool):
        return isinstance(usual, bool) and isinstance(value, bool)
    return isinstance(value, (int, float) if isinstance(usual, float) else type(usual))


def problems(document: Any) -> list[str]:
    """What the controller's last pass could not do, one line each."""
    entries = document.get("problems") if isinstance(document, Mapping) else None
    if not isinstance(entries, Sequence) or isinstance(entries, str):
        return []
    return [str(entry.get("line", entry)) if isinstance(entry, Mapping) else str(entry) for entry in entries]
