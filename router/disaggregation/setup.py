"""Prefill and decode on different engines, from the router's settings."""

from __future__ import annotations

from fleet.errors import ConfigError
from router.disaggregation.choose import Splitter, Transfer
from router.disaggregation.deciders import decider
from router.disaggregation.protocols import Protocol
from router.settings import RouterSettings


def splitter(settings: RouterSettings) -> Splitter | None:
    """What splits requests; ``None``: nothing does.

    Raises: ConfigError.
    """
    if not settings.disaggregation:
        return None
    transfer = Transfer(bytes_per_token=settings.kv_bytes_per_token, bytes_per_s=settings.kv_link_gbps * 1e9 / 8)
    return Splitter(decide=decider(settings.pd_decider), transfer=transfer)


def protocol(settings: RouterSettings) -> Protocol:
    """How KV moves.

    Raises: ConfigError.
    """
    words = [one.value for one in Protocol]
    if settings.disaggregation and settings.disaggregation not in words:
        raise ConfigError(f"{settings.disaggregation!r} is no way for KV to move", where="--disaggregation",
                          limit=", ".join(words), next_step="Name one of them.")  # fmt: skip
    return Protocol(settings.disaggregation) if settings.disaggregation else Protocol.NIXL
