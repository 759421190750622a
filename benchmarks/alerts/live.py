"""``fleet bench alerts-live``: the same faults through a real Prometheus and a real Alertmanager, in real time.

Windows and waits of the shipped rules are divided by :data:`SCALE`; a world of its own, with a Prometheus of its own,
is hit by each fault, and one stays healthy. A second part measures how long a real Prometheus takes to evaluate the
rules, as shipped, over 50 models and 1,000 pods.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import requests

from alerts.rules import rulebook
from benchmarks.alerts.faults import FAULTS, WELL, Fault
from benchmarks.alerts.pages import Notification, Pages
from benchmarks.alerts.stack import fleet_of, prometheus
from benchmarks.alerts.world import Shape, World
from benchmarks.options import Bench, BenchOptions
from benchmarks.result import Bar, Outcome, Table
from fleet.slo import DEFAULT_SLOS

SCALE: Final = 30.0
STEP_S: Final = 1.0
HEALTHY: Final = "healthy"
SLACK_S: Final = 8.0
"""Beside the scaled limit: one scrape, one evaluation, Alertmanager's grouping, delivery, and a busy machine."""
MODELS, PODS_EACH = 50, 20
EVERY_S: Final = 5.0
NAMES: Final = ("live_faults_paged_right", "live_false_notifications", "rules_eval_s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What became of one fault."""

    fault: Fault
    after_s: float | None
    """From the injection to the first notification with the right alert on the right subject, real seconds."""
    pages: int
    others: tuple[str, ...]
    well: tuple[str, ...]
    """Alerts about the model that is well."""

    @property
    def limit_s(self) -> float:
        """Within which it must be told, real seconds."""
        return self.fault.within_s / SCALE + SLACK_S

    @property
    def right(self) -> bool:
        """Told in time, one page at most, nothing about the other model."""
        return self.after_s is not None and self.after_s <= self.limit_s and self.pages <= 1 and not self.well

    def row(self) -> tuple[object, ...]:
        """For the table."""
        return (self.fault.name, "/".join(self.fault.alerts), self.after_s, self.limit_s, self.pages,
                ", ".join(self.others) or "-", "yes" if self.right else "NO")  # fmt: skip


def name_of(fault: Fault) -> str:
    """The world (and cluster) of a fault."""
    return fault.name.lower().replace(" ", "-")


def judge(fault: Fault, world: World, told: Sequence[Notification], *, injected_s: float) -> Seen:
    """Read the notifications of one world."""
    mine = [one for one in told if one.alerts[0].get("cluster") == name_of(fault) and one.at_s >= injected_s]
    subject = fault.subject(world)

    def is_right(labels: object) -> bool:
        return isinstance(labels, dict) and labels["alertname"] in fault.alerts and subject.items() <= labels.items()

    first = next((one for one in mine if any(is_right(labels) for labels in one.alerts)), None)
    names = {labels["alertname"] for one in mine for labels in one.alerts}
    well = {labels["alertname"] for one in mine for labels in one.alerts
            if any(str(value).startswith(WELL) for value in labels.values())}  # fmt: skip
    return Seen(fault=fault, after_s=None if first is None else first.at_s - injected_s,
                pages=len({one.group for one in mine if one.receiver == "page"}),
                others=tuple(sorted(names - set(fault.alerts))), well=tuple(sorted(well)))  # fmt: skip


def play(
    faults: Sequence[Fault],
    folder: Path,
    *,
    seed: int,
    warm_s: float,
    fault_s: float,
    said: Callable[[float, str], None] = lambda _share, _what: None,
) -> tuple[list[Seen], list[Notification]]:
    """Warm up, inject all faults at once, each into its own world, and wait.

    Returns: what became of each, and what was told of health (the healthy world, and all before the injection).
    """
    shape = Shape.drawn(seed)
    shape = replace(shape, phase_s=shape.phase_s - time.time())  # the day begins with the run
    worlds = {name: World(seed=seed, step_s=STEP_S, shape=shape) for name in (HEALTHY, *map(name_of, faults))}
    with Pages() as pages:
        _step(worlds, pages)
        with fleet_of(list(worlds), folder, pages.port, scale=SCALE, interval_s=STEP_S):
            _live(worlds, pages, warm_s, lambda share: said(share / 2, "warming up"))
            for fault in faults:
                fault.inject(worlds[name_of(fault)])
            injected_s = time.time()
            _live(worlds, pages, fault_s, lambda share: said(0.5 + share / 2, "faults are in"))
        told = list(pages.told)
    seen = [judge(fault, worlds[name_of(fault)], told, injected_s=injected_s) for fault in faults]
    return seen, [one for one in told if one.at_s < injected_s or one.alerts[0].get("cluster") == HEALTHY]


def _step(worlds: dict[str, World], pages: Pages) -> None:
    for name, world in worlds.items():
        world.step(time.time())
        pages.show(name, world.pages())


def _live(worlds: dict[str, World], pages: Pages, seconds: float, said: Callable[[float], None]) -> None:
    begun = time.monotonic()
    for number in range(round(seconds / STEP_S)):
        time.sleep(max(0.0, begun + (number + 1) * STEP_S - time.monotonic()))
        _step(worlds, pages)
        said(number * STEP_S / seconds)


def evaluation(folder: Path, *, seconds: float, said: Callable[[float, str], None]) -> list[dict[str, float]]:
    """Seconds that each group of the shipped rules took, over 50 models and 1,000 pods; one dict a look."""
    world = World(seed=1, step_s=EVERY_S, models=tuple(f"model-{i:02}" for i in range(MODELS)), pods_each=PODS_EACH)
    looks: list[dict[str, float]] = []
    rules = rulebook(DEFAULT_SLOS)
    with Pages() as pages:
        world.step(time.time())
        pages.show("large", world.pages())
        with prometheus(folder / "large", f"127.0.0.1:{pages.port}", "large", rules=rules, interval_s=EVERY_S) as url:
            begun = time.monotonic()
            while (passed := time.monotonic() - begun) < seconds:
                time.sleep(EVERY_S)
                world.step(time.time())
                pages.show("large", world.pages())
                said(passed / seconds, "1,000 pods")
                if passed > seconds / 2:
                    groups = requests.get(f"{url}/api/v1/rules", timeout=10).json()["data"]["groups"]
                    looks.append({group["name"]: float(group["evaluationTime"]) for group in groups})
            held = requests.get(f"{url}/api/v1/query", params={"query": "count(up == 1)"}, timeout=10).json()
            _must_be_whole(held)
    return looks


def _must_be_whole(answer: dict[str, object]) -> None:
    value = int(answer["data"]["result"][0]["value"][1])  # type: ignore[index]
    if value < MODELS * PODS_EACH:
        raise RuntimeError(f"only {value} targets were scraped: the measurement would flatter")


def _run(options: BenchOptions) -> Outcome:
    with tempfile.TemporaryDirectory() as place:
        folder, false = Path(place), 0
        seen: list[Seen] = []
        for seed in options.seeds:
            found, quiet = play(FAULTS, folder / str(seed), seed=seed, warm_s=125, fault_s=60, said=options.progress)
            seen, false = seen + found, false + len(quiet)
        looks = evaluation(folder, seconds=360, said=options.progress)
    return _outcome(seen, false, looks, options.seeds)


def _outcome(seen: list[Seen], false: int, looks: list[dict[str, float]], seeds: tuple[int, ...]) -> Outcome:
    size = len(FAULTS)
    right = min(sum(one.right for one in seen[i * size : (i + 1) * size]) for i in range(len(seeds)))
    sums = sorted(sum(look.values()) for look in looks)
    columns = ("fault", "expected", "told after, s", "limit, s", "pages", "told beside it", "right")
    groups = [(name, max(look[name] for look in looks)) for name in sorted(looks[0])]
    return Outcome(
        results={"rows": [one.row() for one in seen], "evaluation_s": looks, "scale": SCALE,
                 "evaluation_s_median": sums[len(sums) // 2]},
        bars={
            "live_faults_paged_right": Bar(value=float(right), unit=f"of {size}", limit=f">= {size}"),
            "live_false_notifications": Bar(value=float(false), unit="notifications", limit="<= 0"),
            "rules_eval_s": Bar(value=sums[-1], unit="s per interval", limit="< 1"),
        },
        tables=(
            Table(title=f"Faults on a real Prometheus and Alertmanager, time divided by {SCALE:.0f}", columns=columns,
                  rows=[one.row() for one in seen]),
            Table(title="Evaluation of the shipped rules, 50 models and 1,000 pods, slowest of all looks",
                  columns=("group", "seconds"), rows=groups),
        ),
        notes=(
            f"Scrapes and evaluations every second; windows, waits and grouping are those shipped, divided by "
            f"{SCALE:.0f}. Limit: the fault's own, divided likewise, plus {SLACK_S:.0f} s.",
            "The evaluation runs the shipped rules unscaled over 1,000 targets scraped every 5 s; the value is the "
            "slowest sum over all groups of one interval.",
        ),
    )  # fmt: skip


BENCH = Bench(name="alerts-live", what="the faults through a real Prometheus and Alertmanager; rule evaluation time",
              bars=NAMES, run=_run)  # fmt: skip
