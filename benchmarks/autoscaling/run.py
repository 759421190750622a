"""``fleet bench autoscaling``: every arm on every seed of a workload, beside the clairvoyant."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import numpy as np

from benchmarks.autoscaling import arms, coarse, findings, hpa, need, oracle, workloads
from benchmarks.autoscaling.arms import Arm, Context
from benchmarks.autoscaling.case import Case, fitting
from benchmarks.autoscaling.findings import FORECAST, OURS, Setting
from benchmarks.autoscaling.fluid import Fluid
from benchmarks.autoscaling.oracle import Counts
from benchmarks.autoscaling.ours import BEHAVIOR, OursWish
from benchmarks.autoscaling.rules import keda, upstream
from benchmarks.autoscaling.score import Score, score
from benchmarks.autoscaling.surface import Surface, measure
from benchmarks.autoscaling.trail import Trail
from benchmarks.autoscaling.world import World
from benchmarks.options import Bench, BenchOptions
from benchmarks.result import Outcome
from simulator.workload import TimedRequest

SAMPLE: Final = 5000
"""Requests that stand for a workload when a replica's capacity is measured."""
HEADROOMS: Final = (1.0, 1.05, 1.1, 1.15, 1.2, 1.25, 1.3, 1.4, 1.5)
"""Tried in turn until the perfect forecast attains what is promised."""
ARMS: Final[Mapping[str, Callable[[Context], Arm]]] = {
    "static-peak": lambda context: arms.Fixed(context.peak),
    "hpa-cpu": lambda _context: arms.Hpa("hpa-cpu", arms.cpu_wish, hpa.DEFAULT),
    "keda-queue": lambda _context: arms.Hpa("keda-queue", arms.queue_wish, keda.QUEUE_BEHAVIOR),
    "keda-slo": lambda context: arms.Hpa("keda-slo", arms.SloWish(context.case), keda.SLO_BEHAVIOR, scrape_s=5.0),
    "wva-v1": lambda _context: arms.Published("wva-v1", arms.V1Wish(), upstream.HPA_BEHAVIOR),
    "wva-v2": lambda context: arms.Published("wva-v2", arms.V2Wish(context.case), upstream.HPA_BEHAVIOR),
    "aibrix-kpa": lambda _context: arms.Kpa(),
    "aibrix-apa": lambda _context: arms.Apa(),
    "dynamo": arms.Planner,
    OURS: lambda context: arms.Published(OURS, OursWish(context.case), BEHAVIOR),
    "ours-late": lambda context: arms.Published("ours-late", OursWish(context.case), BEHAVIOR, late=True),
    FORECAST: arms.Forecast,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What is found out once, before any arm runs."""

    bearing: need.Bearing
    surface: Surface | None


def run(options: BenchOptions) -> Outcome:
    """See the module's text."""
    make, note = workloads.find(options.workload, options.scale, [options.traces] if options.traces else [])
    first_seed, total = options.seeds[0], len(options.seeds) * len(ARMS)
    first = make(first_seed)
    options.progress(0.0, "capacity of a replica")
    known = learn(first, first_seed)
    scores: dict[str, list[Score]] = {name: [] for name in ARMS}
    settings: list[Setting] = []
    for number, seed in enumerate(options.seeds):
        setting = prepare(first if number == 0 else make(seed), known, seed)
        for index, (name, arm) in enumerate(ARMS.items()):
            options.progress((number * len(ARMS) + index) / total, f"{name}, seed {seed}")
            trail = play(setting.context.case, arm(setting.context), known, seed)
            scores[name].append(score(setting.context.case, trail, setting.need, setting.context.best))
        settings.append(attaining(setting, known, seed, scores[FORECAST][-1].attainment_pct))
    options.progress(1.0, "checks")
    return findings.outcome(note, settings, scores, _gaps(first, known, first_seed))


def learn(case: Case, seed: int) -> Known:
    """What a replica bears, and for a curve what it does at each number of requests in flight."""
    surface = None
    if case.curve is not None:
        surface = measure(case.fleet.config, case.slo, _drawer(case, seed))
    return Known(bearing=need.sustainable(case, _sample(case, seed), seed), surface=surface)


def prepare(case: Case, known: Known, seed: int) -> Setting:
    """Need, bounds and the clairvoyant's plan of one seed's case.

    Where prompts share prefixes, the pool of the static peak is run first: the clairvoyant counts on the cache hits
    that are found there.
    """
    loads, share = _loads(case, None, seed), 0.0
    case, wanted = _bounded(case, loads, known.bearing)
    if any(one.hash_ids for one in case.requests):
        cached = World(case, arms.Fixed(int(wanted.max())), seed=seed).run().cached
        share = sum(cached) / sum(one.input_tokens for one in case.requests)
        loads = _loads(case, cached, seed)
        case, wanted = _bounded(case, loads, known.bearing)
    best = _best(case, wanted)
    peak = case.fleet.bounds.high if case.drained else int(wanted.max())
    return Setting(context=Context(case=case, bearing=known.bearing, best=best, peak=peak), need=wanted, loads=loads,
                   cached_share=share, attaining=best, headroom=HEADROOMS[0])  # fmt: skip


def play(case: Case, arm: Arm, known: Known, seed: int) -> Trail:
    """One arm's run, in the mode that the case asks for."""
    if known.surface is None:
        return World(case, arm, seed=seed).run()
    return Fluid(case, arm, known.surface, seed=seed).run()


def attaining(setting: Setting, known: Known, seed: int, attained_pct: float) -> Setting:
    """With the cheapest plan of the clairvoyant that keeps the promise: the least headroom over the counted need."""
    context, bounds = setting.context, setting.context.case.fleet.bounds
    for headroom in HEADROOMS:
        if headroom > 1.0:
            best = _best(context.case, need.replicas(setting.loads * headroom, known.bearing.rho, bounds.low))
            trail = play(context.case, arms.Forecast(replace(context, best=best)), known, seed)
            attained_pct = 100.0 * trail.good / max(trail.total, 1.0)
            setting = replace(setting, attaining=best, headroom=headroom)
        if attained_pct >= 100.0 * need.ATTAINED:
            return setting
    return replace(setting, attaining=None)


def _best(case: Case, wanted: Counts) -> oracle.Best:
    return oracle.best(wanted, bin_s=case.bin_s, startup_s=statistics.fmean(case.fleet.startup_s),
                       bounds=case.fleet.bounds, initial=case.fleet.initial)  # fmt: skip


def _gaps(case: Case, known: Known, seed: int) -> list[coarse.Gap]:
    if known.surface is None:
        return []
    context = prepare(coarse.window(case), known, seed).context
    makers = [partial(ARMS[name], context) for name in ARMS]
    return coarse.gaps(context.case, known.surface, makers, seed)


def _loads(case: Case, cached: Sequence[float] | None, seed: int) -> need.Array:
    config = case.fleet.config
    if case.curve is not None:
        return need.curve_load(config, case.curve, bin_s=case.bin_s, rng=np.random.default_rng([seed, 3]))
    lengths = need.Lengths.of(case.requests, cached)
    return need.load(config, lengths, span_s=case.span_s, bin_s=case.bin_s)


def _bounded(case: Case, loads: need.Array, bearing: need.Bearing) -> tuple[Case, Counts]:
    """The case with bounds (the episode brings its own), and the need inside them."""
    if case.drained:
        return case, np.minimum(need.replicas(loads, bearing.rho, case.fleet.bounds.low), case.fleet.bounds.high)
    wanted = need.replicas(loads, bearing.rho, 1)
    early = int((case.settle_s + case.fleet.startup_s[1]) / case.bin_s) + 2
    return workloads.bounded(case, int(wanted.max()), int(wanted[:early].max())), wanted


def _sample(case: Case, seed: int) -> Sequence[TimedRequest]:
    if case.curve is not None:
        return _drawer(case, seed)(SAMPLE)
    return case.requests[:: max(1, len(case.requests) // SAMPLE)]


def _drawer(case: Case, seed: int) -> Callable[[int], Sequence[TimedRequest]]:
    """Draws requests with the lengths of a curve."""
    curve = case.curve
    if curve is None:
        raise ValueError(f"{case.name} has no rate curve")
    config = case.fleet.config

    def draw(count: int) -> Sequence[TimedRequest]:
        rng = np.random.default_rng([seed, count])
        drawn = curve.cycle(rng, 1.2 * (count + 50) / (curve.native_rps * curve.span_s))
        return fitting(drawn, config)[:count]

    return draw


BENCH: Final = Bench(
    name="autoscaling",
    what="autoscalers on the published SLO episode (or --workload) beside the clairvoyant",
    bars=("attainment_pct", "avg_replicas", "gpu_hours_vs_oracle", "scale_events_per_hour", "attainment_pct_min"),
    run=run,
)
