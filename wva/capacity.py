"""What a replica can do: learned from its own traffic, ordered by hardware figures until then. Pure.

*Speed* is the generated tokens per second of one running request: the variant's token rate over its running
requests, both over the same window (the source's rates are over ``window_s``, and running requests are remembered as
long: a present count beside a past rate would make every rising load look slow). The best speed ever seen is the
yardstick of throughput degradation. It rises over about one window, so that one odd reading teaches little, and halves
every ``forget_half_life_s``, so that a yardstick from other traffic or other software is learned again. It starts from
what the step-time coefficients of model and GPU give a lone request, where they are known: a controller that first
meets a variant under full load would otherwise take that for its best. While a variant idles, nothing is learned and
degradation is 0.

*Capacity* is what one replica generates while it is full: requests have waited for it over the whole window of the
rate. It orders variants by cost.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

from fleet.hardware import COEFFICIENTS, GPUS, MODELS, ModelShape
from fleet.types import ReplicaObservation, VariantSpec
from wva.saturation import clip, usable
from wva.types import Count, Learned, Policy

IDLE_BELOW: Final = 0.5
"""Running requests per replica under which a speed is more noise than measurement."""
NOMINAL_BATCH: Final = 64
NOMINAL_CONTEXT: Final = 1000
"""The batch and context at which hardware figures are compared."""


def learn(
    spec: VariantSpec, known: Learned, fresh: Sequence[ReplicaObservation], *, now_s: float, policy: Policy
) -> Learned:
    """What is known after one more look at the fresh replicas."""
    if not fresh:
        return known
    elapsed_s = max(now_s - known.at_s, 0.0) if known.at_s else 0.0
    running = _window(known.running, _mean(fresh, "running"), now_s, policy.window_s)
    keep = 0.5 ** (elapsed_s / policy.forget_half_life_s)
    gain = elapsed_s / policy.window_s
    tokens = _token_rate(fresh)
    full_since_s = _full_since(known, _mean(fresh, "waiting"), now_s)
    full = tokens if full_since_s is not None and now_s - full_since_s >= policy.window_s else None
    speed = _speed(tokens, running_mean(running))
    yardstick = nominal_speed_tps(spec) if known.best_speed_tps is None and speed is not None else known.best_speed_tps
    return Learned(
        at_s=now_s,
        running=running,
        best_speed_tps=_peak(yardstick, speed, keep, gain),
        full_since_s=full_since_s,
        capacity_tps=_peak(known.capacity_tps, full, keep, gain),
    )


def degradation(learned: Learned, fresh: Sequence[ReplicaObservation]) -> float:
    """1 - speed now / best speed, in 0..1; 0 while idle or unknown."""
    speed = _speed(_token_rate(fresh), running_mean(learned.running))
    if speed is None or not learned.best_speed_tps:
        return 0.0
    return clip(1.0 - speed / learned.best_speed_tps)


def running_mean(counts: Sequence[Count]) -> float | None:
    """Mean of the running requests remembered; ``None`` when there are none."""
    return sum(count.value for count in counts) / len(counts) if counts else None


def comparable(specs: Sequence[VariantSpec], learned: Mapping[str, Learned]) -> dict[str, float]:
    """Capacity of one replica of each variant, all from the same kind of knowledge so that they compare.

    Learned capacities once every variant has one, else tokens per second by the step-time coefficients, else memory
    bandwidth (decode is bound by it), else 1: then cost alone orders.
    """
    kinds: tuple[dict[str, float | None], ...] = (
        {spec.name: learned[spec.name].capacity_tps for spec in specs},
        {spec.name: nominal_tps(spec) for spec in specs},
        {spec.name: _bandwidth(spec) for spec in specs},
    )
    for kind in kinds:
        known = {name: value for name, value in kind.items() if value}
        if len(known) == len(specs):
            return known
    return {spec.name: 1.0 for spec in specs}


def nominal_tps(spec: VariantSpec) -> float | None:
    """Tokens per second of a full replica by its model's and GPU's coefficients; ``None`` where there are none."""
    step_ms = _decode_step_ms(spec, NOMINAL_BATCH)
    return NOMINAL_BATCH * 1000 / step_ms if step_ms else None


def nominal_speed_tps(spec: VariantSpec) -> float | None:
    """Tokens per second of a request that decodes alone; ``None`` without coefficients."""
    step_ms = _decode_step_ms(spec, 1)
    return 1000 / step_ms if step_ms else None


def _decode_step_ms(spec: VariantSpec, batch: int) -> float | None:
    """Step time of :class:`fleet.hardware.StepCoefficients` without prefill."""
    shape = _shape(spec.model)
    step = COEFFICIENTS.get((shape.name, spec.accelerator, spec.accelerator_count)) if shape else None
    if shape is None or step is None:
        return None
    return 0.13 + 0.032 * shape.layers + step.d0 + step.d_s * batch + step.d_kv * batch * NOMINAL_CONTEXT


def _shape(model: str) -> ModelShape | None:
    return next((shape for name, shape in MODELS.items() if name.lower() in model.lower()), None)


def _bandwidth(spec: VariantSpec) -> float | None:
    gpu = GPUS.get(spec.accelerator)
    return gpu.hbm_tb_s * spec.accelerator_count if gpu else None


def _mean(replicas: Sequence[ReplicaObservation], field: str) -> float | None:
    """Mean of one field of the samples; ``None`` where a replica does not say."""
    values = [usable(getattr(replica.sample, field)) for replica in replicas if replica.sample is not None]
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def _token_rate(replicas: Sequence[ReplicaObservation]) -> float | None:
    """Generated tokens per second and replica; ``None`` where a replica has no rate yet."""
    known = [rate for replica in replicas if (rate := usable(replica.generation_tps)) is not None]
    return sum(known) / len(known) if known and len(known) == len(replicas) else None


def _speed(tokens: float | None, running: float | None) -> float | None:
    return tokens / running if tokens is not None and running is not None and running >= IDLE_BELOW else None


def _full_since(known: Learned, waiting: float | None, now_s: float) -> float | None:
    """Since when each replica has had a request waiting, on average; ``None`` when it has not now."""
    if waiting is None or waiting < 1.0:
        return None
    return min(known.full_since_s, now_s) if known.full_since_s is not None else now_s


def _window(before: tuple[Count, ...], now: float | None, now_s: float, window_s: float) -> tuple[Count, ...]:
    """Running requests of the window; empty when they are not known now."""
    if now is None:
        return ()
    past = tuple(count for count in before if now_s - window_s <= count.at_s < now_s)
    return (*past, Count(at_s=now_s, value=now))


def _peak(before: float | None, now: float | None, keep: float, elapsed: float) -> float | None:
    """A maximum that forgets: ``before * keep``, drawn towards ``now`` where that is higher."""
    if before is None:
        return now
    kept = before * keep
    return kept if now is None or now <= kept else kept + (now - kept) * (1.0 - math.exp(-elapsed))
