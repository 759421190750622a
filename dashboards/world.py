"""The fleet as one record, put together from frames: what the overview shows and the sentence speaks of. Pure."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import pandas as pd

from dashboards import queries, scaling
from fleet.hardware import GPUS
from fleet.slo import Slo, SloBook
from wva import plain

RECENT_S: Final = 60.0
"""A promise is judged over the newest minute, so that the sentence speaks of now."""

BURN_S: Final = 300.0
"""The burn shown is that of the newest five minutes, the short window of the fastest alert."""

KV: Final = "vllm:kv_cache_usage_perc"
WAITING: Final = "vllm:num_requests_waiting"
RUNNING: Final = "vllm:num_requests_running"
PREEMPTIONS: Final = "vllm:num_preemptions_total"
GENERATION: Final = "generation_tps"
PROMPT: Final = "prompt_tps"
HIT_RATIO: Final = "prefix_hit_ratio"
SATURATION: Final = "wva_saturation_utilization"
DESIRED: Final = "wva_desired_replicas"
CURRENT: Final = "wva_current_replicas"
REQUESTED: Final = "requested_replicas"
COST: Final = "fleet_wva_cost_dollars_per_hour"

FLEET_SIGNALS: Final = (KV, WAITING, RUNNING, GENERATION, SATURATION, DESIRED, CURRENT, REQUESTED, COST)


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """One latency promise, and how it is kept now."""

    name: str
    limit_s: float
    objective: float
    p_now_s: float | None
    """The promised percentile over the newest minute."""
    attained: float | None
    """Share of requests within the limit, whole window."""
    burn: float | None = None
    """How many times too fast its error budget goes, over the newest minutes; 1 spends it exactly."""
    broken_since_s: float | None = None
    """Since when the promise is missed, while the newest minute misses it; None: kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelState:
    """A model with its promises."""

    name: str
    promises: tuple[Promise, ...] = ()
    requests: int = 0
    success: float | None = None
    success_target: float | None = None
    good: float | None = None
    """Share of requests that met every promise."""
    waiting: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantState:
    """A variant with its newest figures; None is not known."""

    name: str
    model: str = ""
    accelerator: str = ""
    ready: int | None = None
    wanted: int | None = None
    requested: int | None = None
    saturation: float | None = None
    kv: float | None = None
    waiting: float | None = None
    generation_tps: float | None = None
    cost_per_hour: float | None = None
    reason: str = ""
    said: str = ""
    """The last decision in plain words."""
    detail: str = ""
    """The same in the controller's own words."""
    decision: int | None = None
    """Its number."""
    thresholds: tuple[float, float] | None = None
    """Saturation below and above which the controller acts; None: it goes by latency targets."""
    decided_s: float | None = None

    @property
    def starting(self) -> int:
        """Replicas asked for that are not ready yet."""
        asked = self.requested if self.requested is not None else self.wanted
        return 0 if asked is None or self.ready is None else max(0, asked - self.ready)


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertState:
    """An alert that fires."""

    name: str
    severity: str
    since_s: float
    message: str = ""
    model: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """Everything that the overview's sentence may speak of."""

    now_s: float
    span_s: float
    newest_s: float | None
    models: tuple[ModelState, ...] = ()
    variants: tuple[VariantState, ...] = ()
    alerts: tuple[AlertState, ...] = ()
    parts_down: Mapping[str, float] = field(default_factory=dict)
    """Part that does not answer -> since when, Unix seconds."""
    last_trouble_s: float | None = None
    """End of the newest alert in the window; None: there was none."""


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _count(value: object) -> int | None:
    number = _number(value)
    return None if number is None else round(number)


def broken_since(series: pd.DataFrame, objective: float, *, fewest: int = 3) -> float | None:
    """Start of the last stretch of bins that all miss the objective, if it reaches to the newest bin with requests.

    Args:
        series: ``bin_s``, ``value`` (attainment) and ``n``, by time; bins of fewer than ``fewest`` are skipped.
        objective: share promised.
    """
    if series.empty:
        return None
    judged = series["n"].to_numpy(dtype=float) >= fewest
    starts, kept = series["bin_s"].to_numpy()[judged], series["value"].to_numpy(dtype=float)[judged] >= objective
    missed = len(kept) if not kept.any() else int(np.argmax(kept[::-1]))  # bins since the last one that kept it
    return float(starts[-missed]) if missed else None


def promises(
    slo: Slo, bins: pd.DataFrame, latencies: pd.DataFrame, *, until_s: float, told: Mapping[str, float] | None = None
) -> tuple[Promise, ...]:
    """The latency promises of one model against its request bins and single latencies.

    Args:
        told: promise -> its percentile now, seconds, where the source has no single requests.
    """
    found = []
    recent = latencies[latencies["done_s"] >= until_s - RECENT_S] if len(latencies) else latencies
    for name in ("ttft", "tpot", "e2e"):
        target = getattr(slo, name)
        if target is None:
            continue
        now = queries.percentile(recent, f"{name}_s", target.objective)
        now = (told or {}).get(name) if now is None else now
        since = broken_since(_coarse_attainment(bins, name), target.objective)
        found.append(
            Promise(
                name=name.upper(),
                limit_s=target.threshold_s,
                objective=target.objective,
                p_now_s=now,
                attained=queries.attainment(bins, name),
                burn=queries.burn_rate(bins, name, target.objective, since_s=until_s - BURN_S),
                broken_since_s=None if now is None or now <= target.threshold_s else since or until_s - RECENT_S,
            )
        )
    return tuple(found)


def _coarse_attainment(bins: pd.DataFrame, promise: str, *, width_s: float = 15.0) -> pd.DataFrame:
    if bins.empty:
        return pd.DataFrame(columns=["bin_s", "value", "n"])
    coarse = bins.assign(bin_s=(bins["bin_s"] // width_s) * width_s)
    starts = coarse["bin_s"].drop_duplicates().sort_values().to_numpy()
    return queries.attainment_over_time(coarse, promise, starts)


def model_states(
    names: list[str],
    slos: SloBook,
    bins: pd.DataFrame,
    latencies: pd.DataFrame,
    signals: pd.DataFrame,
    *,
    until_s: float,
    told: Mapping[tuple[str, str], float] | None = None,
) -> tuple[ModelState, ...]:
    """One state a model; ``told`` as in :func:`promises`, by model and promise."""
    since_s = queries.fresh_since(signals)
    waiting = queries.newest(queries.pick(signals, WAITING), by=("model", "variant", "endpoint"), since_s=since_s)
    states = []
    for name in names:
        own = bins[bins["model"] == name] if len(bins) else bins
        rows = latencies[latencies["model"] == name] if len(latencies) else latencies
        slo = slos.of(name)
        queued = waiting[waiting["model"] == name]["value"] if len(waiting) else pd.Series(dtype=float)
        states.append(
            ModelState(
                name=name,
                promises=promises(slo, own, rows, until_s=until_s, told=_of_model(told, name)),
                success=queries.success_rate(own),
                requests=int(own["requests"].sum()) if len(own) else 0,
                success_target=slo.success_rate,
                good=queries.attainment(own, "good"),
                waiting=float(queued.sum()) if len(queued) else None,
            )
        )
    return tuple(states)


def _of_model(told: Mapping[tuple[str, str], float] | None, model: str) -> dict[str, float]:
    return {promise: value for (name, promise), value in (told or {}).items() if name == model}


def variant_states(variants: pd.DataFrame, signals: pd.DataFrame, last: pd.DataFrame) -> tuple[VariantState, ...]:
    """One state a variant from the newest signals and its last decision."""
    decided: dict[str, dict[Hashable, Any]] = {str(row["variant"]): row for row in last.to_dict("records")}
    by = ("variant", "signal", "endpoint")
    newest = queries.newest(signals, by=by, since_s=queries.fresh_since(signals))
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for row in newest.to_dict("records"):
        found.setdefault((row["variant"], row["signal"]), []).append((float(row["mean"]), float(row["high"])))
    return tuple(
        _variant_state(str(row["variant"]), str(row["model"]), str(row["accelerator"]), found,
                       decided.get(str(row["variant"]), {}))
        for row in variants.to_dict("records")
    )  # fmt: skip


def _variant_state(
    name: str, model: str, accelerator: str, newest: Mapping[tuple[str, str], list[tuple[float, float]]],
    decision: Mapping[Hashable, Any],
) -> VariantState:  # fmt: skip
    def means(signal: str) -> list[float]:
        return [mean for mean, _ in newest.get((name, signal), ()) if math.isfinite(mean)]

    def only(signal: str) -> float | None:
        highs = [high for _, high in newest.get((name, signal), ()) if math.isfinite(high)]
        return highs[-1] if highs else None

    kv, waiting, generation = means(KV), means(WAITING), means(GENERATION)
    ready = _count(only(CURRENT)) if only(CURRENT) is not None else _count(decision.get("current"))
    wanted = _count(only(DESIRED)) if only(DESIRED) is not None else _count(decision.get("desired"))
    saturation = only(SATURATION)
    return VariantState(
        name=name,
        model=model,
        accelerator=accelerator,
        ready=ready,
        wanted=wanted,
        requested=_count(only(REQUESTED)),
        saturation=saturation if saturation is not None else _number(decision.get("saturation")),
        kv=sum(kv) / len(kv) if kv else None,
        waiting=sum(waiting) if waiting else None,
        generation_tps=sum(generation) if generation else None,
        cost_per_hour=_cost(only(COST), accelerator, ready),
        reason=str(decision.get("reason", "")),
        said=plain.sentence(decision) if decision else "",
        detail=str(decision.get("detail", "")),
        decision=_count(decision.get("id")),
        thresholds=scaling.thresholds(decision),
        decided_s=_number(decision.get("at_s")),
    )


def _cost(reported: float | None, accelerator: str, ready: int | None) -> float | None:
    """What the controller reports, else the list price of one GPU a replica."""
    if reported is not None:
        return reported
    gpu = GPUS.get(accelerator)
    return None if gpu is None or ready is None else gpu.price_per_hour * ready


def firing(spells: pd.DataFrame) -> tuple[AlertState, ...]:
    """The alerts that fire, critical ones first."""
    rows = spells[spells["to_s"].isna()] if len(spells) else spells
    found = [
        AlertState(
            name=str(row["alert"]),
            severity=str(row["severity"]),
            since_s=float(row["from_s"]),
            message=str(row["message"]),
            model=str(row["model"]),
        )
        for row in rows.to_dict("records")
    ]
    return tuple(sorted(found, key=lambda alert: (alert.severity != "critical", alert.since_s)))


def last_trouble(spells: pd.DataFrame) -> float | None:
    """When the newest alert that is over ended."""
    ended = spells["to_s"].dropna() if len(spells) else pd.Series(dtype=float)
    return float(ended.max()) if len(ended) else None
