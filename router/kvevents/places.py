"""Whose events they are, and where they can be had: topics, sockets' addresses, settings. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from fleet.errors import ConfigError

_CONNECT = re.compile(r"connect:(\d{1,5})(?:,(\d{1,5}))?$")
_WILD = ("*", "0.0.0.0", "::", "[::]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How events come: what ``ROUTER_KV_EVENTS`` says."""

    bind: str = ""
    """An address to listen at, for engines that connect."""
    port: int = 0
    """Of each engine, to connect to; 0: what its ``/kv_event_sources`` says."""
    replay_port: int = 0
    """Of each engine, to play back from; 0: what its ``/kv_event_sources`` says, else none."""


def plan(text: str) -> Plan:
    """Read the setting.

    Raises: ConfigError.

    >>> plan("connect:5557,5558").replay_port, plan("tcp://*:5557").bind, plan("auto").port
    (5558, 'tcp://*:5557', 0)
    """
    if text == "auto":
        return Plan()
    if text.startswith(("tcp://", "ipc://")):
        return Plan(bind=text)
    if match := _CONNECT.match(text):
        return Plan(port=int(match[1]), replay_port=int(match[2] or 0))
    raise ConfigError(f"{text!r} says no source of KV events", where="--kv-events or ROUTER_KV_EVENTS",
                      limit="auto, tcp://*:PORT or connect:PORT[,REPLAY_PORT]", next_step="Correct it.")  # fmt: skip


def pod_of(topic: bytes) -> str:
    """The engine that a topic names, ``host:port`` as a rule: ``kv@10.0.0.1:8000@model``.

    >>> pod_of(b"kv@10.0.0.1:8000@some/model"), pod_of(b"engine-7"), pod_of(b"")
    ('10.0.0.1:8000', 'engine-7', '')
    """
    text = topic.decode("utf-8", "replace")
    parts = text.split("@")
    return parts[1] if len(parts) > 1 and parts[0] == "kv" else text


def ranked(pod: str, rank: int) -> str:
    """A data-parallel rank's name: each has a cache of its own."""
    return f"{pod}#{rank}" if rank else pod


def base(pod: str) -> str:
    """The engine that a rank belongs to.

    >>> base(ranked("a:1", 3)), base("a:1")
    ('a:1', 'a:1')
    """
    return pod.partition("#")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One rank's sockets as a reader reaches them; empty: there is none to connect to."""

    live: str = ""
    replay: str = ""


def sources(url: str, how: Plan, told: Mapping[str, Any] | None) -> dict[int, Source]:
    """Where the engine at ``url`` publishes, by rank.

    Args:
        url: of the engine.
        how: the setting.
        told: its ``/kv_event_sources``; ``None``: it has none.
    """
    host = urlsplit(url).hostname or ""
    if told:
        found = {}
        for rank, entry in told.items():
            if str(rank).isdigit() and isinstance(entry, Mapping):
                live, replay = str(entry.get("endpoint") or ""), str(entry.get("replay_endpoint") or "")
                found[int(rank)] = Source(live=_reach(live, host) if _bound(live) else "", replay=_reach(replay, host))
        return found
    if not how.port:
        return {}
    replay = f"tcp://{host}:{how.replay_port}" if how.replay_port else ""
    return {0: Source(live=f"tcp://{host}:{how.port}", replay=replay)}


def _bound(endpoint: str) -> bool:
    """vLLM binds wildcards and connects to everything else."""
    return any(mark in endpoint for mark in ("*", "::", "0.0.0.0", "ipc://"))


def _reach(endpoint: str, host: str) -> str:
    """A bound address as others reach it.

    >>> _reach("tcp://*:5557", "10.0.0.1"), _reach("tcp://0.0.0.0:7", "h"), _reach("", "h")
    ('tcp://10.0.0.1:5557', 'tcp://h:7', '')
    """
    head, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    return f"tcp://{host}:{port}" if endpoint.startswith("tcp://") and head in _WILD else endpoint
