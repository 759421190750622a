"""What a replay counts: outcomes, latencies, tokens; recent figures and the final report. Pure: time is an argument."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

KEPT = 200_000
"""Latencies kept for percentiles: the newest so many (an endless replay must not grow without bound)."""
RECENT_S = 10.0

OK = "ok"
CONNECTION = "connection"
"""No connection, or it broke before the answer's head."""
BROKEN_STREAM = "broken_stream"
"""The answer began and ended without ``[DONE]``."""
STREAM_ERROR = "stream_error"
"""The engine reported an error inside the stream."""
TIMEOUT = "timeout"
CLIENT_LIMIT = "client_limit"
"""Not sent: ``--max-in-flight`` requests were open already."""
UNFINISHED = "unfinished"
"""Still running when the drain ended."""
INTERRUPTED = "interrupted"
"""Cancelled by us because the replay itself was stopped: neither ok nor failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How one request ended."""

    kind: str
    """One of the constants of this module, or ``http_503`` and the like."""
    tokens: int = 0
    """Output tokens received."""
    ttft_s: float | None = None
    tpot_s: float | None = None
    """(last - first content) / (tokens - 1); ``None`` for fewer than two tokens."""
    e2e_s: float | None = None
    detail: str = ""
    """What the error said, for the log."""


def _kept() -> deque[float]:
    return deque(maxlen=KEPT)


@dataclass(slots=True)
class Tally:
    """Running counts of one replay."""

    sent: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    in_flight: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    ttft_s: deque[float] = field(default_factory=_kept)
    tpot_s: deque[float] = field(default_factory=_kept)
    e2e_s: deque[float] = field(default_factory=_kept)
    send_lag_s: deque[float] = field(default_factory=_kept)
    """How late requests left, against the schedule: the client's own honesty."""
    _recent_ttft: deque[tuple[float, float]] = field(default_factory=deque)
    _recent_tokens: deque[list[float]] = field(default_factory=deque)
    """[whole second, tokens in it]."""

    def send(self, input_tokens: int, lag_s: float) -> None:
        """A request was due and handed to the network (or refused by our own limit)."""
        self.sent += 1
        self.input_tokens += input_tokens
        self.send_lag_s.append(lag_s)

    def first_token(self, now_s: float, ttft_s: float) -> None:
        """An answer's first content arrived."""
        self._recent_ttft.append((now_s, ttft_s))
        while self._recent_ttft[0][0] < now_s - RECENT_S:
            self._recent_ttft.popleft()

    def tokens(self, now_s: float, count: int) -> None:
        """Output tokens arrived (negative: an earlier count is corrected)."""
        self.output_tokens += count
        second = now_s // 1.0
        if self._recent_tokens and self._recent_tokens[-1][0] == second:
            self._recent_tokens[-1][1] += count
            return
        self._recent_tokens.append([second, count])
        while self._recent_tokens[0][0] < second - RECENT_S:
            self._recent_tokens.popleft()

    def end(self, outcome: Outcome) -> None:
        """A request ended."""
        self.ends[outcome.kind] += 1
        if outcome.kind == OK:
            for kept, value in ((self.ttft_s, outcome.ttft_s), (self.tpot_s, outcome.tpot_s),
                                (self.e2e_s, outcome.e2e_s)):  # fmt: skip
                if value is not None:
                    kept.append(value)

    def failures(self) -> dict[str, int]:
        """Failed requests by kind."""
        return {kind: count for kind, count in sorted(self.ends.items()) if kind not in (OK, INTERRUPTED)}

    def success_rate(self) -> float | None:
        """ok / (ok + failed); ``None`` before any request ended."""
        ended = self.ends[OK] + sum(self.failures().values())
        return self.ends[OK] / ended if ended else None

    def status(self, now_s: float) -> dict[str, Any]:
        """The figures of the last seconds."""
        recent = [ttft for at_s, ttft in self._recent_ttft if at_s >= now_s - RECENT_S]
        newest = now_s // 1.0
        tokens = sum(count for second, count in self._recent_tokens if newest - RECENT_S <= second < newest)
        return {
            "sent": self.sent, "ok": self.ends[OK], "failed": sum(self.failures().values()),
            "failures": self.failures(), "in_flight": self.in_flight, "success_rate": self.success_rate(),
            "ttft_s": percentiles(recent, (50, 95)), "output_tps": tokens / RECENT_S,
        }  # fmt: skip

    def report(self, *, duration_s: float) -> dict[str, Any]:
        """The figures of the whole replay; ``duration_s`` includes the drain."""
        return {
            "requests": self.sent, "ok": self.ends[OK], "failed": sum(self.failures().values()),
            "failures": self.failures(), "interrupted": self.ends[INTERRUPTED], "success_rate": self.success_rate(),
            "ttft_s": percentiles(self.ttft_s), "tpot_s": percentiles(self.tpot_s), "e2e_s": percentiles(self.e2e_s),
            "input_tokens": self.input_tokens, "output_tokens": self.output_tokens,
            "output_tps": self.output_tokens / duration_s if duration_s > 0 else 0.0,
            "duration_s": round(duration_s, 3), "send_lag_s": percentiles(self.send_lag_s),
        }  # fmt: skip


def percentiles(values: Iterable[float], levels: tuple[int, ...] = (50, 95, 99)) -> Mapping[str, float | None]:
    """``{"p50": ...}``; ``None`` without values.

    >>> percentiles([1.0, 3.0], (50,))
    {'p50': 2.0}
    """
    kept = list(values)
    found = np.percentile(kept, levels).tolist() if kept else [None] * len(levels)
    return {
        f"p{level}": value if value is None else round(value, 6) for level, value in zip(levels, found, strict=True)
    }
