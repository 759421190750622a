"""Ours on a fleet whose step times no table has, with and without what the predictor learns beside it.

    python -m benchmarks.autoscaling.taught --workload slo_episode --seeds 1,2,3

The engines are those of the workload; the autoscaler is told a name of a model or GPU that nobody knows. The router's
samples of the run itself teach the predictor from nothing, in virtual time, as in production.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Final

import click
from threadpoolctl import threadpool_limits

from benchmarks.autoscaling import arms, workloads
from benchmarks.autoscaling.case import Case
from benchmarks.autoscaling.ours import BEHAVIOR, EPOCH_S, OursWish
from benchmarks.autoscaling.run import learn, prepare
from benchmarks.autoscaling.score import score
from benchmarks.autoscaling.world import World
from fleet.types import FittedLaw, VariantSpec
from predictor.fit import MIN_SAMPLES, fit_once
from predictor.model import LatencyModel
from predictor.pool import Pool
from predictor.published import fitted_laws
from predictor.samples import Sample, dataset
from simulator.cluster import Outcome
from simulator.engine import Engine
from simulator.sequence import EngineRequest
from simulator.sequence import Sequence as Progress

REFIT_S: Final = 60.0
"""Production looks every 5 s."""
MAX_ROWS: Final = 1000
OTHER: Final = 1000
"""Added to a seed: requests of the kind that taught the predictor before."""
HOW: Final = ("not", "beside", "before")
"""Without a predictor, one that begins with the run, one that knows the engines from before."""
NAMES: Final = {
    "table": ("", ""),
    "unknown GPU": ("", "nobody-knows"),
    "unknown model and GPU": ("nobody-knows", "nobody-knows"),
}
"""What the autoscaler is told in place of model and GPU; empty: the truth."""


class Teacher:
    """The predictor beside a run."""

    def __init__(self) -> None:
        self.pool, self._fitted_at = Pool(MAX_ROWS), 0
        self.model: LatencyModel | None = None

    def fit(self, now_s: float) -> None:
        """As often as something new came."""
        samples = self.pool.samples()
        if len(samples) < MIN_SAMPLES or self.pool.accepted - self._fitted_at < 10:
            return
        self._fitted_at = self.pool.accepted
        with threadpool_limits(1):
            found = fit_once(dataset(samples), now_s=EPOCH_S + now_s, served=self.model, boosting=False)
        self.model = found.model or self.model

    def laws(self) -> Mapping[str, FittedLaw]:
        """See :class:`wva.collect.LawReader`."""
        return fitted_laws(self.model) if self.model else {}


class TaughtWorld(World):
    """A world whose router writes down what it knew at dispatch and what came of it."""

    def __init__(self, case: Case, arm: arms.Arm, *, seed: int, teacher: Teacher) -> None:
        super().__init__(case, arm, seed=seed)
        self._teacher = teacher
        self._features: dict[str, tuple[float, ...]] = {}
        self._at: dict[str, tuple[Engine, EngineRequest]] = {}
        self._answering: dict[str, Progress] = {}
        self._cluster.every(REFIT_S, teacher.fit, start_s=REFIT_S)

    def _choose(self, request: EngineRequest, engines: Sequence[Engine], now_s: float) -> int:
        index = super()._choose(request, engines, now_s)
        engine, name = engines[index], request.request_id
        here = [(key, one) for key, (at, one) in self._at.items() if at is engine]
        pending = sum(one.prompt_tokens for key, one in here if key not in self._answering)
        came = sum(engine.delivered_tokens(self._answering[key]) for key, _ in here if key in self._answering)
        seen = self._by_engine[engine].samples
        scraped = (seen[-1].waiting, seen[-1].running, seen[-1].kv_usage) if seen else (0.0, 0.0, 0.0)
        context = sum(one.prompt_tokens for _, one in here) + came
        self._features[name] = (float(request.prompt_tokens), 0.0, float(pending), float(len(here)), float(context),
                                *map(float, scraped))  # fmt: skip
        self._at[name] = engine, request
        return index

    def _first_token(self, number: int, progress: Progress, now_s: float) -> None:
        super()._first_token(number, progress, now_s)
        self._answering[progress.request.request_id] = progress

    def _ended(self, outcome: Outcome) -> None:
        super()._ended(outcome)
        name, gaps = outcome.request_id, outcome.output_tokens - 1
        self._answering.pop(name, None)
        self._at.pop(name, None)
        features = self._features.pop(name, None)
        if outcome.ok and features is not None:
            self._teacher.pool.add(Sample(
                features=features, ttft_s=outcome.ttft_s, endpoint=f"http://replica-{outcome.engine}:8000",
                tpot_s=(outcome.e2e_s - outcome.ttft_s) / gaps if gaps > 0 else None, variant="pool",
                output_tokens=outcome.output_tokens,
            ))  # fmt: skip


@click.command()
@click.option("--workload", default="slo_episode", show_default=True)
@click.option("--scale", default=1.0)
@click.option("--seeds", default="1,2,3", show_default=True)
@click.option("--traces", type=click.Path(path_type=Path), envvar="FLEET_TRACES")
def main(workload: str, scale: float, seeds: str, traces: Path | None) -> None:
    """One line of JSON a run."""
    make, _ = workloads.find(workload, scale, [traces] if traces else [])
    for seed in map(int, seeds.split(",")):
        first = make(seed)
        setting = prepare(first, learn(first, seed), seed)
        case = setting.context.case
        before = _taught_before(make(seed + OTHER), setting.context.peak, seed)
        for name, (model, gpu) in NAMES.items():
            for how in HOW if gpu else HOW[:1]:
                teacher = before if how == "before" else Teacher()
                laws = None if how == "not" else teacher.laws
                arm = arms.Published("ours", OursWish(case, told=partial(_renamed, model, gpu), laws=laws), BEHAVIOR)
                world = (
                    TaughtWorld(case, arm, seed=seed, teacher=teacher)
                    if how == "beside"
                    else World(case, arm, seed=seed)
                )
                found = score(case, world.run(), setting.need, setting.context.best)
                click.echo(json.dumps({"workload": workload, "seed": seed, "told": name, "taught": how,
                                       **{key: round(value, 3) for key, value in asdict(found).items()}}))  # fmt: skip


def _taught_before(case: Case, replicas: int, seed: int) -> Teacher:
    """Who watched as many replicas as the peak takes, all the time, on other requests of the kind."""
    teacher = Teacher()
    TaughtWorld(case, arms.Fixed(replicas), seed=seed, teacher=teacher).run()
    return teacher


def _renamed(model: str, gpu: str, spec: VariantSpec) -> VariantSpec:
    return replace(spec, model=model or spec.model, accelerator=gpu or spec.accelerator)


if __name__ == "__main__":
    main()
