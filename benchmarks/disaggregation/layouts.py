"""How GPUs are divided into engines, and who takes a request. Pure.

The ratios of the project's source documents are among the layouts: 8:1 for prompts ten times as long as answers, 4:1
for five times, 2:1 for equal lengths; with engines of equal size, and with small prefill and large decode engines.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from simulator.cluster import Placement
from simulator.config import engine_config
from simulator.engine import Engine
from simulator.sequence import EngineRequest

SHAPE: Final = "Qwen3-32B"
ACCELERATOR: Final = "h100_sxm"


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Some engines: all alike (``prefill`` 0), or ``prefill`` that compute prompts and ``decode`` that answer."""

    prefill: int = 0
    prefill_gpus: int = 2
    """Of each."""
    decode: int
    """Engines that answer; without ``prefill`` they compute prompts too."""
    decode_gpus: int = 2

    @property
    def name(self) -> str:
        """As the field writes it."""
        if not self.prefill:
            return f"aggregated {self.decode} x TP{self.decode_gpus}"
        return f"{self.prefill}P{self.decode}D TP{self.prefill_gpus}/TP{self.decode_gpus}"

    @property
    def ratio(self) -> float | None:
        """Prefill engines for each decode engine; ``None``: all do both."""
        return self.prefill / self.decode if self.prefill else None

    @property
    def gpus(self) -> int:
        """All together."""
        return self.prefill * self.prefill_gpus + self.decode * self.decode_gpus

    def engines(self) -> list[Engine]:
        """Prefill engines, then the others."""
        counts = [self.prefill_gpus] * self.prefill + [self.decode_gpus] * self.decode
        configs = {count: engine_config(SHAPE, ACCELERATOR, count) for count in set(counts)}
        return [Engine(configs[count]) for count in counts]


LAYOUTS: Final = (
    Layout(decode=9),
    Layout(decode=5, decode_gpus=4),
    Layout(prefill=8, decode=1),
    Layout(prefill=8, decode=2),
    Layout(prefill=6, decode=3),
    Layout(prefill=5, decode=5),
    Layout(prefill=3, decode=6),
    Layout(prefill=8, prefill_gpus=1, decode=1, decode_gpus=4),
    Layout(prefill=8, prefill_gpus=1, decode=2, decode_gpus=4),
    Layout(prefill=8, prefill_gpus=1, decode=4, decode_gpus=4),
)
"""12 to 24 GPUs each; results are for one GPU."""
DOCUMENTED: Final = {10.0: 8.0, 5.0: 4.0, 1.0: 2.0}
"""Prefill engines for each decode engine that the source documents advise, by prompt over answer length."""


class Router:
    """The least prompt tokens under way for prompts, the fewest requests for answers."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._count = layout.prefill + layout.decode
        self._tokens, self._requests = [0] * self._count, [0] * self._count
        self._where: dict[str, tuple[int, int]] = {}

    def pick(self, request: EngineRequest, _engines: Sequence[Engine], _now_s: float) -> int | Placement:
        """Where both legs go."""
        first = self._layout.prefill
        decode = min(range(first, self._count), key=lambda index: (self._requests[index], self._tokens[index]))
        prefill = min(range(first), key=lambda index: self._tokens[index]) if first else decode
        self._where[request.request_id] = (prefill, decode)
        self._requests[decode] += 1
        self._tokens[prefill] += request.prompt_tokens
        return Placement(prefill=prefill, decode=decode) if first else decode

    def answering(self, request_id: str, prompt_tokens: int) -> None:
        """Its first token came: the prompt is computed."""
        self._tokens[self._where[request_id][0]] -= prompt_tokens

    def ended(self, request_id: str) -> None:
        """It is over."""
        self._requests[self._where.pop(request_id)[1]] -= 1
