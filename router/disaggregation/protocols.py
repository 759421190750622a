"""What both engines are told, protocol by protocol. Pure: bodies in, bodies out.

A client's own ``kv_transfer_params`` or ``bootstrap_*`` never reach an engine: they name memory of other requests.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

_Fields = dict[str, msgspec.Raw]
_decode = msgspec.json.Decoder(_Fields).decode
_PRIVATE: Final = ("kv_transfer_params", "bootstrap_host", "bootstrap_port", "bootstrap_room", "cache_hit_threshold")
_DETAILS: Final = re.compile(rb'"prompt_tokens_details"\s*:\s*(?:null|\{[^{}]*\})')
PREFILLER_HEADER: Final = "x-prefiller-host-port"
RANK_HEADER: Final = b"x-data-parallel-rank"


class Protocol(enum.StrEnum):
    """How KV gets from one engine to the other."""

    NIXL = "nixl"
    """vLLM's NixlConnector: prefill answers with parameters that decode repeats."""
    SHARED = "shared-storage"
    """A store that both see (LMCache): prefill fills it, decode finds it."""
    SGLANG = "sglang"
    """Both get the same request and meet in a bootstrap room."""
    MOONCAKE = "mooncake"
    """vLLM's MooncakeConnector: both run at once and meet by a transfer id; decode is told the prefill engine's id."""
    SIDECAR = "sidecar"
    """The decode pod's sidecar drives the prefill engine; it is told which by a header."""

    @property
    def at_once(self) -> bool:
        """Both legs run at the same time."""
        return self in (Protocol.SGLANG, Protocol.MOONCAKE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Meeting:
    """What both legs of a request share where they run at once."""

    host: str
    """Of the prefill engine, without port."""
    port: int
    """Of its bootstrap server."""
    number: int
    """Made up for this request."""
    rank: str = "0"
    """Mooncake: the data-parallel rank that prefills, and"""
    engine_id: str = ""
    """its name."""

    @property
    def transfer_id(self) -> str:
        """Mooncake's name of the transfer."""
        return f"xfer-{self.number:016x}"

    @property
    def bootstrap(self) -> str:
        """The bootstrap server's address, an IPv6 host in brackets."""
        return f"http://[{self.host}]:{self.port}" if ":" in self.host else f"http://{self.host}:{self.port}"


def ranks(answer: Mapping[str, Any] | None) -> dict[str, str]:
    """Data-parallel rank -> engine id, from a Mooncake bootstrap server's ``GET /query``.

    >>> ranks({"0": {"engine_id": "a", "worker_addr": {}}, "1": {"engine_id": 7}, "x": None})
    {'0': 'a'}
    """
    entries = (answer or {}).items()
    return {rank: entry["engine_id"] for rank, entry in entries
            if rank.isdigit() and isinstance(entry, dict) and isinstance(entry.get("engine_id"), str)}  # fmt: skip


def _raw(value: Any) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))


def clean(body: bytes) -> bytes:
    """The client's request without what only routers may say; as it came where it says nothing of that."""
    fields = _decode(body)
    found = [name for name in _PRIVATE if name in fields]
    if not found:
        return body
    for name in found:
        del fields[name]
    return msgspec.json.encode(fields)


def with_threshold(body: bytes, share: float) -> bytes:
    """The request, to be answered only if ``share`` of its prompt is cached.

    >>> with_threshold(b'{"model":"m"}', 0.5)
    b'{"model":"m","cache_hit_threshold":0.5}'
    """
    fields = _decode(body)
    fields["cache_hit_threshold"] = _raw(share)
    return msgspec.json.encode(fields)


def prefill_body(protocol: Protocol, body: bytes, meeting: Meeting) -> bytes:
    """What the prefill engine gets: one token and no stream, or for SGLang the whole request."""
    fields = _decode(body)
    if protocol is Protocol.SGLANG:
        return msgspec.json.encode(_with_room(fields, meeting))
    fields["stream"] = _raw(False)
    fields.pop("stream_options", None)
    fields.pop("min_tokens", None)
    if "max_completion_tokens" in fields:
        fields["max_completion_tokens"] = _raw(1)
    fields["max_tokens"] = _raw(1)
    if protocol is Protocol.NIXL:
        fields["kv_transfer_params"] = _raw({
            "do_remote_decode": True, "do_remote_prefill": False, "remote_engine_id": None, "remote_block_ids": None,
            "remote_host": None, "remote_port": None,
        })  # fmt: skip
    if protocol is Protocol.MOONCAKE:
        fields["kv_transfer_params"] = _raw({"do_remote_decode": True, "do_remote_prefill": False,
                                             "transfer_id": meeting.transfer_id})  # fmt: skip
    return msgspec.json.encode(fields)


def decode_body(protocol: Protocol, body: bytes, meeting: Meeting, *, answer: Mapping[str, Any] | None) -> bytes | None:
    """What the decode engine gets; ``None``: the prefill's answer does not let it go on from there.

    Args:
        protocol: how KV moves.
        body: the client's, :func:`clean`.
        meeting: what the legs share.
        answer: the prefill engine's, where it comes first.
    """
    if protocol is Protocol.SGLANG:
        return msgspec.json.encode(_with_room(_decode(body), meeting))
    if protocol is Protocol.MOONCAKE:
        fields = _decode(body)
        fields["kv_transfer_params"] = _raw({
            "do_remote_decode": False, "do_remote_prefill": True, "transfer_id": meeting.transfer_id,
            "remote_bootstrap_addr": meeting.bootstrap, "remote_engine_id": meeting.engine_id,
        })  # fmt: skip
        return msgspec.json.encode(fields)
    if protocol is not Protocol.NIXL:
        return body
    params = (answer or {}).get("kv_transfer_params")
    if not isinstance(params, dict) or not params.get("do_remote_prefill"):
        return None
    fields = _decode(body)
    fields["kv_transfer_params"] = _raw(params)
    return msgspec.json.encode(fields)


def _with_room(fields: _Fields, meeting: Meeting) -> _Fields:
    fields["bootstrap_host"] = _raw(meeting.host)
    fields["bootstrap_port"] = _raw(meeting.port)
    fields["bootstrap_room"] = _raw(meeting.number)
    return fields


def with_cached(data: bytes, tokens: int) -> bytes:
    """A piece of the decode engine's answer, whose usage tells what the prefill engine had cached.

    >>> with_cached(b'{"usage":{"prompt_tokens":9,"prompt_tokens_details":null}}', 5)
    b'{"usage":{"prompt_tokens":9,"prompt_tokens_details":{"cached_tokens":5}}}'
    """
    if b'"usage"' not in data:
        return data
    return _DETAILS.sub(b'"prompt_tokens_details":{"cached_tokens":%d}' % tokens, data)


def cached_tokens(answer: Mapping[str, Any] | None) -> int | None:
    """Prompt tokens that the prefill engine had cached, as its usage says."""
    usage = (answer or {}).get("usage")
    details = usage.get("prompt_tokens_details") if isinstance(usage, dict) else None
    found = details.get("cached_tokens") if isinstance(details, dict) else None
    return found if isinstance(found, int) else None
