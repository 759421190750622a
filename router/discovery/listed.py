"""Engines from a file's text. Pure: reading the file is :mod:`router.discovery.file`.

endpoints:
  - http://gpu1:8000                       # a URL alone
  - url: http://gpu2:8000
    model: meta-llama/Llama-3.1-8B         # until its /v1/models was read
    variant: l4                            # a way of serving; "file" where none is named
    role: decode                           # prefill, decode or both
    state: stopping                        # no new requests, those in flight finish; "ready" otherwise
    labels: {topology.kubernetes.io/zone: a}
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeVar
from urllib.parse import urlsplit

from fleet.types import Replica, ReplicaState, Role, Variant, VariantSpec
from router.located import Located, locate, nearest, shown

Word = TypeVar("Word", Role, ReplicaState)

VARIANT: Final = "file"
_KEYS: Final = ("url", "model", "variant", "role", "state", "labels")


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """One engine, by whatever source."""

    url: str
    name: str = ""
    """Of its pod or process; empty: its URL. Another name at a known URL is another engine."""
    variant: str = VARIANT
    model: str = ""
    role: Role = Role.BOTH
    state: ReplicaState = ReplicaState.READY
    since_s: float = 0.0
    """When it started: a change means that its cache is empty."""
    labels: Mapping[str, str] = field(default_factory=dict)


def grouped(found: Iterable[Found]) -> tuple[Variant, ...]:
    """Variants from engines: those that agree in name, model and role."""
    groups: dict[tuple[str, str, Role], list[Replica]] = {}
    for one in found:
        replica = Replica(name=one.name or one.url, url=one.url, variant=one.variant, state=one.state,
                          since_s=one.since_s, labels=one.labels)  # fmt: skip
        groups.setdefault((one.variant, one.model, one.role), []).append(replica)
    return tuple(
        Variant(
            spec=VariantSpec(name=name, model=model, accelerator="unresolved", role=role, min_replicas=0,
                             max_replicas=max(10, len(replicas))),
            requested=len(replicas), replicas=tuple(replicas),
        )
        for (name, model, role), replicas in groups.items()
    )  # fmt: skip


def parse_endpoints(text: str, where: str = "endpoints.yaml") -> tuple[Variant, ...]:
    """Variants from a YAML (or JSON) document; an empty list is no engine at all.

    Args:
        text: the document: ``endpoints:`` and a list, or the list alone.
        where: the file's name, for error lines.
    Raises: ConfigError with file, line and the nearest right word.

    >>> [variant.replicas[0].url for variant in parse_endpoints("[http://gpu1:8000/]")]
    ['http://gpu1:8000']
    """
    document = locate(text, where=where)
    entries = document
    if isinstance(document.value, dict):
        entries = document.only("the document", ("endpoints",)).get("endpoints", document)
    found: dict[str, Found] = {}
    for entry in entries.sequence("endpoints"):
        one = _found(entry)
        if one.url in found:
            raise entry.refuse(f"{one.url} is listed twice", next_step="Keep one.")
        found[one.url] = one
    return grouped(found.values())


def _found(entry: Located) -> Found:
    if isinstance(entry.value, str):
        return Found(url=_url(entry))
    parts = entry.only("an endpoint", _KEYS)
    if "url" not in parts:
        raise entry.refuse("an endpoint has no url", next_step="Write url: http://HOST:PORT.")
    return Found(
        url=_url(parts["url"]),
        variant=parts["variant"].word("variant") if "variant" in parts else VARIANT,
        model=parts["model"].word("model") if "model" in parts else "",
        role=_among(parts["role"], "role", Role) if "role" in parts else Role.BOTH,
        state=_among(parts["state"], "state", ReplicaState) if "state" in parts else ReplicaState.READY,
        labels=_labels(parts["labels"]) if "labels" in parts else {},
    )


def _url(entry: Located) -> str:
    url = entry.word("url").rstrip("/")
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise entry.refuse(f"{shown(entry.value)} is no engine URL", limit="http://HOST:PORT",
                           next_step="Correct that address.")  # fmt: skip
    return url


def _among(entry: Located, what: str, kind: type[Word]) -> Word:
    word = entry.word(what)
    if word not in [member.value for member in kind]:
        raise entry.refuse(f"unknown {what} {word!r}", next_step=nearest(word, [member.value for member in kind]))
    return kind(word)


def _labels(entry: Located) -> Mapping[str, str]:
    return {name: value.word(f"label {name}") for name, value in entry.mapping("labels").items()}
