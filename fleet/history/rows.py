"""Rows of the history as frozen records (decisions are :class:`fleet.types.Decision`)."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


class RequestOutcome(enum.StrEnum):
    """How a request ended, as the router saw it."""

    OK = "ok"
    ERROR = "error"
    """The engine answered with an error, or broke off."""
    ABORTED = "aborted"
    """The client went away."""
    TIMEOUT = "timeout"
    REJECTED = "rejected"
    """The router refused it (no endpoint, or a bad request)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRecord:
    """One request through the router; latencies in seconds, ``None`` where they were never observed."""

    at_s: float
    """Unix time of arrival."""
    request_id: str
    model: str
    outcome: RequestOutcome
    status: int
    endpoint: str = ""
    """URL of the engine that served it; empty when none did."""
    variant: str = ""
    streaming: bool = False
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    """Prompt tokens the engine found in its cache where it said so, else the router's estimate."""
    ttft_s: float | None = None
    tpot_s: float | None = None
    e2e_s: float | None = None
    predicted_ttft_s: float | None = None
    predicted_tpot_s: float | None = None
    pick_probability: float | None = None
    features: Mapping[str, float] = field(default_factory=dict)
    """:data:`predictor.features.NAMES` as known when the endpoint was picked."""
    tenant: str = ""
    candidates: Mapping[str, Sequence[float]] | None = None
    """URL -> predicted TTFT and TPOT, seconds, of what could have been picked; of many, the best and a sample."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSample:
    """A latency that did not come through our router: sent over HTTP, or imported from a file."""

    at_s: float
    source: str
    """``http`` or ``import``."""
    ttft_s: float | None
    tpot_s: float | None
    features: Mapping[str, float]
    """:data:`predictor.features.NAMES`."""
    endpoint: str = ""
    variant: str = ""
    censored: bool = False
    """``ttft_s`` is how long it had waited in vain."""
    output_tokens: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalSample:
    """One value of one signal at one time."""

    at_s: float
    signal: str
    """A name from :mod:`fleet.signals`, or a derived one with its unit (``generation_tps``)."""
    value: float
    model: str = ""
    variant: str = ""
    endpoint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something a person would want on the time axis."""

    at_s: float
    kind: str
    """``scale``, ``process``, ``engine``, ``alert``, ``model`` (predictor), ``config``."""
    subject: str
    """What it happened to: a variant, a process, an engine, an alert's name."""
    message: str
    severity: str = "info"
    """``info``, ``warning`` or ``critical``."""
    data: Mapping[str, Any] = field(default_factory=dict)
