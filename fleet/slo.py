"""Service-level objectives: one file that wva, router, predictor, alerts and console all read. Pure.

Reading the file from disk is :func:`fleet.settings.load_slos`; this module only knows its shape.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from fleet.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyTarget:
    """``objective`` of the requests finish under ``threshold_s`` (TTFT P95 < 0.2 s: objective 0.95, 0.2)."""

    threshold_s: float
    objective: float = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestTargets:
    """What one request is held to; ``None``: to nothing."""

    ttft_s: float | None = None
    tpot_s: float | None = None
    objective: float | None = None
    """Share of requests that are to meet both, 0..1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slo:
    """The promises for one model. ``None`` means that no promise is made."""

    model: str
    ttft: LatencyTarget | None = None
    tpot: LatencyTarget | None = None
    e2e: LatencyTarget | None = None
    success_rate: float | None = 0.999
    output_tps: float | None = None
    """Output tokens per second that the model must reach while requests wait."""
    window: str = "30d"
    """Over which the error budget is counted."""

    def targets(self) -> RequestTargets:
        """What each request is held to; the objective is the stricter of the two, so that both promises are kept.

        >>> DEFAULT_SLOS.of("m").targets()
        RequestTargets(ttft_s=0.2, tpot_s=0.1, objective=0.95)
        """
        promised = [target for target in (self.ttft, self.tpot) if target is not None]
        return RequestTargets(
            ttft_s=None if self.ttft is None else self.ttft.threshold_s,
            tpot_s=None if self.tpot is None else self.tpot.threshold_s,
            objective=max([target.objective for target in promised], default=None),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SloBook:
    """Default promises and those of named models."""

    default: Slo
    models: Mapping[str, Slo] = field(default_factory=dict)

    def of(self, model: str) -> Slo:
        """The promises for ``model``: its own entry, else the default under its name."""
        return self.models.get(model, _named(self.default, model))


CLIENT_STATUSES: Final = (400, 401, 403, 404, 405, 411, 413, 415, 422, 431, 499)
"""Of answers that are the client's doing (or its leaving): they break no promise."""
DEFAULT_MODEL: Final = "*"

DEFAULT_SLOS: Final = SloBook(
    default=Slo(
        model=DEFAULT_MODEL,
        ttft=LatencyTarget(threshold_s=0.2, objective=0.95),
        tpot=LatencyTarget(threshold_s=0.1, objective=0.95),
        success_rate=0.999,
        output_tps=10_000.0,
    )
)
"""TTFT P95 < 0.2 s, output throughput > 10 000 tok/s, success > 99.9 % (TPOT's 0.1 s is vLLM's nearest bucket)."""

_LATENCIES: Final = ("ttft", "tpot", "e2e")
_KEYS: Final = (*_LATENCIES, "success_rate", "output_tps", "window")


def _named(slo: Slo, model: str) -> Slo:
    return Slo(model=model, ttft=slo.ttft, tpot=slo.tpot, e2e=slo.e2e, success_rate=slo.success_rate,
               output_tps=slo.output_tps, window=slo.window)  # fmt: skip


def _number(value: object, where: str, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low < value <= high:
        raise ConfigError(f"{value!r} is no usable number", where=where, limit=f"above {low:g}, at most {high:g}",
                          next_step="See alerts/slos.yaml for an example.")  # fmt: skip
    return float(value)


def _latency(value: object, where: str) -> LatencyTarget | None:
    if value is None:
        return None
    if not isinstance(value, Mapping) or set(value) - {"threshold_s", "objective"} or "threshold_s" not in value:
        raise ConfigError(f"{value!r} is no latency target", where=where,
                          next_step="Write {threshold_s: 0.2, objective: 0.95}.")  # fmt: skip
    return LatencyTarget(
        threshold_s=_number(value["threshold_s"], f"{where}.threshold_s", 0, 86_400),
        objective=_number(value.get("objective", 0.95), f"{where}.objective", 0, 0.999999),
    )


def _slo(value: object, model: str, base: Slo, where: str) -> Slo:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{value!r} is no set of objectives", where=where, next_step=f"Keys: {', '.join(_KEYS)}.")
    if unknown := sorted(set(value) - set(_KEYS)):
        raise ConfigError(
            f"unknown key {unknown[0]!r}",
            where=where,
            limit=", ".join(_KEYS),
            next_step="Remove or rename it.",
        )
    latency = {
        key: _latency(value[key], f"{where}.{key}") if key in value else getattr(base, key) for key in _LATENCIES
    }
    numbers: dict[str, float | None] = {"success_rate": base.success_rate, "output_tps": base.output_tps}
    for key, high in (("success_rate", 0.999999), ("output_tps", 1e9)):
        if key in value:
            numbers[key] = None if value[key] is None else _number(value[key], f"{where}.{key}", 0, high)
    return Slo(model=model, **latency, success_rate=numbers["success_rate"], output_tps=numbers["output_tps"],
               window=str(value.get("window", base.window)))  # fmt: skip


def parse_slos(document: Any, *, where: str = "slos.yaml") -> SloBook:
    """Objectives from a parsed YAML document.

    Args:
        document: ``{"default": {...}, "models": {name: {...}}}``; a model's entry overrides the default key by key,
            ``null`` withdraws a promise.
        where: the file's name, for error lines.
    Raises: ConfigError naming the key, its value and what would have been accepted.

    >>> book = parse_slos({"models": {"llama": {"ttft": {"threshold_s": 0.5}}}})
    >>> book.of("llama").ttft.threshold_s, book.of("other").ttft.threshold_s
    (0.5, 0.2)
    """
    if document is None:
        return DEFAULT_SLOS
    if not isinstance(document, Mapping) or set(document) - {"default", "models"}:
        raise ConfigError("the top level takes the keys default and models only", where=where,
                          next_step="See alerts/slos.yaml for an example.")  # fmt: skip
    default = _slo(document.get("default") or {}, DEFAULT_MODEL, DEFAULT_SLOS.default, f"{where}: default")
    models = document.get("models") or {}
    if not isinstance(models, Mapping):
        raise ConfigError("models must be a mapping", where=where, next_step="Write models: {NAME: {ttft: ...}}.")
    return SloBook(
        default=default,
        models={
            str(name): _slo(value or {}, str(name), default, f"{where}: models.{name}")
            for name, value in models.items()
        },
    )
