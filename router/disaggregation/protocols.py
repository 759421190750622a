"""What both engines are told, protocol by protocol. Pure: bodies in, bodies out.

A client's own ``kv_transfer_params`` or ``bootstrap_*`` never reach an engine: they name memory of other requests.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

_Fields = dict[str, msgspec.Raw]
_decode = msgspec.json.Decoder(_Fields).decode
_PRIVATE: Final = ("kv_transfer_params", "bootstrap_host", "bootstrap_port", "bootstrap_room", "cache_hit_threshold")
_DETAILS: Final = re.compile(rb'"prompt_tokens_details"\s*:\s*(?:null|\{[^{}]*\})')
BOOTSTRAP_PORT: Final = 8998
PREFILLER_HEADER: Final = "x-prefiller-host-port"


class Protocol(enum.StrEnum):
    """How KV gets from one engine to the other."""

    NIXL = "nixl"
    """vLLM's NixlConnector: prefill answers with parameters that decode repeats."""
    SHARED = "shared-storage"
    """A store that both see (LMCache): prefill fills it, decode finds it."""
    SGLANG = "sglang"
    """Both get the same request and meet in a bootstrap room."""
    SIDECAR = "sidecar"
    """The decode pod's sidecar drives the prefill engine; it is told which by a header."""

    @property
    def at_once(self) -> bool:
        """Both legs run at the same time."""
        return self is Protocol.SGLANG


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


def prefill_body(protocol: Protocol, body: bytes, *, prefill_url: str, room: int) -> bytes:
    """What the prefill engine gets: one token and no stream, or for SGLang the whole request."""
    fields = _decode(body)
    if protocol is Protocol.SGLANG:
        return msgspec.json.encode(_with_room(fields, prefill_url, room))
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
    return msgspec.json.encode(fields)


def decode_body(
    protocol: Protocol, body: bytes, *, answer: Mapping[str, Any] | None, prefill_url: str, room: int
) -> bytes | None:
    """What the decode engine gets; ``None``: the prefill's answer does not let it go on from there.

    Args:
        protocol: how KV moves.
        body: the client's, :func:`clean`.
        answer: the prefill engine's, where it comes first.
        prefill_url: that engine.
        room: a number that both legs share.
    """
    if protocol is Protocol.SGLANG:
        return msgspec.json.encode(_with_room(_decode(body), prefill_url, room))
    if protocol is not Protocol.NIXL:
        return body
    params = (answer or {}).get("kv_transfer_params")
    if not isinstance(params, dict) or not params.get("do_remote_prefill"):
        return None
    fields = _decode(body)
    fields["kv_transfer_params"] = _raw(params)
    return msgspec.json.encode(fields)


def _with_room(fields: _Fields, prefill_url: str, room: int) -> _Fields:
    fields["bootstrap_host"] = _raw(urlsplit(prefill_url).hostname)
    fields["bootstrap_port"] = _raw(BOOTSTRAP_PORT)
    fields["bootstrap_room"] = _raw(room & (1 << 63) - 1)
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
