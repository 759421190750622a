"""What the console asks a Prometheus, in PromQL. Pure.

Expressions are those of the alerting rules (:mod:`alerts.recording`, :mod:`alerts.burn`): where Prometheus has loaded
the rules the recorded series is read, else the rule's own expression. Rates are over 5 minutes as in the alerts, over
the bin where that is longer. Pods are told apart by ``workload``: the pod's name without what its controller appended.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from alerts import recording
from alerts.algebra import Agg, Over, Select, any_of
from alerts.buckets import LATENCIES, Latency
from alerts.burn import requests_series
from alerts.model import Recording
from alerts.recording import OWN, POD, now_of, p, rate_of, spelled
from alerts.rules import rulebook
from alerts.store import Matchers
from fleet import signals as s
from fleet.signals import Signal
from fleet.slo import SloBook

RATE_S: Final = 300.0
"""Window of the rules' rates."""
SMOOTHED_S: Final = (60.0, 180.0)
"""Bins of these widths hold a gauge's mean over the bin. Narrower ones may hold no scrape, and wider ones would cost as
many samples as were scraped: both hold the value at their end, so that a week costs no more than an hour."""
SUBJECT: Final = ("namespace", "workload", "model_name")
_POD_SUFFIX: Final = "^(.+?)(?:-[a-z0-9]{6,10}-[a-z0-9]{5}|(?:-[0-9]+){1,2})$"


def good_of(requests: str) -> str:
    """The series of requests that kept a promise, beside that of all it is judged by."""
    return requests.replace("_requests_rate", "_good_rate")


class Rules:
    """The rules of an SLO file as expressions, read from recorded series where Prometheus has them."""

    def __init__(self, book: SloBook) -> None:
        self._by_name: dict[str, list[Recording]] = {}
        for rule in rulebook(book).recordings:
            self._by_name.setdefault(rule.signal.name, []).append(rule)

    @property
    def names(self) -> tuple[str, ...]:
        """Recorded series that pages read."""
        wanted = (recording.QUEUE, recording.KV, recording.OUTPUT_TPS, recording.FINISHED_RPS, recording.TTFT_P95,
                  recording.TPOT_P95)  # fmt: skip
        rates = [requests_series(promise).name for promise in ("ttft", "tpot", "e2e")]
        return (*(one.name for one in wanted), *rates, *(good_of(name) for name in rates))

    def read(self, name: str, width_s: float, present: frozenset[str]) -> str | None:
        """A rule's series as means over bins; None: no rule of this file records it.

        Args:
            name: of the recorded series.
            width_s: of the bins.
            present: recorded series that Prometheus has.
        """
        rules = self._by_name.get(name)
        if not rules:
            return None
        if name in present:
            return f"avg_over_time({name}[{_ms(width_s)}])" if width_s >= SMOOTHED_S[0] else name
        wider = max(1.0, width_s / RATE_S)
        return " or ".join(f"({rule.expr.scaled(wider).promql()})" for rule in rules)


def _ms(seconds: float) -> str:
    return f"{max(round(seconds * 1000), 1)}ms"


def present(names: Sequence[str]) -> str:
    """Which of some series there are: one series a name, without a value that means anything."""
    return 'group by (__name__) ({__name__=~"' + "|".join(names) + '"})'


def _workload(expression: str) -> str:
    """Adds the label ``workload``."""
    return f'label_replace({expression}, "workload", "$1", "pod", "{_POD_SUFFIX}")'


def _gauge(signal: Signal, width_s: float, *, how: str, fold: str, rule: str, only: str) -> str:
    """An engine's gauge by pod: mean (or highest) over the bin, or the value at its end."""
    own: Matchers = (("instance", f"~{only}"),) if only else ()
    names = spelled(signal)
    if rule:
        names = (replace(signal, name=rule, aliases=()),)
    elif signal is s.WAITING:
        own = (*own, *OWN)
    smoothed = SMOOTHED_S[0] <= width_s <= SMOOTHED_S[1]
    each = (Over(f"{how}_over_time", one, width_s, own) if smoothed else Select(one, own) for one in names)
    return f"{fold} by ({', '.join(POD)}) ({any_of(*each).promql()})"


def of_pods(name: str, width_s: float, known: frozenset[str], *, how: str = "avg", only: str = "") -> str | None:
    """An engine's signal by pod; None: engines export no such thing.

    Args:
        name: as the history calls it.
        width_s: of the bins.
        known: recorded series that Prometheus has.
        how: ``avg`` or ``max`` over the bin, for gauges.
        only: for gauges, a regular expression for ``instance``; empty: all.
    """
    rates = {"generation_tps": s.GENERATION_TOKENS, "prompt_tps": s.PROMPT_TOKENS, "request_rps": s.FINISHED,
             s.PREEMPTIONS.name: s.PREEMPTIONS}  # fmt: skip
    gauges = {s.KV_UTILISATION.name: (s.KV_UTILISATION, "max", recording.KV.name),
              s.WAITING.name: (s.WAITING, "sum", recording.QUEUE.name),
              s.RUNNING.name: (s.RUNNING, "sum", "")}  # fmt: skip
    window = max(RATE_S, width_s)
    if name in rates:
        return rate_of(rates[name], window).by(*POD).promql()
    if name == "prefix_hit_ratio":
        hits, asked = (rate_of(one, 2 * window).by(*POD) for one in (s.PREFIX_HITS, s.PREFIX_QUERIES))
        return (hits / (asked > 0)).promql()
    if name in gauges:
        signal, fold, rule = gauges[name]
        return _gauge(signal, width_s, how=how, fold=fold, rule=rule if rule in known else "", only=only)
    return None


ADDED: Final = frozenset({s.WAITING.name, s.RUNNING.name, "generation_tps", "prompt_tps", "request_rps",
                          s.PREEMPTIONS.name})  # fmt: skip
"""Signals of a pod that add up to its workload's."""


def of_workloads(name: str, width_s: float, known: frozenset[str]) -> str | None:
    """An engine's signal by workload: a few series, however many pods there are."""
    pods = of_pods(name, width_s, known)
    fold = "sum" if name in ADDED else "avg"
    return None if pods is None else f"{fold} by ({', '.join(SUBJECT)}) ({_workload(pods)})"


def of_engines(name: str, width_s: float, known: frozenset[str], *, how: str = "avg", only: str = "") -> str | None:
    """The same pod by pod, with the label ``workload``."""
    pods = of_pods(name, width_s, known, how=how, only=only)
    return None if pods is None else _workload(pods)


def of_variants(name: str) -> str | None:
    """A signal of the controller, of the platform or of GPUs; None: none of them exports it."""
    controller = {one.name: one for one in (s.WVA_DESIRED, s.WVA_CURRENT, s.WVA_SATURATION, s.WVA_COST)}
    if name in controller:
        return Agg("max", Select(controller[name]), ("variant_name", "model_name")).promql()
    if name == "requested_replicas":
        asked = Agg("max", Select(s.HPA_DESIRED), ("namespace", "horizontalpodautoscaler")).promql()
        return f'label_replace({asked}, "variant_name", "$1", "horizontalpodautoscaler", "^(.*?)(?:-hpa)?$")'
    if name in s.CATALOGUE and name.startswith("DCGM_"):
        return f"avg by ({', '.join(SUBJECT[:2])}) ({_workload(name)})"
    return None


def engines_now() -> str:
    """How many engines were scraped."""
    return Agg("count", Agg("group", now_of(s.RUNNING), POD[:3])).promql()


def newest() -> str:
    """Unix time of the newest sample of an engine, the router or the controller."""
    names = [*s.RUNNING.names, *s.ROUTER_REQUESTS.names, s.WVA_CURRENT.name]
    return 'max(timestamp({__name__=~"' + "|".join(names) + '"}))'


def fullest(name: str, known: frozenset[str], most: int) -> str | None:
    """The engines that a heat map shows, by the newest minutes."""
    pods = of_pods(name, SMOOTHED_S[1], known, how="max")
    return None if pods is None else f"topk({most}, {pods})"


def serving() -> str:
    """Workloads with their model."""
    return f"group by ({', '.join(SUBJECT)}) ({_workload(now_of(s.RUNNING).promql())})"


def controlled() -> str:
    """Variants that the controller knows, with accelerator, namespace and, where it says, model."""
    return 'group by (__name__, variant_name, namespace, exported_namespace, accelerator_type, model_name) ' \
           f'({{__name__=~"{s.WVA_SATURATION.name}|{s.WVA_DESIRED.name}"}})'  # fmt: skip


def beginning(prefix: str) -> str:
    """Which series of the catalogue begin so and are there."""
    return present([name for name in s.CATALOGUE if name.startswith(prefix)])


def firing() -> str:
    """Alerts that fire, with their labels."""
    return Select(s.ALERTS_STATE, (("alertstate", "firing"),)).promql()


def router_models() -> str:
    """Models that were asked for at the router."""
    return Agg("group", now_of(s.ROUTER_REQUESTS), ("model_name",)).promql()


def request_queries(rules: Rules, width_s: float, known: frozenset[str]) -> dict[str, str]:
    """What request counts are made of, each per second and by model."""
    wider = max(RATE_S, width_s)
    asked = {
        "router": rate_of(s.ROUTER_REQUESTS, wider).by("model_name").promql(),
        "codes": rate_of(s.ROUTER_ERRORS, wider).by("model_name", "error_code").promql(),
        "finished": rules.read(recording.FINISHED_RPS.name, width_s, known),
        "output_tokens": rules.read(recording.OUTPUT_TPS.name, width_s, known),
        "input_tokens": rate_of(s.PROMPT_TOKENS, wider).by("model_name").promql(),
        "cached_tokens": rate_of(s.PREFIX_HITS, wider).by("model_name").promql(),
    }
    for promise in ("ttft", "tpot", "e2e"):
        base = requests_series(promise).name
        asked[f"{promise}_n"] = rules.read(base, width_s, known)
        asked[f"{promise}_ok"] = rules.read(good_of(base), width_s, known)
    return {name: f"sum by (model_name{', error_code' if name == 'codes' else ''}) ({text})"
            for name, text in asked.items() if text is not None}  # fmt: skip


def latency(what: str) -> Latency:
    """Who measures a latency (``ttft``, ``tpot``, ``e2e``)."""
    return next(one for one in LATENCIES if one.key == what)


def percentile(what: str, q: float, width_s: float, known: frozenset[str]) -> str:
    """A percentile by model: the router's, else the engines'."""
    rule = {("ttft", 0.95): recording.TTFT_P95, ("tpot", 0.95): recording.TPOT_P95}.get((what, q))
    if rule is not None and rule.name in known and width_s <= RATE_S:
        return f"max by (model_name) ({rule.name})"
    one, window = latency(what), max(RATE_S, width_s)
    router = p(q, one.router, window, ("model_name",), one.router_matchers)
    return router.matching("or", p(q, one.engine, window, ("model_name",)), "model_name").promql()


def percentile_of_all(what: str, q: float, width_s: float) -> str:
    """A percentile over all models, as the router measures it: few series, whatever the fleet."""
    one = latency(what)
    return p(q, one.router, max(RATE_S, width_s), (), one.router_matchers).promql()


def expressions(rules: Rules, width_s: float, known: frozenset[str]) -> dict[str, str]:
    """Every expression that pages may ask, for tests that hold them against the catalogue and a real Prometheus."""
    names = (s.KV_UTILISATION.name, s.WAITING.name, s.RUNNING.name, "generation_tps", "prompt_tps", "request_rps",
             "prefix_hit_ratio", s.PREEMPTIONS.name)  # fmt: skip
    own = (s.WVA_DESIRED.name, s.WVA_CURRENT.name, s.WVA_SATURATION.name, s.WVA_COST.name, "requested_replicas",
           s.GPU_ACTIVE.name)  # fmt: skip
    found: dict[str, str | None] = {f"workloads {name}": of_workloads(name, width_s, known) for name in names}
    found |= {f"engines {name}": of_engines(name, width_s, known, how="max", only="a|b") for name in names}
    found |= {f"variants {name}": of_variants(name) for name in own}
    found |= {f"requests {name}": text for name, text in request_queries(rules, width_s, known).items()}
    for what in ("ttft", "tpot", "e2e"):
        found[f"p95 {what}"] = percentile(what, 0.95, width_s, known)
        found[f"p99 {what}"] = percentile_of_all(what, 0.99, width_s)
    found |= {"engines": engines_now(), "newest": newest(), "serving": serving(), "controlled": controlled(),
              "models": router_models(), "firing": firing(), "gpu": beginning("DCGM_"),
              "fullest": fullest(names[0], known, 40), "present": present(rules.names)}  # fmt: skip
    return {name: text for name, text in found.items() if text is not None}
