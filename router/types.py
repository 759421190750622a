"""What a scheduling decision sees and gives. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

from fleet.types import EngineSample, Role
from router.traffic import START_OUTPUT_TOKENS, START_REUSE


class InferenceRequest:
    """A parsed request, without its text. A plain class, not a dataclass, because making it is on the hot path."""

    __slots__ = (
        "adapter", "alike", "block_hashes", "block_tokens", "chance", "expected_output_tokens", "expected_reuse",
        "input_tokens", "max_tokens", "model", "request_id", "session", "session_url", "slo_tpot_s", "slo_ttft_s",
        "streaming", "tenant",
    )  # fmt: skip

    def __init__(
        self, *, request_id: str, model: str, input_tokens: int, block_hashes: Sequence[int] = (),
        block_tokens: int = 16, max_tokens: int | None = None, streaming: bool = False, tenant: str = "",
        expected_output_tokens: float = START_OUTPUT_TOKENS, alike: int = 0, expected_reuse: float = START_REUSE,
        adapter: str = "", session: str = "", session_url: str = "", slo_ttft_s: float | None = None,
        slo_tpot_s: float | None = None, chance: float = 1.0,
    ) -> None:  # fmt: skip
        self.request_id, self.model = request_id, model
        self.input_tokens = input_tokens
        """Exact where the client sent token ids, else estimated (four bytes of UTF-8 a token)."""
        self.block_hashes = block_hashes
        """Chained hashes of the prompt's blocks, first block first (:mod:`router.prefix`)."""
        self.block_tokens = block_tokens
        """Tokens of one block."""
        self.max_tokens, self.streaming, self.tenant = max_tokens, streaming, tenant
        self.expected_output_tokens = expected_output_tokens
        """Length of the answer to reckon with: the recent mean (:mod:`router.traffic`)."""
        self.alike = alike
        """Requests in flight that share their prompt with earlier ones up to the same block as this one."""
        self.expected_reuse = expected_reuse
        """Share of a prompt that others share, in recent traffic, 0..1."""
        self.adapter = adapter
        """The LoRA adapter that ``model`` names; empty: it names a base model."""
        self.session = session
        """The client's name of the conversation; empty: it gave none."""
        self.session_url = session_url
        """Where that session's last request went; empty: nowhere yet."""
        self.slo_ttft_s = slo_ttft_s
        """Limit for the time to its first token, where it or its model has one."""
        self.slo_tpot_s = slo_tpot_s
        """Limit for the mean time of a later token, where it or its model has one."""
        self.chance = chance
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


class Predictions:
    """Of all candidates, column by column, in their order: one object for each of them would cost more than predicting.

    Args:
        ttft_s: of each.
        tpot_s: of each.
        slowness: of each.
        ttft_high_s: at the percentile that the profile asks for; ``None``: it asks for the median.
        tpot_high_s: the same.
    """

    __slots__ = ("slowness", "tpot_high_s", "tpot_s", "ttft_high_s", "ttft_s")

    def __init__(
        self, ttft_s: list[float], tpot_s: list[float], slowness: list[float], ttft_high_s: list[float] | None = None,
        tpot_high_s: list[float] | None = None,
    ) -> None:  # fmt: skip
        self.ttft_s, self.tpot_s, self.slowness = ttft_s, tpot_s, slowness
        self.ttft_high_s, self.tpot_high_s = ttft_high_s, tpot_high_s

    @staticmethod
    def of(each: Sequence[Prediction]) -> Predictions:
        """The same of so many predictions."""
        ttft, tpot = [one.ttft_high_s for one in each], [one.tpot_high_s for one in each]
        median = not any(high is not None for high in (*ttft, *tpot))
        return Predictions(
            [one.ttft_s for one in each], [one.tpot_s for one in each], [one.slowness for one in each],
            None if median else [one.ttft_s if high is None else high for one, high in zip(each, ttft, strict=True)],
            None if median else [one.tpot_s if high is None else high for one, high in zip(each, tpot, strict=True)],
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.ttft_s)

    def __getitem__(self, index: int) -> Prediction:
        ttft, tpot = self.ttft_high_s, self.tpot_high_s
        return Prediction(self.ttft_s[index], self.tpot_s[index], self.slowness[index],
                          None if ttft is None else ttft[index], None if tpot is None else tpot[index])  # fmt: skip

    def __iter__(self) -> Iterator[Prediction]:
        for index in range(len(self.ttft_s)):
            yield self[index]


class Predict(Protocol):
    """In-process latency prediction for all candidates at once."""

    def __call__(
        self, request: InferenceRequest, endpoints: Sequence[EndpointView], level: float = 0.5
    ) -> Predictions | Sequence[Prediction] | None:
        """Predictions in the order of ``endpoints``; ``None`` while the model is cold.

        ``level``: the percentile of ``ttft_high_s`` and ``tpot_high_s``; 0.5 leaves them out.
        """
        ...


_NONE_DROPPED: Final[Mapping[str, str]] = {}
_NO_COLUMNS: Final[Mapping[str, Sequence[float]]] = {}


class Pick:
    """The outcome of one scheduling decision, and what its explanation is made from when it is asked for."""

    __slots__ = (
        "candidates", "chance", "cold", "columns", "dropped", "endpoint", "predicted", "prediction", "probability",
        "reason",
    )  # fmt: skip

    def __init__(  # noqa: PLR0917 - made once a request, by position
        self, endpoint: EndpointView | None, reason: str, probability: float | None = None,
        dropped: Mapping[str, str] = _NONE_DROPPED, cold: bool = False, prediction: Prediction | None = None,
        candidates: Sequence[EndpointView] = (), columns: Mapping[str, Sequence[float]] = _NO_COLUMNS,
        predicted: Predictions | Sequence[Prediction] = (),
    ) -> None:  # fmt: skip
        self.endpoint = endpoint
        """``None``: nothing is left; ``reason`` says why."""
        self.reason = reason
        """``picked``, ``fallback_round_robin`` (all overloaded), or why there is none: ``no_endpoints``, ``no_model``,
        ``no_role``, ``no_ready``."""
        self.probability = probability
        """Chance with which the picker chose it."""
        self.dropped = dropped
        """Endpoint URL -> the filter that dropped it."""
        self.cold = cold
        """The predicted-latency scorer had no model and stayed neutral."""
        self.prediction = prediction
        """Of the endpoint chosen."""
        self.candidates = candidates
        """What was scored."""
        self.columns = columns
        """By scorer its raw scores, by penalising filter its factors, and ``total``: in the order of ``candidates``."""
        self.chance: float | None = None
        """The best that a candidate gives of meeting the request's own latency targets; ``None``: nobody asked."""
        self.predicted = predicted
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
