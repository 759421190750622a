"""Who may ask, and how much: tenants, their API keys (hashed), rates and priorities. Pure: no I/O, no clock.

    objectives: {interactive: 10, batch: -1}      # priorities by the name a client gives (x-llm-d-inference-objective)
    tenants:
      - name: search
        keys: ["sha256:..."]                      # made by: fleet router key
        requestsPerMinute: 600
        tokensPerMinute: 1000000                  # prompt and output
        maxInFlight: 64
        priority: 5
        models: [meta-llama/Llama-3.1-8B-Instruct]
        slo: {ttftMs: 500, tpotMs: none}          # in place of the SLO file's; none: no target

With such a file every request needs the key of a tenant. Keys have 256 random bits, so a plain SHA-256 of one tells
nothing; requests are looked up by the hash of what they show, and no comparison depends on the secret.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from fleet.errors import ConfigError
from router.hints import MAX_SLO_MS, NO_TARGET_S
from router.located import Located, locate, nearest, shown
from router.targets import Own

KEY_PREFIX: Final = "sk-fleet-"
HASH_PREFIX: Final = "sha256:"
_BEARER: Final = b"bearer "
_MINUTE_S: Final = 60.0
_FIELDS: Final = ("name", "keys", "requestsPerMinute", "tokensPerMinute", "maxInFlight", "priority", "models", "slo")
_NONE: Final = "none"


def hashed(key: bytes) -> str:
    """A key as it is stored.

    >>> hashed(b"sk-fleet-x")[:15]
    'sha256:a8d7aaf4'
    """
    return HASH_PREFIX + hashlib.sha256(key).hexdigest()


class Bucket:
    """A rate: so many a minute, of which a minute's worth may come at once; what came may drive it below zero."""

    __slots__ = ("_at_s", "_left", "_per_minute")

    def __init__(self, per_minute: float) -> None:
        self._per_minute, self._left, self._at_s = per_minute, per_minute, 0.0

    def wait_s(self, amount: float, now_s: float) -> float:
        """Seconds until ``amount`` may come; 0: now. One larger than a minute's worth may when the bucket is full."""
        rate = self._per_minute / _MINUTE_S
        self._left = min(self._per_minute, self._left + (now_s - self._at_s) * rate)
        self._at_s = now_s
        missing = min(amount, self._per_minute) - self._left
        return missing / rate if missing > 0 else 0.0

    def spend(self, amount: float) -> None:
        """It came."""
        self._left -= amount

    def change(self, per_minute: float) -> None:
        """Another rate from now on; what is left is kept, as far as the new rate saves up so much."""
        self._per_minute, self._left = per_minute, min(self._left, per_minute)


def _bucket(before: Bucket | None, per_minute: float | None) -> Bucket | None:
    """The bucket of a rate that is set anew."""
    if not per_minute:
        return None
    if before is None:
        return Bucket(per_minute)
    before.change(per_minute)
    return before


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantSpec:
    """One tenant as configured; ``None``: no limit."""

    name: str
    keys: tuple[str, ...] = ()
    """Hashes, see :func:`hashed`."""
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    max_in_flight: int | None = None
    priority: int = 0
    models: frozenset[str] = frozenset()
    """Those it may use; empty: all."""
    slo: Own | None = None
    """Latency targets of its requests that name none; ``None``: its models'."""

    def shared(self, share: float) -> TenantSpec:
        """The same with that part of its limits, but room for one request at least."""
        return dataclasses.replace(
            self,
            requests_per_minute=self.requests_per_minute and self.requests_per_minute * share,
            tokens_per_minute=self.tokens_per_minute and self.tokens_per_minute * share,
            max_in_flight=self.max_in_flight and max(1, round(self.max_in_flight * share)),
        )


class Tenant:
    """A tenant with what it has used."""

    __slots__ = ("_requests", "_tokens", "in_flight", "refused", "spec")

    def __init__(self, spec: TenantSpec) -> None:
        self.spec = spec
        self.in_flight = self.refused = 0
        self._requests = _bucket(None, spec.requests_per_minute)
        self._tokens = _bucket(None, spec.tokens_per_minute)

    def use(self, spec: TenantSpec) -> Tenant:
        """Have other limits; what it has used and has in flight counts on."""
        self.spec = spec
        self._requests = _bucket(self._requests, spec.requests_per_minute)
        self._tokens = _bucket(self._tokens, spec.tokens_per_minute)
        return self

    def wait_s(self, tokens: int, now_s: float) -> float:
        """Seconds until a request with a prompt of ``tokens`` may come; 0: now."""
        most = self.spec.max_in_flight
        wait_s = 1.0 if most is not None and self.in_flight >= most else 0.0
        if self._requests is not None:
            wait_s = max(wait_s, self._requests.wait_s(1.0, now_s))
        if self._tokens is not None:
            wait_s = max(wait_s, self._tokens.wait_s(float(tokens), now_s))
        if wait_s:
            self.refused += 1
        return wait_s

    def begin(self, tokens: int) -> None:
        """A request with a prompt of ``tokens`` was let in."""
        self.in_flight += 1
        if self._requests is not None:
            self._requests.spend(1.0)
        if self._tokens is not None:
            self._tokens.spend(float(tokens))

    def end(self, output_tokens: int) -> None:
        """It is over."""
        self.in_flight -= 1
        if self._tokens is not None:
            self._tokens.spend(float(output_tokens))

    def may_use(self, model: str) -> bool:
        """Is ``model`` one of its own?"""
        return not self.spec.models or model in self.spec.models


class Tenants:
    """All tenants, by the hash of their keys."""

    def __init__(self, specs: Sequence[TenantSpec] = (), objectives: Mapping[str, int] | None = None) -> None:
        self.all = [Tenant(spec) for spec in specs]
        self.objectives = dict(objectives or {})
        """Priorities by name."""
        self._named = self.objectives
        self._others: Mapping[str, int] = {}
        self._by_hash = {key: tenant for tenant in self.all for key in tenant.spec.keys}

    def __bool__(self) -> bool:
        return bool(self.all)

    def use(self, newer: Tenants) -> None:
        """Be as ``newer`` says: a key that it lacks is no longer good; a tenant that stays keeps what it has used.

        Raises: ConfigError where no tenant would be left: then everybody might ask.
        """
        if self.all and not newer.all:
            raise ConfigError("no tenant is left, which would let everybody in", where="the tenants",
                              next_step="Name one, or start the router without tenants.")  # fmt: skip
        known = {one.spec.name: one for one in self.all}
        self.all = [known[one.spec.name].use(one.spec) if one.spec.name in known else one for one in newer.all]
        self._by_hash = {key: tenant for tenant in self.all for key in tenant.spec.keys}
        self._named = newer.objectives
        self.also(self._others)

    def also(self, objectives: Mapping[str, int]) -> None:
        """Priorities that are told elsewhere, beside those of the file; they come first."""
        self._others = objectives
        self.objectives = {**self._named, **objectives}

    def shared(self, share: float) -> Tenants:
        """The same with that part of every limit."""
        return Tenants([one.spec.shared(share) for one in self.all], self.objectives) if share != 1.0 else self

    def identify(self, authorization: bytes) -> Tenant | None:
        """The tenant whose key an ``Authorization`` header shows."""
        if authorization[: len(_BEARER)].lower() != _BEARER:
            return None
        return self._by_hash.get(hashed(authorization[len(_BEARER) :].strip()))

    def priority(self, tenant: Tenant | None, objective: str) -> int:
        """Of a request; a tenant's own is the most that an objective can raise it to."""
        asked = self.objectives.get(objective)
        if tenant is None:
            return asked if asked is not None else 0
        return tenant.spec.priority if asked is None else min(asked, tenant.spec.priority)


def parse_tenants(text: str, where: str = "tenants.yaml") -> Tenants:
    """Tenants from a YAML document.

    Raises: ConfigError with the line and the nearest right word.
    """
    entries = locate(text, where=where).only("the document", ("tenants", "objectives"))
    specs = [_tenant(one) for one in entries["tenants"].sequence("tenants")] if "tenants" in entries else []
    seen: dict[str, str] = {}
    for spec, at in zip(specs, entries["tenants"].sequence("tenants") if specs else (), strict=True):
        for key in (spec.name, *spec.keys):
            if key in seen:
                raise at.refuse(f"tenant {spec.name!r} repeats a name or key of {seen[key]!r}", next_step="Keep one.")
            seen[key] = spec.name
    objectives = entries["objectives"].mapping("objectives") if "objectives" in entries else {}
    return Tenants(specs, {name: _whole(at, name, low=-1000) for name, at in objectives.items()})


def _tenant(at: Located) -> TenantSpec:
    entries = at.only("a tenant", _FIELDS)
    if "name" not in entries:
        raise at.refuse("a tenant has no name", next_step="Add name: WORD.")
    return TenantSpec(
        name=entries["name"].word("name"),
        keys=tuple(_key(one) for one in entries["keys"].sequence("keys")) if "keys" in entries else (),
        requests_per_minute=_number(entries.get("requestsPerMinute"), "requestsPerMinute"),
        tokens_per_minute=_number(entries.get("tokensPerMinute"), "tokensPerMinute"),
        max_in_flight=_whole(entries["maxInFlight"], "maxInFlight", low=1) if "maxInFlight" in entries else None,
        priority=_whole(entries["priority"], "priority", low=-1000) if "priority" in entries else 0,
        models=frozenset(one.word("a model") for one in entries["models"].sequence("models"))
        if "models" in entries
        else frozenset(),
        slo=_slo(entries["slo"]) if "slo" in entries else None,
    )


def _slo(at: Located) -> Own:
    if at.value == _NONE:
        return Own(NO_TARGET_S, NO_TARGET_S)
    if not isinstance(at.value, dict):
        step = nearest(at.value, (_NONE,)) if isinstance(at.value, str) else "Write none, or {ttftMs: 500, tpotMs: 50}."
        raise at.refuse(f"slo must be none or latencies, not {shown(at.value)}", next_step=step)
    entries = at.only("slo", ("ttftMs", "tpotMs"))
    return Own(*(_milliseconds(entries.get(name), name) for name in ("ttftMs", "tpotMs")))


def _milliseconds(at: Located | None, what: str) -> float | None:
    """As seconds."""
    if at is None or at.value == _NONE:
        return None if at is None else NO_TARGET_S
    if isinstance(at.value, bool) or not isinstance(at.value, int | float) or not 0 < at.value <= MAX_SLO_MS:
        raise at.refuse(f"{what} must be milliseconds or none, not {shown(at.value)}", limit=f"up to {MAX_SLO_MS:.0f}",
                        next_step="Write a number above 0, or none.")  # fmt: skip
    return float(at.value) / 1000.0


def _key(at: Located) -> str:
    word = at.word("a key")
    digest = word.removeprefix(HASH_PREFIX)
    if not word.startswith(HASH_PREFIX) or len(digest) != 64 or set(digest) - set("0123456789abcdef"):
        raise at.refuse("a key is stored as its hash, never as it is", limit="sha256: and 64 hexadecimal digits",
                        next_step="Make one with: fleet router key.")  # fmt: skip
    return word


def _number(at: Located | None, what: str) -> float | None:
    if at is None:
        return None
    if isinstance(at.value, bool) or not isinstance(at.value, int | float) or not 0 < at.value < 1e12:
        raise at.refuse(f"{what} must be a number above 0", next_step="Leave it out for no limit.")
    return float(at.value)


def _whole(at: Located, what: str, *, low: int) -> int:
    if isinstance(at.value, bool) or not isinstance(at.value, int) or not low <= at.value <= 1_000_000:
        raise at.refuse(f"{what} must be a whole number", limit=f"{low} to 1000000", next_step="Change the value.")
    return at.value
