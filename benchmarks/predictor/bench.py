"""``fleet bench predictor``: errors, intervals, an unseen slow endpoint, regret and the time a prediction takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple
from statistics import fmean
from typing import Any, Final

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.options import Bench, BenchOptions
from benchmarks.parallel import spread
from benchmarks.predictor.cases import Case, case, slowed
from benchmarks.predictor.floor import Floor, floors
from benchmarks.predictor.record import Recorder, Recording, candidates
from benchmarks.predictor.service import Served, coverage, serve, width, width_of
from benchmarks.predictor.speed import Speed, measure
from benchmarks.predictor.traffic import arrivals
from benchmarks.result import Bar, Outcome, Plot, Series, Table
from fleet.errors import ConfigError
from predictor.baselines import METHODS, Fitted, Method, lmetric, ours, token_load, upstream
from predictor.evaluate import GAP_ROWS, TEST_SHARE, Point, learning_curve, score_of
from predictor.model import TARGETS
from predictor.quantile_net import quantile_net
from predictor.samples import Dataset, dataset

REQUESTS: Final = 5100
SLOW_REQUESTS: Final = 2600
SIZES: Final = (20, 100, 1000, 3000)
METHOD_NAMES: Final = ("ours", "upstream", "token-load", "lmetric")
SLOWER: Final = 1.8
KNOWN_ROWS: Final = 1000
FIRST_ROWS: Final = 10
GROUPS: Final = ("all", "idle", "queued")
_UNCOUNTED: Final = 150
"""A group with fewer rows, over all seeds, says nothing of a coverage within two points."""


def run(options: BenchOptions) -> Outcome:
    """The bench.

    Raises: ConfigError for a workload file: its worlds are drawn by seed; or, with ``extra``, where torch is missing.
    """
    if options.workload:
        raise ConfigError("the predictor bench draws its own worlds", limit="no --workload; --seeds and --scale",
                          next_step="Use fleet predictor evaluate on the history of a replayed workload.")  # fmt: skip
    with threadpool_limits(1):
        found = [_seed(seed, options, index) for index, seed in enumerate(options.seeds)]
    options.progress(0.6, "what nobody can predict")
    worlds = [one["case"] for one in found]
    least = spread(floors, worlds, jobs=options.jobs, tell=lambda share, one: options.progress(
        0.6 + 0.35 * share, f"seed {one.seed}: what nobody can predict"))  # fmt: skip
    with threadpool_limits(1):
        options.progress(0.97, "time of a prediction")
        speed = measure(found[0]["model_rows"])
    return _judged(found, least, speed)


def _seed(seed: int, options: BenchOptions, index: int) -> dict[str, Any]:
    share = 0.6 / len(options.seeds)

    def tell(part: float, what: str) -> None:
        options.progress((index + part) * share, f"seed {seed}: {what}")

    one = case(seed, requests=REQUESTS, scale=options.scale)
    tell(0.0, "traffic")
    recording = recorded(one)
    data = dataset(list(recording.samples))
    tell(0.1, "learning curve")
    methods: dict[str, Method] = {name: METHODS[name] for name in METHOD_NAMES}
    if options.extra:
        methods["quantile-net"] = quantile_net
    points = learning_curve(data, sizes=SIZES, methods=methods)
    tell(0.4, "intervals as served")
    served = serve(recording.samples)
    tell(0.8, "unseen slow endpoint")
    return {"case": one, "points": points, "served": served, "rival": _rival(data), "slow": _slow(one),
            "regret": regrets(recording), "model_rows": data}  # fmt: skip


def recorded(one: Case) -> Recording:
    """A case's run; some decisions of its second half are tried at every candidate."""
    rng = np.random.default_rng([one.seed, 5])
    half = one.traffic.requests // 2
    tried = rng.choice(np.arange(half, one.traffic.requests), size=min(12, half), replace=False).tolist()
    traffic = arrivals(one.traffic, np.random.default_rng([one.seed, 11]))
    return Recorder(one.fleet, seed=one.seed, choices=tried).run(traffic)


def _rival(data: Dataset) -> dict[str, float]:
    """Width of upstream's interval at 90 % coverage, trained on the older rows, by target."""
    start = round(len(data) * (1 - TEST_SHARE))
    test, fitted = data.take(np.arange(start, len(data))), upstream(data.take(np.arange(start - GAP_ROWS)))
    found = {}
    for target in TARGETS:
        rows = test.take(np.flatnonzero(test.observed(target)))
        low, high = fitted.band(rows, target) or (rows.target(target),) * 2
        found[target] = width_of(rows.target(target), np.minimum(low, high), np.maximum(low, high), 0.9)
    return found


def _slow(one: Case) -> dict[str, float]:
    """MAPE at a pod 1.8x slower that training had not seen: at once, and after ten of its samples."""
    world = slowed(one, SLOWER, requests=SLOW_REQUESTS)
    samples = Recorder(world.fleet, seed=one.seed).run(
        arrivals(world.traffic, np.random.default_rng([one.seed, 13]))).samples  # fmt: skip
    data = dataset(list(samples))
    names = np.array(data.endpoints)
    slow = f"http://pod-{world.fleet.pods - 1}"
    others = np.flatnonzero(names != slow)[:KNOWN_ROWS]
    own = np.flatnonzero(names == slow)
    own = own[own > others[-1]]
    test = data.take(own[FIRST_ROWS:])
    found = {}
    for label, known in (("unseen", others), ("after", np.sort(np.concatenate((others, own[:FIRST_ROWS]))))):
        fitted = ours(data.take(known))
        for target in TARGETS:
            found[f"{target}_{label}"] = 100.0 * (score_of(fitted, test, target).mape or np.nan)
    return found


def regrets(recording: Recording) -> dict[str, dict[str, float]]:
    """By method: extra time to first token against the best candidate, and how often it names that one.

    The truth is a clone of each engine at that moment, stepped without noise. Methods learn from the rows that had come
    back before the first of these decisions.
    """
    choices = [one for one in recording.choices if np.isfinite(one.ttft_s).all()]
    if not choices:
        return {}
    known = dataset(list(recording.samples[: min(one.position for one in choices)]))
    fitted: dict[str, Fitted] = {"ours": ours(known), "upstream": upstream(known), "token-load": token_load(known),
              "lmetric": lmetric(known)}  # fmt: skip
    lost: dict[str, list[tuple[float, bool]]] = {name: [] for name in (*fitted, "router's default")}
    for one in choices:
        rows = candidates(known, one.rows)
        best = float(one.ttft_s.min())
        picks = {name: int(np.argmin(method.point(rows, "ttft"))) for name, method in fitted.items()}
        picks["router's default"] = one.chosen
        for name, pick in picks.items():
            lost[name].append((float(one.ttft_s[pick]) - best, bool(one.ttft_s[pick] <= 1.02 * best)))
    return {name: {"regret_ms": 1000.0 * fmean(extra for extra, _ in found), "agree_pct": 100.0 * fmean(
        hit for _, hit in found)} for name, found in lost.items()}  # fmt: skip


# ---- judgement


def _judged(found: Sequence[dict[str, Any]], least: Sequence[Mapping[str, Floor]], speed: Speed) -> Outcome:
    curve = _curve(found)
    names = list(dict.fromkeys(name for name, _, _ in curve))
    groups, endpoints = _coverages([one["served"] for one in found])
    slow = {name: fmean(one["slow"][name] for one in found) for name in found[0]["slow"]}
    widths = {target: {"ours": fmean(width(one["served"], target, 0.9) for one in found),
                       "upstream": fmean(one["rival"][target] for one in found)} for target in TARGETS}  # fmt: skip
    bars = {
        f"{target}_mape_{n}": Bar(value=_rounded(curve["ours", target, n]), unit="%", limit=f"<= {limit}")
        for target, n, limit in (("ttft", 100, 25), ("ttft", 3000, 18), ("tpot", 100, 20), ("tpot", 3000, 14))
    }
    bars["unseen_slow_mape_10"] = Bar(value=_rounded(slow["ttft_after"]), unit="%", limit="<= 22")
    for name, found_pct, limit in (("group", groups.values(), "88..92"), ("endpoint", endpoints, "85..95")):
        worst = max(found_pct, key=lambda pct: abs(pct - 90.0))
        bars[f"coverage_90_worst_{name}"] = Bar(value=_rounded(worst), unit="%", limit=limit)
    bars["predict_100_p50_us"] = Bar(value=round(speed.p50_us, 1), unit="us", limit="< 60")
    bars["predict_100_p99_us"] = Bar(value=round(speed.p99_us, 1), unit="us", limit="< 200")
    results = {
        "cases": {one["case"].seed: one["case"].name for one in found},
        "curve_mape_pct": {f"{name} {target} {n}": _rounded(value) for (name, target, n), value in curve.items()},
        "by_seed_mape_pct": {one["case"].seed: _by_seed(one["points"]) for one in found},
        "coverage_pct": {name: _rounded(pct) for name, pct in groups.items()},
        "coverage_by_endpoint_pct": {"lowest": _rounded(min(endpoints)), "highest": _rounded(max(endpoints))},
        "width_at_90_pct_coverage": widths, "unseen_slow_mape_pct": {k: _rounded(v) for k, v in slow.items()},
        "floor_mape_pct": {one["case"].seed: {name: asdict(floor) for name, floor in floor_of.items()}
                           for one, floor_of in zip(found, least, strict=True)},
        "regret": _regret(found), "speed": speed.to_json(),
        "served_by": {one["case"].seed: one["served"].rungs for one in found},
    }  # fmt: skip
    tables = [*_tables(found, curve, groups, endpoints, widths=widths, speed=speed), _floor_table(found, least)]
    return Outcome(results=results, bars=bars, tables=tables, plots=_plots(curve, names), notes=_NOTES)  # fmt: skip


_NOTES: Final = (
    "Each seed draws model, GPU, pods, lengths, shared prefixes, waves and mean load; steps have 5 % noise, tiles of "
    "16 sequences and rare stalls, none of which the predictor's formulas know.",
    "Curve: trained on the n rows before a gap of 20, tested on the newest 40 %. Coverage: as served, refitted every "
    "200 rows and recalibrated every 20, over all seeds. Upstream: its features and settings in scikit-learn's trees.",
    "Floor: decisions split into futures that are drawn anew (arrivals, noise, this answer's length); the best "
    "prediction knows the law, all queues and the lengths of the answers under way. Judged by the futures it was made "
    "from it is too good, by others too bad: the truth is between.",
)


def _curve(found: Sequence[dict[str, Any]]) -> dict[tuple[str, str, int], float]:
    values: dict[tuple[str, str, int], list[float]] = {}
    for one in found:
        for point in one["points"]:
            if point.regime == "all" and point.score.mape is not None:
                values.setdefault((point.method, point.target, point.n), []).append(100.0 * point.score.mape)
    return {key: fmean(some) for key, some in values.items()}


def _by_seed(points: Sequence[Point]) -> dict[str, float]:
    return {f"{one.target} {one.n}": round(100.0 * one.score.mape, 1) for one in points
            if one.method == "ours" and one.regime == "all" and one.score.mape is not None}  # fmt: skip


def _coverages(served: Sequence[Served]) -> tuple[dict[str, float], list[float]]:
    """By target and group over all seeds; and of every endpoint of every seed (both targets)."""
    groups: dict[str, float] = {}
    endpoints: list[float] = []
    for target in TARGETS:
        for group in GROUPS:
            parts = [coverage(one, target, None if group == "all" else one.queued == (group == "queued"))
                     for one in served]  # fmt: skip
            rows = sum(part.rows for part in parts)
            if rows >= _UNCOUNTED:
                groups[f"{target} {group}"] = 100.0 * sum(part.hits for part in parts) / rows
        for one in served:
            names = np.array(one.endpoints)
            endpoints += [coverage(one, target, names == name).pct or 0.0 for name in sorted(set(one.endpoints))]
    return groups, endpoints


def _regret(found: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    names = list(found[0]["regret"])
    return {name: {figure: round(fmean(one["regret"][name][figure] for one in found if name in one["regret"]), 1)
                   for figure in ("regret_ms", "agree_pct")} for name in names}  # fmt: skip


def _tables(
    found: Sequence[dict[str, Any]], curve: dict[tuple[str, str, int], float], groups: dict[str, float],
    endpoints: Sequence[float], *, widths: dict[str, dict[str, float]], speed: Speed,
) -> list[Table]:  # fmt: skip
    lines = [[name, target, *(_rounded(curve.get((name, target, n))) for n in SIZES)]
             for target in TARGETS for name in dict.fromkeys(name for name, _, _ in curve)]  # fmt: skip
    covered = [[name, _rounded(pct)] for name, pct in groups.items()]
    covered.append(["endpoints, lowest to highest", f"{min(endpoints):.1f} to {max(endpoints):.1f}"])
    lost = [[name, row["regret_ms"], row["agree_pct"]] for name, row in _regret(found).items()]
    return [
        Table(title="MAPE by training rows, per cent", columns=["method", "target", *map(str, SIZES)], rows=lines),
        Table(title="Coverage of 90 % intervals as served, per cent", columns=["group", "coverage"], rows=covered),
        Table(title="Width at equal coverage (mean log of upper over lower)", columns=["target", "ours", "upstream"],
              rows=[[target, round(one["ours"], 3), round(one["upstream"], 3)] for target, one in widths.items()]),
        Table(title="Decisions against clones of every engine", columns=["method", "regret, ms", "agrees, %"],
              rows=lost),
        Table(title="Time of a prediction", columns=["what", "p50", "p99"], rows=speed.rows()),
        Table(title="Worlds", columns=["seed", "world"],
              rows=[[one["case"].seed, one["case"].name] for one in found]),
    ]  # fmt: skip


def _floor_table(found: Sequence[dict[str, Any]], least: Sequence[Mapping[str, Floor]]) -> Table:
    rows = [[one["case"].seed, name, *(_rounded(value) for value in astuple(floor_of[name]))]
            for one, floor_of in zip(found, least, strict=True) for name in TARGETS]  # fmt: skip
    means = [["all", name, *(_rounded(fmean(values)) for values in zip(*(astuple(one[name]) for one in least),
                                                                        strict=True))] for name in TARGETS]  # fmt: skip
    return Table(
        title="What nobody can predict: MAPE by a prediction that knows all but the future, per cent",
        columns=["seed", "target", "floor, at least", "floor, at most", "ours there"],
        rows=rows + means,
    )


def _plots(curve: dict[tuple[str, str, int], float], names: Sequence[str]) -> list[Plot]:
    return [
        Plot(title=f"{target.upper()} error by training rows", x_label="training rows", y_label="MAPE, %", log_y=True,
             series=[Series(name=name, x=[float(n) for n in SIZES if (name, target, n) in curve],
                            y=[curve[name, target, n] for n in SIZES if (name, target, n) in curve])
                     for name in names])
        for target in TARGETS
    ]  # fmt: skip


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)


BENCH: Final = Bench(
    name="predictor", what="errors, intervals and cost of latency predictions in worlds drawn by seed",
    bars=("ttft_mape_100", "ttft_mape_3000", "tpot_mape_100", "tpot_mape_3000", "unseen_slow_mape_10",
          "coverage_90_worst_group", "coverage_90_worst_endpoint", "predict_100_p50_us", "predict_100_p99_us"), run=run,
)  # fmt: skip
