"""Writes decisions back to the cluster: statuses where they changed, events where something happened."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from fleet.kube.api import EVENTS, VARIANT_AUTOSCALINGS, KubeApi, KubeError
from fleet.types import Decision, Direction
from wva.collect import Problem
from wva.kube.crd import KIND
from wva.kube.lease import micro_time
from wva.kube.objects import Miss
from wva.kube.platform import KubePlatform
from wva.kube.status import Object, differs, event, scaling_reason, status
from wva.kube.world import Found
from wva.metrics import WvaMetrics, freshness

TRIES = 4
"""Of a status write that other changes of the object come before."""
OVERLOADED = frozenset({0, 429, 500, 502, 503, 504})
"""Answers after which the rest is left to the next pass."""


class Reporter:
    """Called after each pass; what it could not write is written by a later one.

    Args:
        api: the cluster.
        platform: has the objects that decisions are about.
        metrics: counts pods that could not be mapped.
        instance: this process, in events.
        may_write: whether this process leads; asked before each write.
    """

    def __init__(
        self, api: KubeApi, platform: KubePlatform, metrics: WvaMetrics, *, instance: str, may_write: Callable[[], bool]
    ) -> None:
        self._api, self._platform, self._metrics = api, platform, metrics
        self._instance, self._may_write = instance, may_write
        self._desired: dict[tuple[str, str], int] = {}
        self._blind: set[tuple[str, str]] = set()
        self._misses: set[Miss] = set()
        self._wrong: dict[tuple[str, str, str], str] = {}

    def __call__(
        self, at_s: float, decisions: Sequence[Decision], scaled: Sequence[Decision], problems: Sequence[Problem]
    ) -> tuple[Problem, ...]:
        """Write what a pass at ``at_s`` decided; what failed comes back."""
        decided = {(each.namespace, each.variant): each for each in decisions}
        silent = any(problem.component == "source" for problem in problems)
        self._count_misses()
        failed = []
        for found in self._platform.world.found:
            if not self._may_write():
                break
            decision = decided.get((found.declared.namespace, found.declared.name))
            try:
                self._report(found, decision, at_s=at_s, silent=silent, scaled=decision in scaled)
            except KubeError as error:
                failed.append(Problem.of("kubernetes", error))
                if error.status in OVERLOADED:
                    break
        return tuple(failed)

    def _report(
        self, found: Found, decision: Decision | None, *, at_s: float, silent: bool, scaled: bool
    ) -> None:  # fmt: skip
        state = "fresh" if decision is None else freshness(decision)
        state = "error" if silent and state != "fresh" else state
        if found.declared.kind == KIND:
            applied = scaled or bool(decision and found.variant and found.variant.requested == decision.desired)
            self._write_status(found, decision, state, applied=applied, at_s=at_s)
        if decision is not None:
            self._write_events(found, decision, state, at_s)
        self._write_problem(found, at_s)

    def _write_problem(self, found: Found, at_s: float) -> None:
        """An annotated HPA or ScaledObject has no status of ours: what is wrong with it is an event, once."""
        declared = found.declared
        key = (declared.kind, declared.namespace, str(declared.item["metadata"]["name"]))
        if found.variant is not None or declared.kind == KIND:
            self._wrong.pop(key, None)
        elif self._wrong.get(key) != found.message:
            self._event(found, "OptimizationFailed", "Decide", found.message, at_s, warning=True)
            self._wrong[key] = found.message

    def _write_status(
        self, found: Found, decision: Decision | None, state: str, *, applied: bool, at_s: float
    ) -> None:  # fmt: skip
        meta = found.declared.item["metadata"]
        path = VARIANT_AUTOSCALINGS.path(meta["namespace"], meta["name"])
        for left in reversed(range(TRIES)):
            after = status(found, decision, state, applied=applied, now_s=at_s)
            item = found.declared.item
            if not differs(after, item.get("status") or {}) or not self._may_write():
                return
            body: Object = {"metadata": {"resourceVersion": item["metadata"]["resourceVersion"]}, "status": after}
            try:
                self._api.merge(f"{path}/status", body)
            except KubeError as error:
                if error.status == 404:
                    return  # deleted meanwhile
                if not error.conflict or not left:
                    raise
                found = self._fresh(found, path)
            else:
                return

    def _fresh(self, found: Found, path: str) -> Found:
        """``found`` with its object as it is now, where the change was not to what was decided from."""
        item = self._api.get(path)
        return replace(found, declared=replace(found.declared, item=item))

    def _write_events(self, found: Found, decision: Decision, state: str, at_s: float) -> None:
        key = (decision.namespace, decision.variant)
        moved = decision.direction is not Direction.HOLD and self._desired.get(key) != decision.desired
        self._desired[key] = decision.desired
        if moved:
            change = f"{decision.signals.get('requested') or 0:.0f} to {decision.desired} replicas: {decision.detail}"
            self._event(found, scaling_reason(decision), "Scale", change, at_s, warning=False)
        if state == "fresh":
            self._blind.discard(key)
        elif key not in self._blind:
            self._blind.add(key)
            self._event(found, "MetricsUnavailable", "Collect", decision.detail, at_s, warning=True)

    def _event(self, found: Found, reason: str, action: str, note: str, at_s: float, *, warning: bool) -> None:
        body = event(found, reason=reason, action=action, note=note, time=micro_time(at_s), instance=self._instance,
                     warning=warning)  # fmt: skip
        self._api.create(EVENTS.path(body["metadata"]["namespace"]), body)

    def _count_misses(self) -> None:
        """Count each pod that cannot be mapped once, for as long as it cannot."""
        present = set(self._platform.misses)
        self._metrics.unmapped(_reasons(present - self._misses))
        self._misses = present


def _reasons(misses: Iterable[Miss]) -> list[tuple[str, str]]:
    return [(miss.namespace, miss.reason) for miss in misses]
