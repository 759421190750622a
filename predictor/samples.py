"""Training samples: what is accepted from a history row or an HTTP client, and why the rest is not. Pure."""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from predictor.features import HELD, NAMES, WIDTH
from predictor.physics import CACHED, INPUT, KV, Array

MAX_TTFT_S: Final = 600.0
MAX_TPOT_S: Final = 60.0
MAX_FEATURE: Final = 1e8
"""No count of tokens or requests at one endpoint is larger."""


_TOLD_CHARS: Final = 40
"""Of a value that is no number, in a message."""


class Rejection(enum.StrEnum):
    """Why a row is no training sample: a closed set, used as a metric label."""

    OUTCOME = "outcome"
    """The engine failed, or the router refused it: its time says nothing of the engine's pace."""
    NOT_STREAMING = "not_streaming"
    """Its first token was never seen apart from its last."""
    MISSING_FEATURES = "missing_features"
    NO_TARGET = "no_target"
    """Neither a TTFT nor a TPOT was observed."""
    NOT_A_NUMBER = "not_a_number"
    """A value is NaN, infinite or no number at all."""
    NEGATIVE = "negative"
    ABSURD = "absurd"
    """A value is beyond what an engine can do (TTFT > 600 s, TPOT > 60 s, KV > 1, counts > 1e8)."""


class RejectedError(ValueError):
    """A row that is no sample."""

    def __init__(self, reason: Rejection, detail: str) -> None:
        self.reason = reason
        super().__init__(f"{reason.value}: {detail}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One request at one endpoint: what was known at dispatch, and what came of it."""

    features: tuple[float, ...]
    """In the order of :data:`predictor.features.NAMES`."""
    ttft_s: float | None
    tpot_s: float | None
    endpoint: str = ""
    variant: str = ""
    predicted_ttft_s: float | None = None
    """What was predicted, and used, when it was sent."""
    predicted_tpot_s: float | None = None
    censored: bool = False
    """It ended before its first token: ``ttft_s`` is how long it had waited by then, and its latency was longer."""
    output_tokens: int | None = None


WAITED: Final = ("ok", "aborted", "timeout")
"""Outcomes whose times are the engine's: complete, or given up by the client, or by the router for it."""


TOLD: Final = "training"
"""Outcome of a record that is no request but a sample from elsewhere."""


def from_record(record: Mapping[str, Any]) -> Sample:
    """The sample in a row of the history's ``requests``.

    A request that was given up after its first token has a TTFT like any other, and the pace it had until then; one
    given up before is censored.

    Raises: RejectedError with the reason.
    """
    outcome = record.get("outcome")
    if outcome == TOLD:
        return _told(record)
    if outcome not in WAITED:
        raise RejectedError(Rejection.OUTCOME, f"outcome is {outcome!r}")
    if not record.get("streaming"):
        raise RejectedError(Rejection.NOT_STREAMING, "the answer was not streamed")
    ttft_s = record.get("ttft_s")
    censored = ttft_s is None and outcome != "ok"
    if censored:
        ttft_s = record.get("e2e_s")
    if ttft_s is None:
        raise RejectedError(Rejection.NO_TARGET, "ttft_s was not observed")
    features = record.get("features") or {}
    if held_s := features.get(HELD):
        ttft_s -= held_s
    return make(
        features, ttft_s=ttft_s, tpot_s=None if censored else record.get("tpot_s"),
        endpoint=str(record.get("endpoint") or ""), variant=str(record.get("variant") or ""),
        predicted_ttft_s=record.get("predicted_ttft_s"), predicted_tpot_s=record.get("predicted_tpot_s"),
        censored=censored, output_tokens=record.get("output_tokens") if outcome == "ok" else None,
    )  # fmt: skip


def _told(record: Mapping[str, Any]) -> Sample:
    return make(
        record.get("features") or {}, ttft_s=record.get("ttft_s"), tpot_s=record.get("tpot_s"),
        endpoint=str(record.get("endpoint") or ""), variant=str(record.get("variant") or ""),
        censored=bool(record.get("censored")), output_tokens=record.get("output_tokens"),
    )  # fmt: skip


def make(
    features: Mapping[str, Any], *, ttft_s: Any, tpot_s: Any, endpoint: str = "", variant: str = "",
    predicted_ttft_s: Any = None, predicted_tpot_s: Any = None, censored: bool = False, output_tokens: Any = None,
) -> Sample:  # fmt: skip
    """A checked sample; a target that is ``None`` or 0 was not observed.

    Raises: RejectedError with the reason.
    """
    missing = [name for name in NAMES if features.get(name) is None]
    if missing:
        raise RejectedError(Rejection.MISSING_FEATURES, ", ".join(missing))
    ttft, tpot = _target(ttft_s, "ttft_s", MAX_TTFT_S), _target(tpot_s, "tpot_s", MAX_TPOT_S)
    if ttft is None and tpot is None:
        raise RejectedError(Rejection.NO_TARGET, "neither ttft_s nor tpot_s is above 0")
    return Sample(
        features=_features(features), ttft_s=ttft, tpot_s=tpot, endpoint=endpoint, variant=variant,
        predicted_ttft_s=_usable(predicted_ttft_s), predicted_tpot_s=_usable(predicted_tpot_s),
        censored=censored and ttft is not None, output_tokens=_length(output_tokens),
    )  # fmt: skip


def _length(tokens: Any) -> int | None:
    usable = isinstance(tokens, int) and not isinstance(tokens, bool) and 0 < tokens <= MAX_FEATURE
    return tokens if usable else None


def _features(features: Mapping[str, Any]) -> tuple[float, ...]:
    values = [_number(features[name], name, MAX_FEATURE) for name in NAMES]
    if values[KV] > 1.001:
        raise RejectedError(Rejection.ABSURD, f"{NAMES[KV]} is {values[KV]:g} (limit 1)")
    values[CACHED] = min(values[CACHED], values[INPUT])
    return tuple(values)


def _number(value: Any, name: str, limit: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RejectedError(Rejection.NOT_A_NUMBER, f"{name} is {str(value)[:_TOLD_CHARS]}")
    if isinstance(value, float) and not math.isfinite(value):
        raise RejectedError(Rejection.NOT_A_NUMBER, f"{name} is {value}")
    if value < 0:
        raise RejectedError(Rejection.NEGATIVE, f"{name} is below 0")
    if value > limit:  # an integer may be too large for a float
        raise RejectedError(Rejection.ABSURD, f"{name} is above {limit:g}")
    return float(value)


def _target(value: Any, name: str, limit: float) -> float | None:
    return None if value is None else _number(value, name, limit) or None


def _usable(value: Any) -> float | None:
    usable = isinstance(value, int | float) and 0 < value <= MAX_FEATURE
    return float(value) if usable else None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Dataset:
    """Samples as columns, oldest first."""

    matrix: Array
    """Feature rows, shape (n, 8)."""
    ttft_s: Array
    """Shape (n,); NaN where not observed."""
    tpot_s: Array
    endpoints: Sequence[str]
    variants: Sequence[str]
    censored: NDArray[np.bool_]
    """``ttft_s`` is a lower bound."""
    output_tokens: Array
    """NaN where not known."""
    served_ttft_s: Array
    """What was predicted and used; NaN where nothing was."""
    served_tpot_s: Array

    def __len__(self) -> int:
        return len(self.endpoints)

    def target(self, name: str) -> Array:
        """``ttft`` or ``tpot`` in seconds."""
        return self.ttft_s if name == "ttft" else self.tpot_s

    def served(self, name: str) -> Array:
        """What was predicted of ``ttft`` or ``tpot`` when it was sent, seconds."""
        return self.served_ttft_s if name == "ttft" else self.served_tpot_s

    def observed(self, name: str) -> NDArray[np.bool_]:
        """Rows whose ``ttft`` or ``tpot`` was seen to its end."""
        seen = np.isfinite(self.target(name))
        return seen & ~self.censored if name == "ttft" else seen

    def take(self, rows: NDArray[np.intp]) -> Dataset:
        """The rows with these positions, in that order."""
        return Dataset(
            matrix=self.matrix[rows], ttft_s=self.ttft_s[rows], tpot_s=self.tpot_s[rows],
            endpoints=[self.endpoints[row] for row in rows], variants=[self.variants[row] for row in rows],
            censored=self.censored[rows], output_tokens=self.output_tokens[rows],
            served_ttft_s=self.served_ttft_s[rows], served_tpot_s=self.served_tpot_s[rows],
        )  # fmt: skip


def dataset(samples: Sequence[Sample]) -> Dataset:
    """Samples as columns, in their order."""
    return Dataset(
        matrix=np.array([sample.features for sample in samples], dtype=np.float64).reshape(len(samples), WIDTH),
        ttft_s=_column([sample.ttft_s for sample in samples]),
        tpot_s=_column([sample.tpot_s for sample in samples]),
        endpoints=[sample.endpoint for sample in samples],
        variants=[sample.variant for sample in samples],
        censored=np.array([sample.censored for sample in samples], dtype=np.bool_),
        output_tokens=_column([sample.output_tokens for sample in samples]),
        served_ttft_s=_column([sample.predicted_ttft_s for sample in samples]),
        served_tpot_s=_column([sample.predicted_tpot_s for sample in samples]),
    )


def _column(values: Sequence[float | None]) -> Array:
    """As floats; NaN for what is not known or 0."""
    return np.array([value or np.nan for value in values], dtype=np.float64)
