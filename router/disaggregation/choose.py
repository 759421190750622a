"""Which engine prefills for the engine that will decode: one decision for both. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from fleet.types import Role
from router.disaggregation.deciders import Decider, decider
from router.types import EndpointView, InferenceRequest

PREFILL_TOKENS_PER_S = 20_000.0
"""What a prefill engine computes, for comparing a queue with a transfer; both only rank engines."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """What moving KV costs."""

    bytes_per_token: float = 131_072.0
    """KV cache of one token: 128 KiB for Llama-3.1-8B in 16 bits."""
    bytes_per_s: float = 12.5e9
    """Of the link between two engines: 100 Gb/s."""
    latency_s: float = 0.002
    """Before the first byte."""

    def seconds(self, tokens: int, distance_s: float) -> float:
        """To move the KV of ``tokens`` over a path of ``distance_s`` one way."""
        return self.latency_s + distance_s + tokens * self.bytes_per_token / self.bytes_per_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Splitter:
    """Splits requests between prefill engines and the others."""

    decide: Decider = field(default_factory=lambda: decider("uncached:1024"))
    transfer: Transfer = field(default_factory=Transfer)

    def sides(self, views: Sequence[EndpointView]) -> tuple[list[EndpointView], list[EndpointView]]:
        """Engines that decode, and those that only prefill; where none decodes, all do: better slowly than not."""
        prefills = [view for view in views if view.role is Role.PREFILL]
        others = [view for view in views if view.role is not Role.PREFILL]
        return (others, prefills) if others else (list(views), [])

    def prefill(
        self, request: InferenceRequest, decode: EndpointView, prefills: Sequence[EndpointView]
    ) -> EndpointView | None:
        """Where the prompt is computed; ``None``: where it decodes.

        The least of: uncached tokens that wait there and this prompt's own, by the engine's rate, then the transfer.
        """
        able = [one for one in prefills if not one.models or request.model in one.models]
        if not able or not self.decide(request, decode.matched_tokens):
            return None
        return min(able, key=lambda one: self.cost_s(request, one, decode))

    def cost_s(self, request: InferenceRequest, prefill: EndpointView, decode: EndpointView) -> float:
        """Seconds until the decode engine can begin, to compare prefill engines by."""
        queued = prefill.prefill_tokens_in_flight + max(1, request.input_tokens - prefill.matched_tokens)
        moved = max(0, request.input_tokens - decode.matched_tokens)
        busy = queued * (1.0 + prefill.other_requests) / PREFILL_TOKENS_PER_S
        return busy + self.transfer.seconds(moved, prefill.distance_s or 0.0)
