"""What recent requests were like, learned from this router's own. Pure: no I/O, no clock.

Things that a decision needs and no scrape tells: how long answers are (by model and client), how much of a prompt
others share, and where new prompts went (what was placed somewhere brings its followers there).
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

START_OUTPUT_TOKENS: Final = 256.0
"""Expected length of an answer before one was seen."""
START_REUSE: Final = 0.5
"""Expected share of a prompt that is cached where it goes, before one was seen."""
START_PROMPT_TOKENS: Final = 2000.0
"""Expected length of a prompt before one was seen."""
_RATE: Final = 0.01
"""Weight of the newest request in a mean: it remembers about a hundred."""
_NEW_SHARE: Final = 0.5
"""A prompt of which more than this is not cached where it goes is new there."""
_KEEP: Final = 256.0
"""New prompts after which an older one counts 1/e."""
_RESCALE: Final = 1e100


_OWN_WEIGHT: Final = 5.0
"""Answers of a client or a model after which its own mean counts as much as the mean it is drawn to."""
MAX_CLIENTS: Final = 4096
"""Pairs of model and client whose answers are remembered apart, the longest unused go first: about 1 MB."""


class _Answers:
    """The mean length of some requests' answers, and how many there were (up to the memory of the mean)."""

    __slots__ = ("count", "mean")

    def __init__(self) -> None:
        self.count, self.mean = 0, 0.0

    def add(self, tokens: int) -> None:
        self.count = min(self.count + 1, round(1.0 / _RATE))
        self.mean += (tokens - self.mean) / self.count

    def drawn_to(self, mean: float) -> float:
        """Few answers say little: their mean, drawn to a wider one."""
        return mean + (self.mean - mean) * self.count / (self.count + _OWN_WEIGHT)


class Traffic:
    """Running means, and the tally of new prompts by endpoint."""

    __slots__ = ("_answers", "_unit", "input_tokens", "output_tokens", "reuse", "tally")

    def __init__(self) -> None:
        self.output_tokens = START_OUTPUT_TOKENS
        """Mean output tokens of an answer."""
        self.input_tokens = START_PROMPT_TOKENS
        """Mean length of a prompt."""
        self.reuse = START_REUSE
        """Mean share of a prompt that was expected in the cache of its endpoint, 0..1."""
        self.tally: dict[str, float] = {}
        """For reading only: :meth:`new_prompts` by endpoint, where there were any; another object now and then."""
        self._unit = 1.0
        self._answers: OrderedDict[tuple[str, str], _Answers] = OrderedDict()

    def dispatched(self, url: str, uncached_tokens: int, input_tokens: int) -> None:
        """A request went to ``url``, of whose prompt so many tokens are not expected in the cache there."""
        self.input_tokens += _RATE * (input_tokens - self.input_tokens)
        fresh = uncached_tokens / input_tokens if input_tokens > 0 else 0.0
        self.reuse += _RATE * (1.0 - fresh - self.reuse)
        if fresh > _NEW_SHARE:
            self._unit *= 1.0 + 1.0 / _KEEP
            self.tally[url] = self.tally.get(url, 0.0) + self._unit
            if self._unit > _RESCALE:
                self._rescale()

    def answered(self, output_tokens: int, model: str = "", client: str = "") -> None:
        """An answer is complete."""
        self.output_tokens += _RATE * (output_tokens - self.output_tokens)
        for key in ((model, ""), (model, client)) if client else ((model, ""),):
            found = self._answers.get(key)
            if found is None:
                found = self._answers[key] = _Answers()
                if len(self._answers) > MAX_CLIENTS:
                    self._answers.popitem(last=False)
            else:
                self._answers.move_to_end(key)
            found.add(output_tokens)

    def expected_output(self, model: str = "", client: str = "", limit: int | None = None) -> float:
        """The length of an answer to reckon with: the client's mean with this model, drawn to the model's, drawn to
        all; at most ``limit``, the request's own."""
        expected = self.output_tokens
        answers = self._answers
        if (found := answers.get((model, ""))) is not None:
            expected = found.drawn_to(expected)
        if client and (found := answers.get((model, client))) is not None:
            expected = found.drawn_to(expected)
        return expected if limit is None or limit > expected else max(1.0, float(limit))

    def new_prompts(self, url: str) -> float:
        """New prompts placed at ``url``, recent ones weighing more; only ratios between endpoints mean something."""
        return self.tally.get(url, 0.0)

    def forget(self, url: str) -> None:
        """The endpoint is gone, or its cache is."""
        self.tally.pop(url, None)

    def _rescale(self) -> None:
        """Keep the growing unit inside what a float holds."""
        self.tally = {url: value / self._unit for url, value in self.tally.items()}
        self._unit = 1.0
