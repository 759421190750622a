"""When an answer ends and what it says: length laws, stop strings, the text so far. Pure.

A simulated model has no weights to decide by. Its words are those of :data:`simulator.tokens.OUTPUT_TOKENS`, and
where it would end by itself is drawn from a law: the same prompt, seed and choice end at the same length.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import xxhash

from fleet.errors import ConfigError
from simulator import tokens
from simulator.tokens import BYTES_PER_TOKEN

DEFAULT_LAW = "lognormal:256,0.7"
"""Half of the answers are longer than 256 tokens, one in six longer than 515 (chat traffic: Azure 2023, mean 211)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthLaw:
    """Where answers end by themselves: lognormal about ``median`` tokens; no ``median``: never."""

    median: float | None
    sigma: float = 0.0
    seed: int = 0

    def tokens(self, prompt: bytes, *, seed: int | None, choice: int) -> int | None:
        """Tokens of one answer, the end-of-sequence token included and at least 2; ``None``: it does not end.

        Args:
            prompt: packed tokens; the same prompt gives the same length.
            seed: the request's own, when it has one.
            choice: number of the answer among those to one request.

        >>> LengthLaw(median=100.0).tokens(b"hello...", seed=None, choice=0)
        100
        """
        if self.median is None:
            return None
        label = xxhash.xxh64_intdigest(f"{self.seed}/{seed}/{choice}".encode(), xxhash.xxh64_intdigest(prompt))
        drawn = NormalDist().inv_cdf((label + 0.5) / 2**64) if self.sigma else 0.0
        return max(2, round(self.median * math.exp(self.sigma * drawn)))


def parse_law(text: str, *, seed: int) -> LengthLaw:
    """``lognormal:MEDIAN,SIGMA``, ``fixed:TOKENS`` or ``none``.

    Raises: ConfigError, one line, for anything else.
    """
    name, _, given = text.partition(":")
    try:
        numbers = [float(part) for part in given.split(",")] if given else []
        if name == "none" and not numbers:
            return LengthLaw(median=None, seed=seed)
        if name == "fixed" and len(numbers) == 1 and numbers[0] >= 1:
            return LengthLaw(median=numbers[0], seed=seed)
        if name == "lognormal" and len(numbers) == 2 and numbers[0] >= 1 and 0 <= numbers[1] <= 5:
            return LengthLaw(median=numbers[0], sigma=numbers[1], seed=seed)
    except ValueError:
        pass  # refused below, as every other text
    raise ConfigError(f"{text!r} is no law of answer lengths", where="--output-law",
                      limit="lognormal:MEDIAN,SIGMA (0..5), fixed:TOKENS or none",
                      next_step=f"The default is {DEFAULT_LAW}.")  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One answer, known before it begins."""

    tokens: int
    """Generated, the one that ends it included."""
    finish_reason: str
    stop_reason: str | int | None = None
    chars: int
    """Of its text, what the client gets: without the stop string or the token that ended it."""
    hold: int = 0
    """Characters that a stream keeps back while tokens come, for they may be the beginning of a stop string."""

    @property
    def plain(self) -> bool:
        """Each token's text goes out as it comes, except perhaps the last one's."""
        return self.hold == 0 and self.chars >= (self.tokens - 1) * BYTES_PER_TOKEN

    def text(self) -> str:
        """All of it."""
        return tokens.output(self.tokens).decode()[: self.chars]

    def shown(self, count: int) -> int:
        """Characters that a stream has sent after ``count`` tokens."""
        if count >= self.tokens:
            return self.chars
        return min(self.chars, max(0, count * BYTES_PER_TOKEN - self.hold))


@dataclass(frozen=True, slots=True, kw_only=True)
class Stops:
    """What ends an answer early."""

    strings: Sequence[str] = ()
    ids: frozenset[int] = frozenset()
    keep: bool = False
    """The stop string stays in the text (``include_stop_str_in_output``)."""
    min_tokens: int = 0
    """Before so many tokens nothing ends it."""


def make_plan(limit: int, ends_by_itself: int | None, stops: Stops) -> Plan:
    """The answer to a request for at most ``limit`` tokens that would end by itself after ``ends_by_itself``."""
    natural = math.inf if ends_by_itself is None else max(ends_by_itself, stops.min_tokens)
    by_itself = natural <= limit
    end = int(min(limit, natural))
    hold = max(map(len, stops.strings), default=1) - 1 if not stops.keep else 0
    found = min(filter(None, (_first_string(end, stops), _first_id(end, stops))), default=None, key=lambda hit: hit[0])
    if found is not None:
        count, chars, reason = found
        return Plan(tokens=count, finish_reason="stop", stop_reason=reason, chars=chars, hold=hold)
    text_tokens = end - 1 if by_itself else end
    return Plan(tokens=end, finish_reason="stop" if by_itself else "length", hold=hold,
                chars=text_tokens * BYTES_PER_TOKEN)  # fmt: skip


def _first_string(end: int, stops: Stops) -> tuple[int, int, str | int] | None:
    """The stop string that is complete first: tokens until then, characters of text, the string."""
    if not stops.strings:
        return None
    text = tokens.output(end).decode()
    hits: list[tuple[int, int, str | int]] = []
    for wanted in stops.strings:
        at = text.find(wanted, max(0, stops.min_tokens * BYTES_PER_TOKEN - len(wanted) + 1))
        if at >= 0:
            after = at + len(wanted)
            hits.append((-(-after // BYTES_PER_TOKEN), after if stops.keep else at, wanted))
    return min(hits, default=None, key=lambda hit: hit[0])


def _first_id(end: int, stops: Stops) -> tuple[int, int, str | int] | None:
    if not stops.ids:
        return None
    for index, number in enumerate(tokens.unpack(tokens.output(end))):
        if number in stops.ids and index >= stops.min_tokens:
            return index + 1, (index + stops.keep) * BYTES_PER_TOKEN, number
    return None
