"""A network link that transfers share fairly. Pure.

All transfers under way get the same rate. What each has received since the link was idle is then the same function of
time for all of them, so one number (*served*) and a heap of the values at which transfers end are enough.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkSpec:
    """What a link can do."""

    bytes_per_s: float
    """Of all transfers together."""
    flow_bytes_per_s: float = float("inf")
    """Of one transfer, by its endpoints' network cards."""
    latency_s: float = 0.0
    """Before the first byte of a transfer flows."""
    congestion: float = 0.0
    """Share by which transfers slow down beyond their fair share while there are several."""


LINKS: dict[str, LinkSpec] = {
    "uccl": LinkSpec(bytes_per_s=4e9 / 0.359, congestion=384 / 359 - 1),
    "ucx": LinkSpec(bytes_per_s=4e9 / 0.362, congestion=424 / 362 - 1),
}
"""NIXL's transports as measured for llm-d: 4 GB in 359 ms, 384 ms congested (UCCL); 362 ms and 424 ms (UCX)."""


class Link:
    """Transfers under way."""

    __slots__ = ("_at_s", "_ends", "_serial", "_served", "bytes", "spec")

    def __init__(self, spec: LinkSpec) -> None:
        """An idle link.

        Raises: ValueError for a rate that is not above 0.
        """
        if not min(spec.bytes_per_s, spec.flow_bytes_per_s) > 0.0:
            raise ValueError(f"rates are {spec.bytes_per_s} and {spec.flow_bytes_per_s} bytes/s; both must be above 0")
        self.spec = spec
        self.bytes = 0.0
        """Of all transfers ever begun."""
        self._ends: list[tuple[float, int, str]] = []
        self._served = 0.0
        self._at_s = 0.0
        self._serial = 0

    @property
    def active(self) -> int:
        """Transfers under way."""
        return len(self._ends)

    @property
    def rate(self) -> float:
        """Bytes per second of each transfer; what one more would see is less."""
        flows = len(self._ends)
        if not flows:
            return 0.0
        share = min(self.spec.flow_bytes_per_s, self.spec.bytes_per_s / flows)
        return share if flows == 1 else share / (1.0 + self.spec.congestion)

    def begin(self, name: str, size: float, now_s: float) -> None:
        """A transfer of ``size`` bytes that shares from ``now_s`` on (its latency is the caller's to add)."""
        self._serve(now_s)
        self._serial += 1
        self.bytes += size
        heapq.heappush(self._ends, (self._served + size, self._serial, name))

    def cancel(self, name: str, now_s: float) -> None:
        """A transfer that nobody wants any more, if it is under way."""
        self._serve(now_s)
        self._ends = [entry for entry in self._ends if entry[2] != name]
        heapq.heapify(self._ends)

    @property
    def due_s(self) -> float | None:
        """When the next transfer ends, if nothing changes before."""
        if not self._ends:
            return None
        return self._at_s + max(0.0, self._ends[0][0] - self._served) / self.rate

    def ended(self, now_s: float) -> list[str]:
        """Transfers that end at ``now_s``, which is :attr:`due_s`; at least one."""
        due, names = self._ends[0][0], []
        self._serve(now_s)
        self._served = max(self._served, due)
        while self._ends and self._ends[0][0] <= self._served:
            names.append(heapq.heappop(self._ends)[2])
        return names

    def _serve(self, now_s: float) -> None:
        if self._ends:
            self._served += (now_s - self._at_s) * self.rate
        else:
            self._served = 0.0
        self._at_s = now_s
