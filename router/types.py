"""What a scheduling decision sees and gives. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from fleet.types import EngineSample, Role
from router.traffic import START_OUTPUT_TOKENS, START_REUSE


@dataclass(slots=True, kw_only=True)
class InferenceRequest:
    """A parsed request, without its text. Not frozen only because making it is on the hot path."""

    request_id: str
    model: str
    input_tokens: int
    """Exact where the client sent token ids, else estimated (four bytes of UTF-8 a token)."""
    block_hashes: Sequence[int] = ()
    """Chained hashes of the prompt's blocks, first block first (:mod:`router.prefix`)."""
    block_tokens: int = 16
    """Tokens of one block."""
    max_tokens: int | None = None
    streaming: bool = False
    tenant: str = ""
    expected_output_tokens: float = START_OUTPUT_TOKENS
    """Length of the answer to reckon with: the recent mean (:mod:`router.traffic`)."""
    alike: int = 0
    """Requests in flight that share their prompt with earlier ones up to the same block as this one."""
    expected_reuse: float = START_REUSE
    """Share of a prompt that others share, in recent traffic, 0..1."""
    adapter: str = ""
    """The LoRA adapter that ``model`` names; empty: it names a base model."""
    session: str = ""
    """The client's name of the conversation; empty: it gave none."""
    session_url: str = ""
    """Where that session's last request went; empty: nowhere yet."""
    slo_ttft_s: float | None = None
    """Limit for the time to its first token, where it or its model has one."""
    slo_tpot_s: float | None = None
    """Limit for the mean time of a later token, where it or its model has one."""
    chance: float = 1.0
    """Uniform in [0, 1), drawn by the caller, for filters that explore; 1: they do not."""


@dataclass(slots=True, kw_only=True)
class EndpointView:
    """One candidate as the router knows it now: the last scrape and the router's own book-keeping.

    The router keeps one for each endpoint and brings it up to date before each pick: what a pick must remember of it is
    copied (:func:`router.predict.seen_at`), only its address may be read later.
    """

    url: str
    variant: str
    models: frozenset[str] = frozenset()
    """Model names it serves; empty: not known yet."""
    role: Role = Role.BOTH
    sample: EngineSample | None = None
    """``None``: never scraped, which is unknown, not idle."""
    age_s: float | None = None
    requests_in_flight: int = 0
    prefill_tokens_in_flight: int = 0
    """Uncached prompt tokens sent there whose first output token has not come back."""
    context_tokens_in_flight: int = 0
    """Prompt and output tokens so far of the requests in flight there."""
    other_requests: float = 0.0
    """Requests there that this router did not send, at the last scrape."""
    matched_tokens: int = 0
    """Prompt tokens of *this* request expected in its prefix cache."""
    new_prompts: float = 0.0
    """Prompts placed there lately that were new to it, in units that only compare (:mod:`router.traffic`)."""
    slowness: float | None = None
    """How much longer the same takes there than elsewhere, by its own counters (:mod:`router.pace`); ``None``: not
    known."""
    adapters: frozenset[str] = frozenset()
    """LoRA adapters that are loaded there, or will be: as scraped, and those of this router's requests in flight."""
    adapter_slots: int | None = None
    """LoRA adapters that it can hold at once; ``None``: not known."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Labels of its pod or its entry in a file."""
    distance_s: float | None = None
    """Least time that a scrape of it took lately: network and HTTP; ``None``: never scraped."""
    last_cold: int = 0
    """Turn of the last request without any cached prefix that went there; 0: none did."""


class Prediction(NamedTuple):
    """Predicted latencies of this request at one endpoint, seconds."""

    ttft_s: float
    tpot_s: float
    slowness: float = 1.0
    """How long the same request takes here at the same load, relative to the candidates' mean: above 1 is a slower
    engine."""
    ttft_high_s: float | None = None
    """At the percentile that the profile asks for; ``None``: it asks for the median."""
    tpot_high_s: float | None = None


class Predict(Protocol):
    """In-process latency prediction for all candidates at once."""

    def __call__(
        self, request: InferenceRequest, endpoints: Sequence[EndpointView], level: float = 0.5
    ) -> Sequence[Prediction] | None:
        """Predictions in the order of ``endpoints``; ``None`` while the model is cold.

        ``level``: the percentile of ``ttft_high_s`` and ``tpot_high_s``; 0.5 leaves them out.
        """
        ...


@dataclass(slots=True)
class Pick:
    """The outcome of one scheduling decision, and what its explanation is made from when it is asked for."""

    endpoint: EndpointView | None
    """``None``: nothing is left; ``reason`` says why."""
    reason: str
    """``picked``, ``fallback_round_robin`` (all overloaded), or why there is none: ``no_endpoints``, ``no_model``,
    ``no_role``, ``no_ready``."""
    probability: float | None = None
    """Chance with which the picker chose it."""
    dropped: Mapping[str, str] = field(default_factory=dict)
    """Endpoint URL -> the filter that dropped it."""
    cold: bool = False
    """The predicted-latency scorer had no model and stayed neutral."""
    prediction: Prediction | None = None
    """Of the endpoint chosen."""
    candidates: Sequence[EndpointView] = ()
    """What was scored."""
    columns: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """By scorer its raw scores, by penalising filter its factors, and ``total``: in the order of ``candidates``."""
    predicted: Sequence[Prediction] = ()
    """In the same order; empty where the model was not asked or is cold."""

    @property
    def scores(self) -> Mapping[str, Mapping[str, float]]:
        """Endpoint URL -> scorer -> raw score 0..1. A penalising filter adds its factor where it acts, and ``total`` is
        the weighted sum after it: what was ranked."""
        names = tuple(self.columns)
        rows = zip(self.candidates, zip(*self.columns.values(), strict=True), strict=False)
        return {endpoint.url: dict(zip(names, row, strict=True)) for endpoint, row in rows}

    @property
    def predictions(self) -> Mapping[str, Prediction]:
        """Endpoint URL -> what was predicted."""
        return {one.url: prediction for one, prediction in zip(self.candidates, self.predicted, strict=False)}
