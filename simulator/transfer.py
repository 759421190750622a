"""Disaggregated prefill: vLLM's transfer parameters, what they promise, and the leases that keep it. Pure.

NIXL (version 2): the prefill leg asks with ``do_remote_decode``; its answer names the blocks that the engine keeps for
a while. The decode leg repeats that with ``do_remote_prefill``, and its engine fetches the blocks.

Mooncake: both legs run at once and meet by a ``transfer_id`` that the router made up; the decode leg names the prefill
engine's bootstrap server and engine id.

Here everything is checked that a real connector trusts: a wrong engine, wrong blocks, or blocks that are no longer kept
fail the request.
"""

from __future__ import annotations

import enum
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from simulator.api_types import ApiError

BOOTSTRAP_PORT = 8998
"""Of Mooncake's bootstrap server (``VLLM_MOONCAKE_BOOTSTRAP_PORT``)."""
LEASE_S = 30.0
"""How long a prefill engine keeps blocks for a decode engine (NIXL's ``kv_lease_duration``)."""


class Role(enum.StrEnum):
    """Which legs an engine with a KV connector takes; requests without ``kv_transfer_params`` are served by all."""

    PREFILL = "prefill"
    DECODE = "decode"
    BOTH = "both"


class ConnectorKind(enum.StrEnum):
    """How KV gets from engine to engine."""

    NIXL = "nixl"
    MOONCAKE = "mooncake"


class Leg(enum.StrEnum):
    """Which half of a request."""

    PREFILL = "prefill"
    DECODE = "decode"


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """One leg's parameters."""

    leg: Leg
    engine_id: str = ""
    request_id: str = ""
    host: str = ""
    port: int = 0
    blocks: tuple[int, ...] = ()
    """Of the remote engine; empty on the prefill leg, and where engines meet by ``request_id`` (Mooncake)."""
    bootstrap: str = ""
    """Mooncake: base URL of the server that knows the remote engine's address."""


def parse_transfer(given: dict[str, Any] | None, kind: ConnectorKind = ConnectorKind.NIXL) -> Transfer | None:
    """The leg that ``kv_transfer_params`` describe to a connector of ``kind``; ``None`` when they ask for nothing.

    Raises: ApiError 400 when they are incomplete or contradict themselves.
    """
    if not given:
        return None
    decode_elsewhere, prefilled_elsewhere = given.get("do_remote_decode"), given.get("do_remote_prefill")
    if decode_elsewhere and prefilled_elsewhere:
        raise _refused("do_remote_decode and do_remote_prefill cannot both be true")
    if not (decode_elsewhere or prefilled_elsewhere):
        return None
    if kind is ConnectorKind.MOONCAKE:
        return _meeting(given, Leg.PREFILL if decode_elsewhere else Leg.DECODE)
    return Transfer(leg=Leg.PREFILL) if decode_elsewhere else _decode_leg(given)


def _meeting(given: dict[str, Any], leg: Leg) -> Transfer:
    """A leg of two that run at once."""
    wanted = ["transfer_id", *(["remote_engine_id", "remote_bootstrap_addr"] if leg is Leg.DECODE else [])]
    bad = [name for name in wanted if not isinstance(given.get(name), str) or not given[name]]
    if bad:
        raise _refused(f"a Mooncake {leg.value} leg needs {', '.join(bad)}")
    bootstrap = given["remote_bootstrap_addr"] if leg is Leg.DECODE else ""
    if bootstrap and not bootstrap.startswith("http://"):
        raise _refused("remote_bootstrap_addr is no http:// address")
    engine_id = given["remote_engine_id"] if leg is Leg.DECODE else ""
    return Transfer(leg=leg, engine_id=engine_id, request_id=given["transfer_id"], bootstrap=bootstrap)


def _decode_leg(given: dict[str, Any]) -> Transfer:
    wanted = {"remote_engine_id": str, "remote_request_id": str, "remote_host": str, "remote_port": int,
              "remote_block_ids": list}  # fmt: skip
    bad = [name for name, kind in wanted.items() if not isinstance(given.get(name), kind) or not given[name]]
    if bad:
        raise _refused(f"do_remote_prefill needs {', '.join(bad)} as the prefill engine gave them")
    ids = given["remote_block_ids"]
    flat = list(itertools.chain.from_iterable(ids)) if all(isinstance(group, list) for group in ids) else ids
    if not flat or not all(isinstance(number, int) for number in flat):
        raise _refused("remote_block_ids are no lists of block numbers")
    return Transfer(leg=Leg.DECODE, engine_id=given["remote_engine_id"], request_id=given["remote_request_id"],
                    host=given["remote_host"], port=given["remote_port"], blocks=tuple(flat))  # fmt: skip


def _refused(message: str) -> ApiError:
    return ApiError(400, f"Invalid kv_transfer_params: {message}.", param="kv_transfer_params")


def check_role(transfer: Transfer | None, role: Role | None) -> None:
    """Refuse a leg that an engine of ``role`` does not take.

    Raises: ApiError 400.
    """
    if transfer is not None and role is not Role.BOTH and transfer.leg.value != role:
        raise _refused(f"a {transfer.leg.value} leg was sent to a {role} engine")


def check_rank(transfer: Transfer | None, kind: ConnectorKind, rank: str) -> None:
    """Refuse a Mooncake prefill leg that does not say which data-parallel rank computes it.

    A real engine picks a rank then, and the decode leg, which names one, waits in vain.

    Raises: ApiError 400.
    """
    if transfer is not None and transfer.leg is Leg.PREFILL and kind is ConnectorKind.MOONCAKE and not rank:
        raise _refused("a Mooncake prefill leg needs the header X-data-parallel-rank")


@dataclass(slots=True, kw_only=True)
class Lease:
    """Blocks that are kept for another engine."""

    request_id: str
    blocks: tuple[int, ...]
    """Made-up numbers: the engine counts blocks and does not number them."""
    tokens: int
    """Tokens whose KV they hold."""
    until_s: float
    """On the engine's clock."""


class Leases:
    """All of one engine's; :meth:`expired` and :meth:`claim` take times, nothing here has a clock."""

    def __init__(self, engine_id: str, *, capacity: int, lease_s: float) -> None:
        """None yet; block numbers are below ``capacity``."""
        self.engine_id, self.lease_s = engine_id, lease_s
        self._capacity = max(2, capacity)
        self._next = 1  # vLLM's block 0 is the null block
        self._open: dict[str, Lease] = {}

    def __len__(self) -> int:
        """Leases that are open."""
        return len(self._open)

    def add(self, request_id: str, *, blocks: int, tokens: int, now_s: float) -> Lease:
        """Keep ``blocks`` blocks from now on."""
        numbers = tuple((self._next + index - 1) % (self._capacity - 1) + 1 for index in range(blocks))
        self._next += blocks
        lease = Lease(request_id=request_id, blocks=numbers, tokens=tokens, until_s=now_s + self.lease_s)
        self._open[request_id] = lease
        return lease

    def claim(self, engine_id: str, request_id: str, blocks: Sequence[int] | None, *, now_s: float) -> Lease | None:
        """The lease that a decode engine may read now; ``None`` unless all it says is right and in time.

        ``blocks`` is ``None`` where the protocol does not name them.
        """
        lease = self._open.get(request_id)
        if lease is None or engine_id != self.engine_id or lease.until_s < now_s:
            return None
        if blocks is not None and tuple(blocks) != lease.blocks:
            return None
        lease.until_s = now_s + self.lease_s
        return lease

    def get(self, request_id: str) -> Lease | None:
        """The lease of that name, in time or not."""
        return self._open.get(request_id)

    def close(self, request_id: str) -> Lease | None:
        """The blocks were read, or nobody wants them any more."""
        return self._open.pop(request_id, None)

    def expired(self, now_s: float) -> list[Lease]:
        """Take those out that ran out by ``now_s``."""
        gone = [lease for lease in self._open.values() if lease.until_s < now_s]
        for lease in gone:
            del self._open[lease.request_id]
        return gone

    def next_expiry_s(self) -> float | None:
        """When the first one runs out."""
        return min((lease.until_s for lease in self._open.values()), default=None)


def answer_params(lease: Lease, *, engine_id: str, host: str, port: int, tensor_parallel: int) -> dict[str, Any]:
    """``kv_transfer_params`` of a prefill leg's answer, with vLLM 0.32's keys."""
    return {
        "do_remote_prefill": True, "do_remote_decode": False, "remote_block_ids": [list(lease.blocks)],
        "remote_engine_id": engine_id, "remote_request_id": lease.request_id, "remote_host": host,
        "remote_port": port, "tp_size": tensor_parallel, "dcp_size": 1, "pp_size": 1,
        "remote_num_tokens": lease.tokens, "remote_blocks_expiry_time": None, "transfer_mode": "pull",
    }  # fmt: skip
