"""The one sentence on top of the overview: what, since when, why, what happens next. Pure."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import UTC, tzinfo
from typing import Final

from dashboards.words import clock, percent, plural, seconds
from dashboards.world import AlertState, ModelState, Promise, VariantState, World

PART_NAMES: Final = {"alerts": "alert watcher"}
"""What a part is called in a sentence, where its own name does not fit one."""
STALE_AFTER_S: Final = 30.0
"""Ten passes of a controller at its usual interval: then what is shown is no longer now."""


class Level(enum.StrEnum):
    """How much a person is needed."""

    GOOD = "good"
    ATTENTION = "attention"
    BREACH = "breach"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sentence:
    """The state of the world in words."""

    level: Level
    headline: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.headline} {self.detail}".strip()


def summarise(world: World, zone: tzinfo = UTC) -> Sentence:
    """Say how the fleet is.

    >>> str(summarise(World(now_s=100.0, span_s=900.0, newest_s=None)))
    'Nothing has been recorded in the last 15 min. Start traffic, or choose a longer range.'
    """
    if world.newest_s is None:
        headline = f"Nothing has been recorded in the last {seconds(world.span_s)}."
        detail = " ".join(_down(world, zone)) or "Start traffic, or choose a longer range."
        return Sentence(level=Level.UNKNOWN, headline=headline, detail=detail)
    if world.now_s - world.newest_s > STALE_AFTER_S:
        return _stale(world, zone)
    broken = [(model, promise) for model in world.models if (promise := _worst(model))]
    critical = [alert for alert in world.alerts if alert.severity == "critical"]
    if broken or critical:
        return _breach(world, broken, critical, zone)
    worries = _worries(world, zone)
    if worries:
        return Sentence(level=Level.ATTENTION, headline=worries[0], detail=" ".join(worries[1:3]))
    return _good(world, zone)


def _stale(world: World, zone: tzinfo) -> Sentence:
    age = world.now_s - (world.newest_s or 0.0)
    down = _down(world, zone)
    return Sentence(
        level=Level.UNKNOWN,
        headline=f"No news for {seconds(float(round(age)))}: the last came at {clock(world.newest_s, zone)}.",
        detail=" ".join(down) if down else "What is shown is that old. Check that the controller and the router run.",
    )


def _worst(model: ModelState) -> Promise | None:
    """The broken promise that has been broken longest."""
    broken = [promise for promise in model.promises if promise.broken_since_s is not None]
    return min(broken, key=lambda promise: promise.broken_since_s or 0.0) if broken else None


def _breach(
    world: World, broken: list[tuple[ModelState, Promise]], critical: list[AlertState], zone: tzinfo
) -> Sentence:
    if not broken:
        alert = critical[0]
        return Sentence(
            level=Level.BREACH,
            headline=f"{alert.name} fires since {clock(alert.since_s, zone)}.",
            detail=f"{alert.message.rstrip('.')}. {_next(world, alert.model)}".strip(),
        )
    model, promise = broken[0]
    count = len({known.name for known, _ in broken})
    lead = f"{plural(count, 'model')} need{'s' if count == 1 else ''} you"
    since = f"{promise.name} since {clock(promise.broken_since_s, zone)}"
    headline = f"{lead}: {short_model(model.name)} breaches {since} ({_figure(promise)})."
    return Sentence(
        level=Level.BREACH, headline=headline, detail=f"{_why(world, model)} {_next(world, model.name)}".strip()
    )


def _of(world: World, model: str) -> list[VariantState]:
    return [variant for variant in world.variants if not model or variant.model == model]


def _why(world: World, model: ModelState) -> str:
    hot = [variant for variant in _of(world, model.name) if (variant.saturation or 0.0) > 0.8]
    starting = sum(variant.starting for variant in _of(world, model.name))
    causes = []
    if model.waiting is not None and model.waiting >= 1:
        causes.append(f"{plural(round(model.waiting), 'request')} wait in the engines")
    if hot:
        causes.append(", ".join(f"{v.name} is saturated ({v.saturation:.2f})" for v in hot[:2]))
    if starting:
        causes.append(f"{plural(starting, 'replica')} still start{'s' if starting == 1 else ''}")
    return (
        f"Why: {'; '.join(causes)}."
        if causes
        else "Why: neither a queue nor saturation shows it; see Alerts for the diagnosis."
    )


def _next(world: World, model: str) -> str:
    variants = _of(world, model)
    growing = [v for v in variants if v.starting]
    if growing:
        plan = ", ".join(f"{v.name} {v.ready} → {(v.ready or 0) + v.starting}" for v in growing)
        return f"Next: {plan}, already on the way."
    full = [v for v in variants if v.reason == "at_max"]
    if full:
        return f"Next: nothing by itself, {full[0].name} is at its maximum of {full[0].wanted}: raise it or shed load."
    told = [v for v in variants if v.said]
    return f"Next: {told[0].name} {told[0].said[0].lower()}{told[0].said[1:]}" if told else ""


def _down(world: World, zone: tzinfo) -> list[str]:
    """One sentence for all parts that are silent."""
    names = [PART_NAMES.get(name, name) for name in sorted(world.parts_down)]
    if not names:
        return []
    listed = ", ".join(names[:-1]) + f" and {names[-1]}" if len(names) > 1 else names[0]
    since = clock(min(world.parts_down.values()), zone)
    return [f"The {listed} {'does' if len(names) == 1 else 'do'} not answer since {since}."]


def _worries(world: World, zone: tzinfo) -> list[str]:
    worries = _down(world, zone)
    worries += [
        f"{alert.name} fires since {clock(alert.since_s, zone)}: {alert.message.rstrip('.')}." for alert in world.alerts
    ]
    for model in world.models:
        worries += _spent(model, world.span_s)
    for variant in world.variants:
        if variant.reason == "at_max":
            worries.append(f"{variant.name} wants more replicas than its maximum of {variant.wanted}.")
        elif variant.reason in {"stale_metrics", "no_signal"}:
            worries.append(f"{variant.name} is held at {variant.wanted}: its metrics are missing or old.")
    return worries


def _spent(model: ModelState, span_s: float) -> list[str]:
    """Promises that are kept now, but were not over the whole window."""
    name, window = short_model(model.name), f"over the last {seconds(span_s)}"
    found = [
        f"{name} keeps {promise.name} now ({_figure(promise)}), but {window} only {percent(promise.attained)} "
        f"of its requests did (promised {percent(promise.objective)})."
        for promise in model.promises
        if promise.attained is not None and promise.attained < promise.objective
    ]
    if model.success is not None and model.success_target is not None and model.success < model.success_target:
        promised = percent(model.success_target)
        found.append(f"{name} answered {percent(model.success)} of its requests {window} (promised {promised}).")
    return found


def _figure(promise: Promise) -> str:
    return f"P{promise.objective * 100:g} {seconds(promise.p_now_s)}, limit {seconds(promise.limit_s)}"


def _good(world: World, zone: tzinfo) -> Sentence:
    ready = sum(variant.ready or 0 for variant in world.variants)
    starting = sum(variant.starting for variant in world.variants)
    since = (
        f"since {clock(world.last_trouble_s, zone)}"
        if world.last_trouble_s
        else f"for the last {seconds(world.span_s)}"
    )
    asked = [model for model in world.models if model.requests]
    who = (
        f"{plural(len(asked), 'model')} keep{'s' if len(asked) == 1 else ''} every promise {since}"
        if asked
        else (f"no traffic, and no trouble {since}")
    )
    figures = [
        f"{promise.name} P{promise.objective * 100:g} {seconds(promise.p_now_s)} (limit {seconds(promise.limit_s)})"
        for model in asked[:1]
        for promise in model.promises
        if promise.p_now_s is not None
    ]
    running = f"{plural(ready, 'replica')} ready" + (f", {starting} starting" if starting else "")
    return Sentence(level=Level.GOOD, headline=f"All is well: {who}.", detail=f"{'; '.join([*figures, running])}.")


def short_model(name: str) -> str:
    """A model's name without its publisher.

    >>> short_model("meta-llama/Llama-3.1-8B-Instruct")
    'Llama-3.1-8B-Instruct'
    """
    return name.rsplit("/", 1)[-1]
