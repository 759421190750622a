"""Which headers cross the router. Pure.

Names are lower case here; underscores count as dashes, because some servers behind us read them so.
"""

from __future__ import annotations

from collections.abc import Iterable

HOP_BY_HOP = frozenset({
    b"connection", b"keep-alive", b"proxy-connection", b"proxy-authenticate", b"proxy-authorization", b"te", b"trailer",
    b"transfer-encoding", b"upgrade",
})  # fmt: skip
"""Headers of one connection, never forwarded (RFC 9110, 7.6.1)."""

_OURS = frozenset({b"content-length", b"host", b"expect", b"x-request-id", b"accept-encoding"})
"""Written anew (or left out: an answer that is not compressed can be observed)."""

_CHOOSES_ENDPOINT = frozenset({
    b"x-prefiller-host-port", b"x-data-parallel-host-port", b"x-kv-cache-source-host-port", b"x-encoder-hosts-ports",
    b"x-gateway-model-name", b"x-gateway-base-model-name", b"x-llm-d-model-name-rewrite",
    b"x-gateway-model-name-rewrite",
})  # fmt: skip
_PREFIXES = (b"x-gateway-destination-endpoint", b"x-fleet-")
"""Headers by which engines or gateways choose an endpoint, or that only the router itself sets."""

_NEVER_TO_ENGINE = HOP_BY_HOP | _OURS | _CHOOSES_ENDPOINT
_NEVER_TO_CLIENT = HOP_BY_HOP | {b"content-length", b"x-request-id"}


def to_engine(name: bytes) -> bool:
    """May a client's header reach an engine?"""
    if b"_" in name:
        name = name.replace(b"_", b"-")
    return name not in _NEVER_TO_ENGINE and not name.startswith(_PREFIXES)


def to_client(name: bytes) -> bool:
    """May an engine's header reach the client?"""
    return name not in _NEVER_TO_CLIENT and not name.startswith(_PREFIXES)


def tokens(value: bytes) -> list[bytes]:
    """The members of a comma-separated header, lower case."""
    return [part.strip().lower() for part in value.split(b",") if part.strip()]


def without(lines: Iterable[bytes], names: Iterable[bytes]) -> list[bytes]:
    """Header lines but those that ``Connection`` names as belonging to one hop."""
    banned = {name.replace(b"_", b"-") for name in names}
    return [line for line in lines if line.split(b":", 1)[0].lower().replace(b"_", b"-") not in banned]
