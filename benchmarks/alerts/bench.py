"""``fleet bench alerts``: faults into a fleet's pages, through the rules, the inhibitions and the trees."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from alerts.alertmanager import GROUP_BY, muted
from alerts.algebra import Expr, vector
from alerts.diagnosis import diagnose
from alerts.evaluate import Evaluator, Instance, State
from alerts.facts import evidence
from alerts.ingest import Ingest
from alerts.model import Rulebook, Severity
from alerts.rules import rulebook
from alerts.store import Labels, SeriesStore
from alerts.trees import TREES
from benchmarks.alerts.faults import FAULTS, SICK, WELL, Fault
from benchmarks.alerts.world import STEP_S, Shape, World
from benchmarks.options import Bench, BenchOptions
from benchmarks.result import Bar, Outcome, Table
from fleet.slo import DEFAULT_SLOS

WARM_S = 4_200.0
"""Longer than the longest window of a page that the bench waits for (an hour)."""
FAULT_S = 1_500.0
HEALTHY_S = 3_600.0
NAMES = ("faults_paged_right", "false_pages_per_hour", "diagnosis_first_right")


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """An alert that was not inhibited when it was first told."""

    at_s: float
    name: str
    severity: str
    labels: Mapping[str, str]
    tree: str


@dataclass(slots=True)
class Run:
    """A world with all rules over it; every alert is evaluated, also those of exporters."""

    world: World
    store: SeriesStore = field(default_factory=SeriesStore)
    told: list[Told] = field(default_factory=list)
    now_s: float = 0.0
    _ingest: Ingest = field(init=False)
    _evaluator: Evaluator = field(init=False)
    _seen: set[tuple[str, Labels]] = field(default_factory=set)

    def __post_init__(self) -> None:
        rules = rulebook(DEFAULT_SLOS)
        whole = Rulebook(recordings=rules.recordings, alerts=tuple(replace(a, local=True) for a in rules.alerts))
        self._ingest, self._evaluator = Ingest(self.store), Evaluator(whole, keep_s=1e9)

    def advance(self, seconds: float) -> None:
        """Live, scrape, evaluate, and note what is told."""
        for _ in range(round(seconds / STEP_S)):
            self.now_s += STEP_S
            self.world.step(self.now_s)
            pages = list(self.world.pages())
            for target, points in pages:
                self._ingest.scraped(target, points, self.now_s)
            self._ingest.forget_all_but({target.url for target, _ in pages}, self.now_s)
            self._evaluator.step(self.store, self.now_s)
            self._notify()

    def _notify(self) -> None:
        firing = [item for item in self._evaluator.active() if item.state is State.FIRING]
        labels = [_named(item) for item in firing]
        for item, own in zip(firing, labels, strict=True):
            key = (item.alert.key, item.labels)
            if key not in self._seen and not muted(own, labels):
                self._seen.add(key)
                self.told.append(Told(at_s=self.now_s, name=item.alert.name, severity=own["severity"], labels=own,
                                      tree=item.alert.tree))  # fmt: skip

    def ask(self, expr: Expr, at_s: float) -> float | None:
        """The one value of an expression."""
        return next(iter(vector(expr, self.store, at_s).values()), None)


def _named(item: Instance) -> dict[str, str]:
    return {"alertname": item.alert.name, **dict(item.labels)}


def pages(told: list[Told]) -> int:
    """Notifications that wake somebody: groups of critical alerts."""
    critical = [item for item in told if item.severity == Severity.CRITICAL]
    return len({tuple(item.labels.get(name, "") for name in GROUP_BY) for item in critical})


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What became of one fault."""

    fault: Fault
    told: list[Told]
    right: Told | None
    cause: str
    """Where the tree of the right alert ended when it was told."""

    @property
    def paged_right(self) -> bool:
        """The right alert on the right subject and in time, one page at most, and nothing about the other model."""
        others = [item for item in self.told if any(str(v).startswith(WELL) for v in item.labels.values())]
        return (
            self.right is not None and not others and pages(self.told) <= 1
            and self.right.at_s - WARM_S <= self.fault.within_s
        )  # fmt: skip

    @property
    def diagnosed(self) -> bool:
        """Whether the injected cause was named first."""
        return self.cause == self.fault.cause

    def row(self) -> tuple[object, ...]:
        """For the table."""
        others = sorted({item.name for item in self.told} - {self.right.name if self.right else ""})
        return (self.fault.name, self.right.name if self.right else "-", self.right.severity if self.right else "-",
                self.fault.layer, self.right.at_s - WARM_S if self.right else None, self.fault.within_s,
                pages(self.told), ", ".join(others) or "-", "yes" if self.paged_right else "NO", self.cause or "-",
                "yes" if self.diagnosed else "NO")  # fmt: skip


def try_fault(fault: Fault, *, seed: int) -> Verdict:
    """Warm up, inject, and wait."""
    run = Run(World(seed=seed, shape=Shape.drawn(seed)))
    run.advance(WARM_S)
    run.told.clear()
    fault.inject(run.world)
    right, cause, subject = None, "", fault.subject(run.world)
    for _ in range(round(FAULT_S / STEP_S)):
        run.advance(STEP_S)
        right = next((item for item in run.told if _is_right(item, fault, subject)), None)
        if right is not None and not cause:
            model = right.labels.get("model_name", SICK)
            cause = diagnose(TREES[right.tree], evidence(run.ask, model=model, at_s=run.now_s)).cause
    return Verdict(fault=fault, told=list(run.told), right=right, cause=cause)


def _is_right(item: Told, fault: Fault, subject: Mapping[str, str]) -> bool:
    return item.name in fault.alerts and all(item.labels.get(label) == value for label, value in subject.items())


def healthy(*, seed: int) -> list[Told]:
    """What is told in an hour of healthy traffic, with a whole day's swing of load within it."""
    run = Run(World(seed=seed, day_s=HEALTHY_S, shape=Shape.drawn(seed)))
    run.advance(WARM_S)
    run.told.clear()
    run.advance(HEALTHY_S)
    return run.told


def _run(options: BenchOptions) -> Outcome:
    verdicts, false, hours = [], 0, 0.0
    for number, seed in enumerate(options.seeds):
        options.progress(number / len(options.seeds), f"seed {seed}: an hour of health")
        false, hours = false + len(healthy(seed=seed)), hours + HEALTHY_S / 3_600
        for fault in FAULTS:
            options.progress(number / len(options.seeds), f"seed {seed}: {fault.name}")
            verdicts.append(try_fault(fault, seed=seed))
    return _outcome(verdicts, false / hours, options.seeds)


def _worst(verdicts: list[Verdict], seeds: int, what: str) -> float:
    """The seed with the fewest faults that are right."""
    size = len(verdicts) // seeds
    return float(min(sum(getattr(v, what) for v in verdicts[i * size : (i + 1) * size]) for i in range(seeds)))


def _outcome(verdicts: list[Verdict], false_per_hour: float, seeds: tuple[int, ...]) -> Outcome:
    right, diagnosed = (_worst(verdicts, len(seeds), what) for what in ("paged_right", "diagnosed"))
    columns = ("fault", "told as", "severity", "layer", "after, s", "limit, s", "pages", "told beside it", "right",
               "diagnosed first", "right cause")  # fmt: skip
    first = verdicts[: len(FAULTS)]
    return Outcome(
        results={"faults": len(FAULTS), "seeds": list(seeds), "rows": [verdict.row() for verdict in verdicts]},
        bars={
            "faults_paged_right": Bar(value=right, unit=f"of {len(FAULTS)}", limit=f">= {len(FAULTS)}"),
            "false_pages_per_hour": Bar(value=false_per_hour, unit="alerts/h", limit="<= 0"),
            "diagnosis_first_right": Bar(value=diagnosed, unit=f"of {len(FAULTS)}", limit=">= 13"),
        },
        tables=(Table(title=f"Faults, seed {seeds[0]}", columns=columns, rows=[verdict.row() for verdict in first]),),
        notes=(
            "Figures are those of the worst seed; health counts tickets as well as pages.",
            "The pages are made by a fluid model of two models with three pods each, in virtual time; rules, "
            "inhibitions and trees are those that ship. Right: the expected alert, on the expected subject, within "
            "the limit, in one page at most (tickets: none), and nothing about the other model.",
            "A slow picker is injected so that TTFT stays within its promise. A slower one (60 ms in the mean) also "
            "pages for the TTFT of each model, which is true, but is one page a model and not one.",
            "Faults, limits and the trees' questions were written by the same authors: this shows that the chain "
            "works, not how it does on faults nobody thought of.",
        ),
    )  # fmt: skip


BENCH = Bench(name="alerts", what="15 injected faults page rightly, health stays quiet, diagnosis names the cause",
              bars=NAMES, run=_run)  # fmt: skip
