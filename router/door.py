"""Who is let in, as the director asks: by the latency targets that a request is held to."""

from __future__ import annotations

from time import perf_counter

from router.admission import IN_VAIN, WAITS, Aside
from router.disaggregation.pace import PrefillPace
from router.parts import Parts
from router.ticket import Ticket
from router.types import EndpointView, InferenceRequest, Pick


class Door:
    """Made where there is an admission.

    Args:
        parts: the director's.
    """

    def __init__(self, parts: Parts) -> None:
        if parts.admission is None:
            raise ValueError("there is no admission")
        self._admission, self._splitter, self._metrics = parts.admission, parts.splitter, parts.metrics
        self.pace = PrefillPace()

    def judge(self, ticket: Ticket, request: InferenceRequest, pick: Pick, prefills: list[EndpointView]) -> None:
        """Take the pick back if the request would be late wherever it went."""
        again = ticket.waiting is not None
        ticket.turned_down, ticket.patience_s = None, 0.0
        if pick.endpoint is None or ticket.tried:
            return
        verdict = self._admission.judge(
            request, pick.candidates or [pick.endpoint], ticket.targets, again=again,
            waited_s=perf_counter() - ticket.started_s, aside=self._aside(request, pick.endpoint, prefills),
        )  # fmt: skip
        pick.chance = verdict.chance
        if verdict.chance is not None and not again:
            self._metrics.slo_chance.observe(verdict.chance)
        if verdict.refusal is not None:
            ticket.turned_down, ticket.patience_s = verdict.refusal, verdict.wait_s
            pick.endpoint, pick.reason = None, WAITS if again or verdict.wait_s else IN_VAIN

    def _aside(
        self, request: InferenceRequest, decode: EndpointView, prefills: list[EndpointView]
    ) -> Aside | None:  # fmt: skip
        """Hope for the first token of a request whose prompt another engine would compute."""
        if self._splitter is None:
            return None
        chosen = self._splitter.prefill(request, decode, prefills)
        return None if chosen is None else self.pace.hope(self._splitter, request, chosen, decode)

    def patience_s(self, ticket: Ticket, most_s: float) -> float:
        """How long a request may wait for room: no longer than its TTFT target, where that counts."""
        ttft_s = self._admission.counted(ticket.targets).ttft_s
        return most_s if ttft_s is None else min(most_s, ttft_s)

    def prefilled(self, ticket: Ticket) -> None:
        """A split request had its first token."""
        ttft_s = ticket.observer.first_s - ticket.started_s - ticket.held_s
        self.pace.seen(ticket.prefill, ttft_s, ticket.prefill_cost_s)
