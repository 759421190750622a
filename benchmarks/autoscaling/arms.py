"""The arms: each turns what is known of the pool into replicas to ask for. Pure.

An arm that acts through an HPA gives the HPA a wish; the HPA damps it. A wish that is *published* (a controller's
metric, scraped and then read) reaches the HPA one sync later than it was made.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from benchmarks.autoscaling import hpa
from benchmarks.autoscaling.case import Case, lone_ttft_s
from benchmarks.autoscaling.need import Bearing
from benchmarks.autoscaling.oracle import Best
from benchmarks.autoscaling.pool import Pool, Seen, arrival_rate, latency_quantiles, mean_tokens, peak
from benchmarks.autoscaling.rules import aibrix, dynamo, keda, upstream
from simulator.tokens import BLOCK_TOKENS

SCRAPE_S: Final = 15.0


class Arm(Protocol):
    """A way to scale."""

    @property
    def name(self) -> str:
        """For tables."""
        ...

    @property
    def interval_s(self) -> float:
        """Seconds between two steps."""
        ...

    @property
    def scrape_s(self) -> float:
        """Seconds between two scrapes of each target."""
        ...

    @property
    def initial(self) -> int | None:
        """Replicas at the start; ``None``: as the case says."""
        ...

    def step(self, pool: Pool) -> int:
        """Replicas to ask for now."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What an arm may be made from: the case, and a replica's capacity where a rule needs a profile of it."""

    case: Case
    bearing: Bearing
    best: Best
    peak: int
    """Replicas of the static arm."""


Wish = Callable[[Pool], int]


class Fixed:
    """Always the upper bound: sized for the peak."""

    name, interval_s, scrape_s = "static-peak", 60.0, SCRAPE_S

    def __init__(self, replicas: int) -> None:
        self._replicas = self.initial = replicas

    def step(self, pool: Pool) -> int:
        """See :class:`Arm`."""
        return pool.bounds.clip(self._replicas)


class Hpa:
    """A wish behind a Horizontal Pod Autoscaler that works it out at each sync, as KEDA's formulas are."""

    interval_s, initial = hpa.SYNC_S, None

    def __init__(self, name: str, wish: Wish, behavior: hpa.Behavior, *, scrape_s: float = SCRAPE_S) -> None:
        self.name, self.scrape_s = name, scrape_s
        self._wish, self._damper = wish, hpa.Damper(behavior)

    def step(self, pool: Pool) -> int:
        """See :class:`Arm`."""
        return self._damper.ask(self._wish(pool), pool.requested, now_s=pool.now_s, bounds=pool.bounds)


class Published:
    """A controller that publishes its wish as a metric; an HPA reads it half an interval later.

    With ``late`` the HPA reads what was published one pass earlier: a Prometheus and an adapter lie between them.
    """

    interval_s, initial, scrape_s = hpa.SYNC_S / 2, None, SCRAPE_S

    def __init__(self, name: str, wish: Wish, behavior: hpa.Behavior, *, late: bool = False) -> None:
        self.name = name
        self._wish, self._damper, self._late = wish, hpa.Damper(behavior), late
        self._metrics: tuple[int, ...] = ()
        self._sync = False

    def step(self, pool: Pool) -> int:
        """See :class:`Arm`; passes and syncs take turns."""
        self._sync = not self._sync
        if self._sync:
            self._metrics = (*self._metrics[-1:], self._wish(pool))
            return pool.requested
        wanted = hpa.average_value(self._metrics[0 if self._late else -1], 1.0, pool.requested)
        return self._damper.ask(wanted, pool.requested, now_s=pool.now_s, bounds=pool.bounds)


def cpu_wish(pool: Pool, target: float = 0.8) -> int:
    """Utilisation at Kubernetes' default target of 80 %: the share of time in which an engine has work."""
    used = [_busy(seen) for seen in pool.ready]
    known = [share for share in used if share is not None]
    return hpa.utilisation(known, target, starting=pool.requested - len(known)) if known else pool.requested


def _busy(seen: Seen) -> float | None:
    if len(seen.samples) < 2:
        return None
    before, last = seen.samples[-2:]
    return min((last.busy_s - before.busy_s) / (last.at_s - before.at_s), 1.0)


def queue_wish(pool: Pool) -> int:
    """The queue guide's two triggers; what waits in engines stands for the picker's flow-control queue."""
    queued = sum(seen.last.waiting for seen in pool.ready if seen.last)
    in_flight = pool.router[-1].in_flight if pool.router else 0.0
    return keda.queue_replicas(queued, in_flight, pool.requested, keda.QueueRule())


class SloWish:
    """The SLO-aware guide: recording rules, smoothing, law."""

    def __init__(self, case: Case) -> None:
        self._slo, self._law = case.slo, keda.SloLaw()
        self._signals: tuple[tuple[float, float], ...] = ()

    def __call__(self, pool: Pool) -> int:
        law = self._law
        ttft_s, tpot_s = latency_quantiles(pool, law.quantile, law.rate_window_s)
        raw = keda.slo_signal(ttft_s, tpot_s, ttft_slo_s=self._slo.ttft_s, tpot_slo_s=self._slo.tpot_s,
                              clamp=law.clamp)  # fmt: skip
        self._signals = (*(one for one in self._signals if one[0] > pool.now_s - law.smooth_s), (pool.now_s, raw))
        signal = keda.smoothed(self._signals, pool.now_s, law.smooth_s)
        return keda.slo_replicas(signal, pool.requested, len(pool.ready), law)


PEAK_S: Final = 60.0
"""The upstream analyzers read the peak of the last minute."""


def _peaks(pool: Pool) -> list[tuple[float, float]]:
    """KV utilisation and queue of each ready replica that was scraped."""
    found = []
    for seen in pool.ready:
        usage = peak(seen.samples, "kv_usage", pool.now_s, PEAK_S)
        if usage is not None:
            found.append((usage, peak(seen.samples, "waiting", pool.now_s, PEAK_S) or 0.0))
    return found


class V1Wish:
    """Upstream V1."""

    def __init__(self) -> None:
        self._desired = 0

    def __call__(self, pool: Pool) -> int:
        wanted = upstream.v1_replicas(_peaks(pool), current=pool.requested, desired=self._desired,
                                      pending=pool.pending, config=upstream.V1Config())  # fmt: skip
        self._desired = pool.bounds.clip(wanted)
        return self._desired


class V2Wish:
    """Upstream V2."""

    def __init__(self, case: Case) -> None:
        self._kv_tokens = float(case.fleet.config.blocks * BLOCK_TOKENS)
        self._state = upstream.V2State()

    def __call__(self, pool: Pool) -> int:
        tokens = self._kv_tokens
        seen = [upstream.V2Replica(kv_usage=kv, kv_tokens=tokens, queue=queue) for kv, queue in _peaks(pool)]
        mean_in, mean_out = mean_tokens(pool, 300.0) or (0.0, 0.0)
        wanted, self._state = upstream.v2_replicas(
            seen, current=pool.requested, pending=pool.pending, mean_in=mean_in, mean_out=mean_out,
            low=pool.bounds.low, state=self._state, config=upstream.V2Config(),
        )  # fmt: skip
        return pool.bounds.clip(wanted)


class Kpa:
    """AIBrix KPA on KV utilisation; it scrapes and scales by itself."""

    name, interval_s, scrape_s, initial = "aibrix-kpa", 15.0, SCRAPE_S, None

    def __init__(self) -> None:
        self._config = aibrix.KpaConfig()
        self._state: aibrix.KpaState | None = None
        self._sums: tuple[tuple[float, float], ...] = ()

    def step(self, pool: Pool) -> int:
        """See :class:`Arm`."""
        total = sum(seen.last.kv_usage for seen in pool.ready if seen.last)
        config = self._config
        kept = (one for one in self._sums if one[0] > pool.now_s - config.stable_s)
        self._sums = (*kept, (pool.now_s, total))
        stable = keda.smoothed(self._sums, pool.now_s, config.stable_s)
        panic = keda.smoothed(self._sums, pool.now_s, config.panic_s)
        state = self._state or aibrix.first(pool.requested, now_s=pool.now_s, config=config)
        wanted, self._state = aibrix.kpa_replicas(stable, panic, pool.requested, state, now_s=pool.now_s, config=config)
        return pool.bounds.clip(aibrix.kpa_guarded(wanted, total, current=pool.requested, ready=len(pool.ready),
                                                   target=config.target))  # fmt: skip


class Apa:
    """AIBrix APA on KV utilisation."""

    name, interval_s, scrape_s, initial = "aibrix-apa", 15.0, SCRAPE_S, None

    def __init__(self) -> None:
        self._config = aibrix.ApaConfig()
        self._changed_s = float("-inf")

    def step(self, pool: Pool) -> int:
        """See :class:`Arm`."""
        since_s, config = pool.now_s - self._config.window_s, self._config
        used = [sample.kv_usage for seen in pool.ready for sample in seen.samples if sample.at_s > since_s]
        if not used:
            return pool.requested
        mean = sum(used) / len(used)
        wanted = aibrix.apa_replicas(mean, pool.requested, config)
        wanted = pool.bounds.clip(aibrix.guarded(wanted, mean, current=pool.requested, ready=len(pool.ready),
                                                 target=config.target))  # fmt: skip
        if wanted < pool.requested and pool.now_s - self._changed_s < config.down_cooldown_s:
            return pool.requested
        if wanted != pool.requested:
            self._changed_s = pool.now_s
        return wanted


class Planner:
    """Forecast floor and reactive loop after Dynamo's planner."""

    name, interval_s, scrape_s, initial = "dynamo", 5.0, 5.0, None

    def __init__(self, context: Context) -> None:
        self._config = dynamo.PlannerConfig()
        self._rps, self._latency = context.bearing.rps, _latency(context.case)
        self._history: list[float] = []
        self._floor, self._due_s = 1, self._config.forecast_s

    def step(self, pool: Pool) -> int:
        """See :class:`Arm`."""
        if pool.now_s >= self._due_s:
            self._due_s += self._config.forecast_s
            self._forecast(pool)
        if pool.pending:
            return pool.requested
        floor = max(self._floor, pool.bounds.low)
        mean = mean_tokens(pool, self._config.forecast_s)
        workers = [dynamo.Worker(queued_tokens=seen.last.waiting * mean[0],
                                 kv_tokens=seen.last.kv_usage * self._latency.max_kv_tokens)
                   for seen in pool.ready if seen.last] if mean else []  # fmt: skip
        if len(workers) != len(pool.ready) or not workers:
            return pool.bounds.clip(max(pool.requested, floor))
        return pool.bounds.clip(max(dynamo.load_replicas(workers, self._latency, self._config), floor))

    def _forecast(self, pool: Pool) -> None:
        interval_s = self._config.forecast_s
        rate = arrival_rate(pool, interval_s)
        if rate is None:
            return
        self._history.append(rate * interval_s)
        self._floor = dynamo.throughput_replicas(dynamo.forecast(self._history), interval_s, self._rps)


def _latency(case: Case) -> dynamo.Latency:
    """Latencies by the engine's own step times: better than any regression of them."""
    config = case.fleet.config
    requests = case.requests[:1000]
    if requests:
        own = sum(one.input_tokens for one in requests) / len(requests)
    else:
        own = case.curve.mean_input if case.curve else 0.0
    context = max(own, 1.0)

    def itl_s(kv_tokens: float) -> float:
        return config.timer.step_s(decoding=round(kv_tokens / context), context=round(kv_tokens))

    def ttft_s(queued: float, kv_tokens: float) -> float:
        return lone_ttft_s(config, round(own + queued)) + itl_s(kv_tokens)

    return dynamo.Latency(ttft_s=ttft_s, itl_s=itl_s, ttft_slo_s=case.slo.ttft_s, itl_slo_s=case.slo.tpot_s,
                          max_kv_tokens=float(config.blocks * BLOCK_TOKENS))  # fmt: skip


class Forecast:
    """The perfect forecast: asks for what the clairvoyant will serve with, one start-up time ahead."""

    name, interval_s, scrape_s, initial = "perfect-forecast", 5.0, SCRAPE_S, None

    def __init__(self, context: Context) -> None:
        self._best, self._lead_s = context.best, context.case.fleet.startup_s[1] + self.interval_s

    def step(self, pool: Pool) -> int:
        """See :class:`Arm`."""
        return pool.bounds.clip(self._best.asked(pool.now_s, self._lead_s))
