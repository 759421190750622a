"""AIBrix's two pod autoscalers: KPA (after Knative: stable and panic windows) and APA. Pure.

Facts: the controller's defaults and its samples (2026-08): KV-cache utilisation 0.5 as the target of both. KPA adds
the metric over pods, APA takes the mean; the guard for pods that start is the later one (pending counts as nothing on
the way up, as at target on the way down).
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class KpaConfig:
    """Defaults; ``delay_s`` as in the sample."""

    target: float = 0.5
    stable_s: float = 180.0
    panic_s: float = 60.0
    panic_threshold: float = 2.0
    up_rate: float = 2.0
    down_rate: float = 2.0
    delay_s: float = 180.0


@dataclass(frozen=True, slots=True, kw_only=True)
class KpaState:
    """Panic, and what was wanted during the delay."""

    panic_until_s: float = -math.inf
    panic_replicas: int = 0
    wanted: tuple[tuple[float, int], ...] = ()


def first(current: int, *, now_s: float, config: KpaConfig) -> KpaState:
    """The state at the start: in panic where there is more than one pod, so that a restart takes none away."""
    return KpaState(panic_until_s=now_s + config.stable_s, panic_replicas=current) if current > 1 else KpaState()


def kpa_replicas(
    stable: float, panic: float, current: int, state: KpaState, *, now_s: float, config: KpaConfig
) -> tuple[int, KpaState]:
    """Replicas for the metric's sum over pods, averaged over the stable and the panic window.

    >>> kpa_replicas(2.1, 2.1, 3, KpaState(), now_s=0.0, config=KpaConfig())[0]
    5
    """
    highest = max(1, math.ceil(config.up_rate * current))
    lowest = math.floor(current / config.down_rate)
    over = math.ceil(panic / config.target - 1e-9)
    wanted = min(max(math.ceil(stable / config.target - 1e-9), lowest), highest)
    until_s = state.panic_until_s
    if over / max(1, current) >= config.panic_threshold:
        until_s = now_s + config.stable_s
    held = 0
    if now_s < until_s:
        held = max(state.panic_replicas, wanted, min(max(over, lowest), highest))
        wanted = held
    kept = tuple(entry for entry in state.wanted if entry[0] > now_s - config.delay_s)
    recent = (*kept, (now_s, wanted))
    result = max(count for _, count in recent)
    return result, KpaState(panic_until_s=until_s, panic_replicas=held, wanted=recent)


def kpa_guarded(wanted: int, total: float, *, current: int, ready: int, target: float) -> int:
    """``wanted`` of KPA while replicas start: none is taken away that the metric's sum and those starting account for.

    >>> kpa_guarded(3, 2.0, current=6, ready=4, target=0.5)
    6
    """
    pending = current - ready
    if pending <= 0 or wanted >= current:
        return wanted
    return max(min(math.ceil(total / target - 1e-9) + pending, current), wanted)


@dataclass(frozen=True, slots=True, kw_only=True)
class ApaConfig:
    """Defaults."""

    target: float = 0.5
    up_tolerance: float = 0.1
    down_tolerance: float = 0.1
    up_rate: float = 2.0
    down_rate: float = 2.0
    window_s: float = 30.0
    """Over which the metric is averaged (sample)."""
    down_cooldown_s: float = 300.0
    """After a change, nothing shrinks for so long."""


def apa_replicas(mean: float, current: int, config: ApaConfig) -> int:
    """Replicas for the metric's mean over pods.

    >>> apa_replicas(0.75, 4, ApaConfig()), apa_replicas(0.53, 4, ApaConfig()), apa_replicas(0.1, 4, ApaConfig())
    (6, 4, 2)
    """
    ratio = mean / config.target
    if ratio > 1 + config.up_tolerance:
        return min(math.ceil(current * ratio - 1e-9), math.ceil(config.up_rate * current))
    if ratio < 1 - config.down_tolerance:
        return max(math.ceil(current * ratio - 1e-9), math.floor(current / config.down_rate))
    return current


def guarded(wanted: int, mean: float, *, current: int, ready: int, target: float) -> int:
    """``wanted`` of APA, with replicas that start taken into account.

    >>> guarded(8, 1.0, current=4, ready=2, target=0.5)
    4
    """
    pending = current - ready
    if pending <= 0 or wanted == current:
        return wanted
    if wanted > current:
        damped = math.ceil(mean * ready / target - 1e-9)
        return min(max(damped, current), wanted)
    damped = math.ceil((mean * ready + target * pending) / target - 1e-9)
    return max(min(damped, current), wanted)
