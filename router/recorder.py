"""What a finished request was, for the metrics and for the history."""

from __future__ import annotations

from time import perf_counter
from typing import Final, Protocol

from fleet.history import RequestOutcome, RequestRecord
from predictor.features import HELD
from router.dataplane.observe import Usage
from router.predict import Seen, features
from router.ticket import Ticket
from router.types import Pick

_OK: Final = RequestOutcome.OK
_FAILED: Final = frozenset({RequestOutcome.ERROR, RequestOutcome.TIMEOUT, RequestOutcome.REJECTED})


class Writer(Protocol):
    """Takes rows without blocking (:class:`fleet.history.ProcessWriter`)."""

    def put(self, row: RequestRecord) -> None:
        """Hand over a row."""
        ...


class Facts:
    """Latencies and lengths of one finished request; ``None`` where never observed."""

    __slots__ = ("e2e_s", "output_tokens", "tpot_s", "ttft_s", "usage")

    def __init__(
        self, e2e_s: float, ttft_s: float | None, tpot_s: float | None, output_tokens: int, usage: Usage
    ) -> None:
        self.e2e_s, self.ttft_s, self.tpot_s = e2e_s, ttft_s, tpot_s
        self.output_tokens, self.usage = output_tokens, usage


def facts(ticket: Ticket, now_s: float) -> Facts:
    """What was observed of ``ticket`` until ``now_s`` (``perf_counter``)."""
    observer = ticket.observer
    usage = observer.usage()
    output = observer.output_tokens(usage)
    ttft_s = observer.first_s - ticket.started_s if observer.first_s else None
    tpot_s = None
    if ttft_s is not None and output > 1 and observer.last_s > observer.first_s:
        tpot_s = (observer.last_s - observer.first_s) / (output - 1)
    return Facts(now_s - ticket.started_s, ttft_s, tpot_s, output, usage)


def count(ticket: Ticket, seen: Facts) -> None:
    """Enter a finished request into the metrics."""
    meters = ticket.meters
    meters.requests += 1
    meters.running -= 1
    if seen.ttft_s is not None:
        meters.ttft_stream.observe(seen.ttft_s)
    if ticket.outcome is not _OK:
        if ticket.outcome in _FAILED:
            meters.error(str(ticket.status))
        return
    if seen.ttft_s is None:
        meters.ttft_plain.observe(seen.e2e_s)
    if seen.tpot_s is not None:
        meters.tpot.observe(seen.tpot_s)
    meters.duration.observe(seen.e2e_s)
    meters.input_tokens.observe(_input_tokens(ticket, seen))
    meters.output_tokens.observe(seen.output_tokens)


def _input_tokens(ticket: Ticket, seen: Facts) -> int:
    said = seen.usage.prompt_tokens
    return ticket.input_tokens if said is None else said


MOST_CANDIDATES: Final = 16
"""Predictions kept of one decision; of more candidates, the best half of these and a sample of the others."""


def candidates(pick: Pick) -> dict[str, tuple[float, float]] | None:
    """URL -> predicted TTFT and TPOT of what could have been picked, the chosen one always among them."""
    if not pick.predicted or pick.endpoint is None:
        return None
    found = [(one.ttft_s, one.tpot_s, view.url) for view, one in zip(pick.candidates, pick.predicted, strict=False)]
    if len(found) > MOST_CANDIDATES:
        found.sort()
        best, others = found[: MOST_CANDIDATES // 2], found[MOST_CANDIDATES // 2 :]
        step = -(-len(others) // (MOST_CANDIDATES // 2 - 1))
        chosen = [one for one in found if one[2] == pick.endpoint.url]
        found = best + others[::step] + chosen
    return {url: (round(ttft_s, 4), round(tpot_s, 5)) for ttft_s, tpot_s, url in found}


def record(ticket: Ticket, seen: Facts) -> RequestRecord:
    """The history's row: features and prediction as they were when the engine was picked."""
    pick, known = ticket.pick, ticket.seen
    endpoint = pick.endpoint if pick else None
    prediction = pick.prediction if pick else None
    matched = known.matched_tokens if known else 0
    cached = seen.usage.cached_tokens
    return RequestRecord(
        at_s=ticket.started_at_s,
        request_id=ticket.request_id,
        model=ticket.model,
        outcome=ticket.outcome or RequestOutcome.ERROR,
        status=ticket.status,
        endpoint=endpoint.url if endpoint else "",
        variant=endpoint.variant if endpoint else "",
        streaming=ticket.streaming,
        input_tokens=_input_tokens(ticket, seen),
        output_tokens=seen.output_tokens,
        cached_tokens=matched if cached is None else cached,
        ttft_s=seen.ttft_s,
        tpot_s=seen.tpot_s,
        e2e_s=seen.e2e_s,
        predicted_ttft_s=prediction.ttft_s if prediction else None,
        predicted_tpot_s=prediction.tpot_s if prediction else None,
        pick_probability=pick.probability if pick else None,
        features=_features(ticket, known) if known else {},
        tenant=ticket.tenant,
        candidates=candidates(pick) if pick else None,
    )


def _features(ticket: Ticket, known: Seen) -> dict[str, float]:
    """What was known when it was sent, and how long it had waited here: no engine took that time."""
    found = features(ticket.input_tokens, known)
    if ticket.held_s:
        found[HELD] = round(ticket.held_s, 4)
    return found


class Recorder:
    """Writes finished requests to the history, at most so many a second; above that every n-th goes unrecorded.

    Args:
        writer: where rows go.
        rate_rps: rows a second, at most (with one second's worth saved up).
    """

    __slots__ = ("_at_s", "_most", "_rate_rps", "_tokens", "_writer", "skipped")

    def __init__(self, writer: Writer, *, rate_rps: float) -> None:
        self._writer, self._rate_rps = writer, rate_rps
        self._most = max(1.0, rate_rps)
        self._tokens, self._at_s = rate_rps, perf_counter()
        self.skipped = 0
        """Requests not recorded because there were too many."""

    def __call__(self, ticket: Ticket, seen: Facts) -> None:
        """Record one, if the rate allows."""
        now_s = ticket.started_s + seen.e2e_s
        tokens = self._tokens + (now_s - self._at_s) * self._rate_rps
        self._at_s = now_s
        if tokens < 1.0:
            self._tokens = tokens
            self.skipped += 1
            return
        self._tokens = (tokens if tokens < self._most else self._most) - 1.0
        self._writer.put(record(ticket, seen))
