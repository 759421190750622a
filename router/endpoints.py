"""Which engines there are, what is known of each, and which may be picked now.

Readiness comes from the platform; passive health from our own connections: an engine that cannot be reached is left
out for a while, and until a scrape that began later succeeds. When that would leave none, all that are ready are
candidates again: a guess is better than a refusal.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from fleet.errors import SourceError
from fleet.types import EngineSample, Replica, ReplicaState, Role, Variant

log = logging.getLogger(__name__)

_TRY_AGAIN_S = 30.0
"""An engine that was left out is tried again after this long even if no scrape succeeds: it may have no metrics."""


class Endpoint:
    """One engine as the router knows it."""

    __slots__ = (
        "distance_s",
        "ejected_until_s",
        "ejections",
        "failures",
        "labels",
        "last_error",
        "model_entries",
        "models",
        "name",
        "retry_at_s",
        "role",
        "sample",
        "sampled_s",
        "since_s",
        "state",
        "streak",
        "trips",
        "url",
        "variant",
    )  # fmt: skip

    def __init__(self, replica: Replica, *, role: Role = Role.BOTH, model: str = "") -> None:
        self.url, self.name, self.variant = replica.url, replica.name, replica.variant
        self.state, self.since_s, self.role = replica.state, replica.since_s, role
        self.labels: Mapping[str, str] = replica.labels
        self.distance_s: float | None = None
        """Least time that one of the latest scrapes took."""
        self.models = frozenset({model} if model else ())
        """Models it serves; until its ``/v1/models`` was read, what the platform says."""
        self.model_entries: Sequence[Any] = ()
        """``data`` of its ``/v1/models``."""
        self.sample: EngineSample | None = None
        self.sampled_s = -math.inf
        """When ``sample`` was read, on the router's clock."""
        self.ejected_until_s = -math.inf
        self.retry_at_s = -math.inf
        self.ejections = self.failures = 0
        self.streak = self.trips = 0
        """Failures in a row, and how often in a row they had it left out."""
        self.last_error = ""

    def restarted(self, sample: EngineSample) -> bool:
        """Totals that fell since the last sample: another process, with an empty cache."""
        if self.sample is None:
            return False
        before, after = self.sample.prompt_tokens_total, sample.prompt_tokens_total
        return before is not None and after is not None and after < before

    def took(self, seconds: float) -> None:
        """A scrape took so long: the distance is the least, forgotten by a tenth each time."""
        known = self.distance_s
        self.distance_s = seconds if known is None else min(seconds, known + 0.1 * (seconds - known))

    @property
    def scraped(self) -> bool:
        """Worth scraping: it serves, or finishes what it has."""
        return self.state in (ReplicaState.READY, ReplicaState.STOPPING)

    def ejected(self, now_s: float) -> bool:
        """Left out for now."""
        return self.ejected_until_s > -math.inf and now_s < self.retry_at_s

    def eject(self, reason: str, *, now_s: float, for_s: float) -> bool:
        """Leave it out; True when it was not left out before."""
        first = not self.ejected(now_s)
        self.ejected_until_s, self.retry_at_s = now_s + for_s, now_s + for_s + _TRY_AGAIN_S
        self.failures += 1
        self.ejections += first
        self.last_error = reason
        return first

    def reached(self, *, started_s: float) -> None:
        """A scrape that began at ``started_s`` succeeded: enough if that was after the time out."""
        if started_s >= self.ejected_until_s:
            self.ejected_until_s = self.retry_at_s = -math.inf


@lru_cache(maxsize=8192)
def address(url: str) -> str:
    """Host and port of an engine; a name stays a name.

    >>> address("http://10.0.0.1:8000"), address("http://[::1]")
    ('10.0.0.1:8000', '[::1]:80')
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    return f"{f'[{host}]' if ':' in host else host}:{parts.port or (443 if parts.scheme == 'https' else 80)}"


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # the port is no number, or too large
        usable = False
    if not usable:
        raise SourceError(f"{url!r} is no engine URL", where="engines", limit="http://HOST:PORT",
                          next_step="Correct that address.")  # fmt: skip


class EndpointSet:
    """All engines by URL.

    Args:
        clock: seconds on a clock that never goes back.
        on_gone: called with the URL of an engine that the platform no longer names.
    """

    def __init__(self, *, clock: Callable[[], float], on_gone: Callable[[str], None] = lambda _url: None) -> None:
        self._clock, self._on_gone = clock, on_gone
        self._by_url: dict[str, Endpoint] = {}
        self._ready: tuple[Endpoint, ...] = ()
        self._out: set[Endpoint] = set()
        """Engines left out for now, some of them perhaps no longer."""
        self.declared: frozenset[str] = frozenset()
        """Models that the platform has variants of, with or without a replica."""
        self.adapters: frozenset[str] = frozenset()
        """LoRA adapters that some engine's ``/v1/models`` names (they have a parent)."""
        self.on_new: Callable[[Endpoint], None] = lambda _endpoint: None
        self.on_restart: Callable[[str], None] = lambda _url: None
        """Called with the URL of an engine that became ready again: its prefix cache is empty."""

    def update(self, variants: Iterable[Variant]) -> None:
        """What the platform says now: new engines, changed states, engines that are gone.

        Raises: SourceError for an address that cannot be one; then nothing that was known is given up.
        """
        named: set[str] = set()
        variants = tuple(variants)
        self.declared = frozenset(variant.spec.model for variant in variants if variant.spec.model)
        for variant in variants:
            for replica in variant.replicas:
                named.add(replica.url)
                self._see(replica, variant)
        for url in [url for url in self._by_url if url not in named]:
            del self._by_url[url]
            self._on_gone(url)
        self._ready = tuple(one for one in self._by_url.values() if one.state is ReplicaState.READY)

    def _see(self, replica: Replica, variant: Variant) -> None:
        _check_url(replica.url)
        known = self._by_url.get(replica.url)
        if known is not None and known.name == replica.name:
            if replica.state is ReplicaState.READY and replica.since_s != known.since_s:
                self.on_restart(replica.url)
            known.state, known.since_s = replica.state, replica.since_s
            known.labels, known.role, known.variant = replica.labels, variant.spec.role, replica.variant
            return
        if known is not None:  # another replica at an old address: nothing that was known holds
            self._on_gone(replica.url)
        endpoint = Endpoint(replica, role=variant.spec.role, model=variant.spec.model)
        self._by_url[replica.url] = endpoint
        self.on_new(endpoint)

    def get(self, url: str) -> Endpoint | None:
        """The engine at ``url``."""
        return self._by_url.get(url)

    @property
    def all(self) -> Collection[Endpoint]:
        """Every engine, whatever its state."""
        return self._by_url.values()

    @property
    def ready(self) -> Sequence[Endpoint]:
        """Engines that the platform calls ready."""
        return self._ready

    def candidates(self, tried: Collection[str] = ()) -> Sequence[Endpoint]:
        """Engines that may be picked, without those that a request has tried; the same object while none changes."""
        if not tried and not self._out:
            return self._ready
        now_s = self._clock()
        self._out = {one for one in self._out if one.ejected(now_s)}
        ready = [one for one in self._ready if one.url not in tried] if tried else self._ready
        healthy = [one for one in ready if one not in self._out] if self._out else ready
        return healthy or ready

    def unreachable(self, url: str, reason: str, *, for_s: float) -> None:
        """A connection to ``url`` failed: leave it out for ``for_s`` seconds."""
        endpoint = self._by_url.get(url)
        if endpoint is None:
            return
        first = endpoint.eject(reason, now_s=self._clock(), for_s=for_s)
        self._out.add(endpoint)
        if first:
            log.warning("engine %s is left out (%s): no requests for %.1f s at least", url, reason, for_s)

    def described(self) -> None:
        """An engine's ``/v1/models`` was read."""
        self.adapters = frozenset(
            str(entry["id"]) for one in self._by_url.values() for entry in one.model_entries if entry.get("parent")
        )

    def failed(self, url: str, reason: str, *, after: int, for_s: float) -> None:
        """A request was lost at ``url`` or answered with 5xx: after so many in a row leave it out.

        Each time in a row for twice as long, up to sixteen times; when it is back, the first failure is enough.
        """
        endpoint = self._by_url.get(url)
        if endpoint is None:
            return
        endpoint.failures += 1
        endpoint.last_error = reason
        endpoint.streak += 1
        if after and endpoint.streak >= after:
            self.unreachable(url, f"{endpoint.streak} failures in a row: {reason}", for_s=for_s * 2**endpoint.trips)
            endpoint.trips = min(4, endpoint.trips + 1)
            endpoint.streak = after - 1

    def answered(self, url: str) -> None:
        """A request went well at ``url``."""
        endpoint = self._by_url.get(url)
        if endpoint is not None:
            endpoint.streak = endpoint.trips = 0

    def known_models(self) -> set[str]:
        """Models that some engine serves, or that the platform could start one for."""
        return {*self.declared, *(model for endpoint in self._by_url.values() for model in endpoint.models)}
