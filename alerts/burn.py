"""Error budgets: multi-window, multi-burn-rate alerts on latency and success. Pure.

Windows and shares follow the SRE workbook (chapter 5): an alert fires when a share of the whole budget burns within
its long window, and still burns in its short one. With a budget of 30 days the factors are 14.4, 6, 3 and 1.
Short rates are recorded once; longer windows sum these, so that a long ratio is one of sums, not a mean of ratios.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from alerts.algebra import Expr, Number, Over, Select, both, duration
from alerts.buckets import LATENCIES, Latency, bound_matcher
from alerts.model import Alert, Recording, Severity, recorded
from alerts.recording import MODEL, rate_of
from alerts.store import Matchers
from alerts.text import percent
from fleet import signals as s
from fleet.errors import ConfigError
from fleet.signals import Layer, Signal
from fleet.slo import CLIENT_STATUSES, DEFAULT_MODEL, LatencyTarget, Slo, SloBook

MIN_RPS: Final = 0.1
"""Below 30 requests in five minutes one slow request is a large share: no burn-rate alert."""

CLIENT_FAULTS: Final = f"!~{'|'.join(map(str, CLIENT_STATUSES))}|BadRequest"
"""Error codes that are the client's doing (or its leaving), not a broken promise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Burn:
    """One pair of windows."""

    long_s: float
    short_s: float
    share: float
    """Of the whole budget, burnt within the long window."""
    for_s: float
    severity: Severity

    def factor(self, budget_s: float) -> float:
        """Burn rate that the share means: 14.4 for 2 % of 30 days within an hour."""
        return self.share * budget_s / self.long_s


BURNS: Final = (
    Burn(long_s=3_600, short_s=300, share=0.02, for_s=120, severity=Severity.CRITICAL),
    Burn(long_s=21_600, short_s=1_800, share=0.05, for_s=900, severity=Severity.CRITICAL),
    Burn(long_s=86_400, short_s=7_200, share=0.10, for_s=3_600, severity=Severity.WARNING),
    Burn(long_s=259_200, short_s=21_600, share=0.10, for_s=10_800, severity=Severity.WARNING),
)
WINDOWS_S: Final = tuple(sorted({window for burn in BURNS for window in (burn.long_s, burn.short_s)}))
_BASE_S: Final = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One entry of the SLO file with the models it speaks for."""

    slo: Slo
    models: Matchers
    """Selects the entry's models: its own, or all that have no entry."""

    @property
    def label(self) -> str:
        """Value of the label ``slo``: the entry's name."""
        return "default" if self.slo.model == DEFAULT_MODEL else self.slo.model


def entries(book: SloBook) -> tuple[Entry, ...]:
    """The default entry (for all models without one) and each model's."""
    others = "|".join(re.escape(name) for name in sorted(book.models))
    default = Entry(slo=book.default, models=(("model_name", f"!~{others}"),) if others else ())
    return (default, *(Entry(slo=slo, models=(("model_name", name),)) for name, slo in sorted(book.models.items())))


@dataclass(frozen=True, slots=True, kw_only=True)
class Indicator:
    """What is counted: all requests, and those that broke the promise."""

    name: str
    """For the recorded series: ``ttft``."""
    title: str
    """For people: ``TTFT``."""
    alert: str
    requests: Expr
    good: Expr
    objective: float
    promise: str
    """In words: "TTFT under 200ms for 95%"."""
    tree: str


def _measured(latency: Latency, target: LatencyTarget, models: Matchers) -> tuple[Expr, Expr]:
    """(requests, requests within the limit), each from the router, else from engines that have the bound."""
    le, found = bound_matcher(target.threshold_s), []
    for signal, matchers in ((latency.router, latency.router_matchers), (latency.engine, ())):

        def buckets(bound: tuple[str, str], signal: Signal = signal, matchers: Matchers = matchers) -> Expr:
            return rate_of(signal, _BASE_S, (bound, *matchers, *models), "_bucket")

        within = buckets(le)
        whole = buckets(("le", "+Inf")).matching("and", within, ignoring=("le",))
        found.append((whole.by(*MODEL), within.by(*MODEL)))
    (all_router, good_router), (all_engine, good_engine) = found
    return all_router.matching("or", all_engine, "model_name"), good_router.matching("or", good_engine, "model_name")


def _latency_indicator(latency: Latency, entry: Entry) -> Indicator | None:
    if (target := latency.target(entry.slo)) is None:
        return None
    requests, good = _measured(latency, target, entry.models)
    title = latency.key.upper()
    return Indicator(name=latency.key, title=title, alert=f"{title}ErrorBudgetBurn", requests=requests, good=good,
                     objective=target.objective, tree="ttft_high" if latency.key == "ttft" else "throughput_low",
                     promise=f"{title} under {target.threshold_s:g} s for {percent(target.objective)}")  # fmt: skip


def _success_indicator(entry: Entry) -> Indicator | None:
    if entry.slo.success_rate is None:
        return None
    requests = rate_of(s.ROUTER_REQUESTS, _BASE_S, entry.models).by(*MODEL)
    errors = rate_of(s.ROUTER_ERRORS, _BASE_S, (("error_code", CLIENT_FAULTS), *entry.models)).by(*MODEL)
    return Indicator(name="success", title="Success", alert="SuccessErrorBudgetBurn", requests=requests,
                     good=requests - errors.matching("or", requests * 0), objective=entry.slo.success_rate,
                     promise=f"success for {percent(entry.slo.success_rate)}", tree="errors_high")  # fmt: skip


def indicators(entry: Entry) -> Iterator[Indicator]:
    """What an entry promises about single requests."""
    for latency in LATENCIES:
        if (indicator := _latency_indicator(latency, entry)) is not None:
            yield indicator
    if (success := _success_indicator(entry)) is not None:
        yield success


def _series(name: str, what: str, window_s: float, unit: str) -> Signal:
    return recorded(f"model:{name}_{what}:{duration(window_s)}", unit, f"{name}: {what} over {duration(window_s)}.",
                    *MODEL, "slo", layer=Layer.BUSINESS)  # fmt: skip


def requests_series(indicator: str) -> Signal:
    """Recorded rate of requests an indicator counts."""
    return _series(indicator, "requests_rate", _BASE_S, "requests/s")


def bad_ratio_series(indicator: str, window_s: float) -> Signal:
    """Recorded share of requests that broke the promise."""
    return _series(indicator, "bad_ratio", window_s, "ratio")


def burn_recordings(book: SloBook) -> Iterator[Recording]:
    """Rates and ratios of all indicators, in the order they are to be evaluated."""
    for entry in entries(book):
        own, labels = (("slo", entry.label),), {"slo": entry.label}
        for indicator in indicators(entry):
            requests, good = requests_series(indicator.name), _series(indicator.name, "good_rate", _BASE_S, "1/s")
            yield Recording(signal=requests, expr=indicator.requests, labels=labels)
            yield Recording(signal=good, expr=indicator.good, labels=labels)
            for window_s in WINDOWS_S:
                served, asked = (Over("sum_over_time", rate, window_s, own) for rate in (good, requests))
                bad: Expr = Number(1.0) - served / (asked > 0)
                if window_s == _BASE_S:
                    bad = Number(1.0) - Select(good, own) / (Select(requests, own) > 0)
                yield Recording(signal=bad_ratio_series(indicator.name, window_s), expr=bad, labels=labels)


def budget_s(slo: Slo) -> float:
    """Length of the budget's window, seconds.

    Raises: ConfigError when ``window`` is no duration of days, hours or minutes.
    """
    match = re.fullmatch(r"(\d+)([dhm])", slo.window)
    if match is None or int(match[1]) == 0:
        raise ConfigError(f"window {slo.window!r} is no duration", where=f"SLO of {slo.model}", limit="30d, 720h",
                          next_step="Write a whole number of days, hours or minutes.")  # fmt: skip
    return int(match[1]) * {"d": 86_400.0, "h": 3_600.0, "m": 60.0}[match[2]]


def burn_alerts(book: SloBook) -> Iterator[Alert]:
    """Four alerts for each indicator of each entry; a factor whose limit is 100 % or more can never fire: left out."""
    for entry in entries(book):
        for indicator in indicators(entry):
            for burn in BURNS:
                limit = (1 - indicator.objective) * burn.factor(budget_s(entry.slo))
                if limit < 1:
                    yield _burn_alert(entry, indicator, burn, limit)


def _condition(entry: Entry, indicator: Indicator, burn: Burn, limit: float) -> Expr:
    own = (("slo", entry.label),)
    windows = (burn.long_s, burn.short_s)
    long, short = (Select(bad_ratio_series(indicator.name, window), own) > limit for window in windows)
    return both(both(long, short), Select(requests_series(indicator.name), own) > MIN_RPS)


_CHECK: Final[dict[str, Sequence[str]]] = {
    "success": ("Errors by code at the router: which code, since when.", "Engines that restarted, vanished or refuse."),
    "": ("The diagnosis tree below, at the time the burn began.", "What changed: a release, a scaling, traffic."),
}


def _burn_alert(entry: Entry, indicator: Indicator, burn: Burn, limit: float) -> Alert:
    long, short = duration(burn.long_s), duration(burn.short_s)
    factor = burn.factor(budget_s(entry.slo))
    return Alert(
        name=indicator.alert, expr=_condition(entry, indicator, burn, limit), for_s=burn.for_s, severity=burn.severity,
        layer=Layer.BUSINESS, group="l1_business", tree=indicator.tree,
        labels={"long_window": long, "short_window": short},
        summary=f"<model_name> burns its {indicator.title} error budget at least {factor:.3g} times too fast",
        description=f"<value:percent> of the requests to <model_name> broke the promise ({indicator.promise}) over "
        f"{long}, and more than {percent(limit)} still do over {short}: {percent(burn.share)} of the "
        f"{entry.slo.window} budget is gone in {long}.",
        means=f"More requests break the {indicator.title} promise than the error budget allows. The fast windows page, "
        "the slow ones open a ticket; both windows of a pair must agree, so it resolves soon after the cause is gone.",
        check=tuple(_CHECK.get(indicator.name, _CHECK[""])),
        do=("Follow the diagnosis; until it is found, add replicas or shed the lowest priority.",
            "If the promise itself is wrong for this model, give it an entry of its own in alerts/slos.yaml."),
    )  # fmt: skip
