"""What an engine can be made to suffer, and the errors it then gives; randomness is passed in."""

from __future__ import annotations

import enum
import random
from dataclasses import dataclass

import msgspec

from fleet.errors import ConfigError
from simulator.api_types import ApiError


class FaultKind(enum.StrEnum):
    """Kinds of faults; different ones may be active together."""

    NONE = "none"
    """Heals all."""
    SLOW = "slow"
    """Steps take ``factor`` times as long, as on a throttled GPU."""
    HANG = "hang"
    """No step ends any more; health and metrics still answer, as with a stuck GPU."""
    ERROR = "error"
    """A share ``rate`` of new requests is refused with one of ``types``."""
    RESET = "reset"
    """A share ``rate`` of requests loses its connection after ``after_tokens`` tokens (network loss)."""
    REFUSE = "refuse"
    """New connections are refused."""
    CRASH = "crash"
    """The engine dies."""


class ErrorType(enum.StrEnum):
    """Errors to give."""

    RATE_LIMIT = "rate_limit"
    INVALID_API_KEY = "invalid_api_key"
    CONTEXT_LENGTH = "context_length"
    SERVER_ERROR = "server_error"
    INVALID_REQUEST = "invalid_request"
    MODEL_NOT_FOUND = "model_not_found"
    OVERLOADED = "overloaded"


class Fault(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """One fault, as ``POST /sim/fault`` takes it."""

    kind: FaultKind
    factor: float = 2.0
    """Of ``slow``; above 0, at most 1000."""
    rate: float = 1.0
    """Share of requests, 0..1 (``error``, ``reset``)."""
    types: tuple[ErrorType, ...] = (ErrorType.SERVER_ERROR,)
    after_tokens: int = 1
    after_s: float = 0.0
    """Real seconds until it begins."""
    seconds: float | None = None
    """Real seconds until it heals by itself; needed for ``refuse``, which nobody can heal from outside."""


def check_fault(fault: Fault) -> Fault:
    """The fault, if it can be.

    Raises: ValueError.
    """
    if not 0 < fault.factor <= 1000:
        raise ValueError(f"factor is {fault.factor} (limit: above 0, at most 1000)")
    if not 0 <= fault.rate <= 1:
        raise ValueError(f"rate is {fault.rate} (limit: 0..1)")
    if fault.after_s < 0 or fault.after_tokens < 0 or (fault.seconds is not None and fault.seconds <= 0):
        raise ValueError("after_s and after_tokens must be at least 0, seconds above 0")
    if not fault.types:
        raise ValueError("types must name at least one error")
    if fault.kind is FaultKind.REFUSE and fault.seconds is None:
        raise ValueError("refuse needs seconds: nobody can connect to heal it")
    return fault


def parse_fault(text: str) -> Fault:
    """``KIND`` or ``KIND:KEY=VALUE,...`` as on the command line; several ``types`` are joined with ``+``.

    Raises: ConfigError, one line.

    >>> parse_fault("error:rate=0.1,types=rate_limit+server_error").rate
    0.1
    """
    kind, _, rest = text.partition(":")
    fields: dict[str, object] = {"kind": kind}
    try:
        for part in filter(None, rest.split(",")):
            name, _, value = part.partition("=")
            fields[name] = value.split("+") if name == "types" else value
        return check_fault(msgspec.convert(fields, Fault, strict=False))
    except (msgspec.ValidationError, ValueError) as error:
        raise ConfigError(f"{text!r} is no fault: {error}", where="--fault",
                          limit=f"{', '.join(FaultKind)}; factor, rate, types, after_tokens, after_s, seconds",
                          next_step="Write for example error:rate=0.1,types=rate_limit.") from None  # fmt: skip


@dataclass(frozen=True, slots=True)
class Fate:
    """What becomes of one request."""

    error: ApiError | None = None
    reset_after: int | None = None
    """The connection breaks after so many tokens."""


UNHARMED = Fate()


class Faults:
    """Those that are active now."""

    def __init__(self, rng: random.Random, *, model: str) -> None:
        """None."""
        self._rng, self._model = rng, model
        self.active: dict[FaultKind, Fault] = {}

    def fate(self) -> Fate:
        """Decide over one request."""
        if not self.active:
            return UNHARMED
        error, reset = self.active.get(FaultKind.ERROR), self.active.get(FaultKind.RESET)
        if error is not None and self._rng.random() < error.rate:
            return Fate(error=make_error(self._rng.choice(error.types), self._model))
        if reset is not None and self._rng.random() < reset.rate:
            return Fate(reset_after=reset.after_tokens)
        return UNHARMED


def make_error(kind: ErrorType, model: str) -> ApiError:
    """The answer for ``kind``: vLLM's words where vLLM has such an answer."""
    status, message, name, param = _ERRORS[kind]
    return ApiError(status, message.format(model=model), kind=name, param=param)


_ERRORS: dict[ErrorType, tuple[int, str, str, str | None]] = {
    ErrorType.RATE_LIMIT: (429, "Rate limit reached for {model}. Please try again later.", "Too Many Requests", None),
    ErrorType.INVALID_API_KEY: (401, "Unauthorized", "Unauthorized", None),
    ErrorType.CONTEXT_LENGTH: (
        400, "This model's maximum context length was exceeded. Please reduce the length of the input prompt. "
        "(parameter=input_tokens)", "BadRequestError", "input_tokens"),
    ErrorType.SERVER_ERROR: (500, "Internal server error", "InternalServerError", None),
    ErrorType.INVALID_REQUEST: (400, "Simulated invalid request.", "BadRequestError", None),
    ErrorType.MODEL_NOT_FOUND: (404, "The model `{model}` does not exist.", "NotFoundError", "model"),
    ErrorType.OVERLOADED: (
        503, "The engine is currently busy and cannot accept new requests. Please try again later or on a different "
        "instance.", "Service Unavailable", None),
}  # fmt: skip
