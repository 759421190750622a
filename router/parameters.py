"""Parameters of filters, scorers and pickers: declared once as dataclass fields, read from configuration by name. Pure.

A filter, scorer or picker is a frozen dataclass whose fields are its parameters. :func:`number` and :func:`choice`
declare a field with the names it has in configuration files and the values it accepts; :mod:`router.config` reads
these declarations, so a parameter cannot be accepted without being used.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Generic, TypeVar

T = TypeVar("T")

_DECLARATION: Final = "parameter"


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """How one field is written in configuration, and what it accepts."""

    keys: tuple[str, ...]
    """Accepted names, the documented one first."""
    low: float = 0.0
    high: float = 1e9
    whole: bool = False
    choices: tuple[Any, ...] = ()
    unless_equal: str = ""
    """Why only one value is accepted, where that is so."""
    convert: Callable[[Any], Any] | None = None
    """Reads a list or a mapping; raises ValueError with what it accepts."""
    words: Mapping[str, Any] = field(default_factory=dict)
    """Words that stand for a value, beside the numbers."""

    @property
    def limit(self) -> str:
        """What is accepted, for an error line."""
        if self.choices:
            return " or ".join(str(choice) for choice in self.choices)
        kind = "a whole number" if self.whole else "a number"
        return " or ".join([f"{kind} from {self.low:g} to {self.high:g}", *self.words])

    def accept(self, value: object) -> Any:
        """``value`` as the field's type.

        Raises: ValueError when it is not accepted.
        """
        if self.convert is not None:
            return self.convert(value)
        if self.choices:
            return self._chosen(value)
        if isinstance(value, str) and value in self.words:
            return self.words[value]
        if isinstance(value, bool) or not isinstance(value, int | float) or not self.low <= value <= self.high:
            raise ValueError(self.limit)
        if self.whole and value != int(value):
            raise ValueError(self.limit)
        return int(value) if self.whole else float(value)

    def _chosen(self, value: object) -> Any:
        for choice in self.choices:
            if value == choice and isinstance(value, bool) == isinstance(choice, bool):
                return choice
        raise ValueError(f"{self.limit}; {self.unless_equal}" if self.unless_equal else self.limit)


def number(default: float, *keys: str, low: float = 0.0, high: float = 1e9) -> Any:
    """A field that takes a number in ``low``..``high``."""
    return field(default=default, metadata={_DECLARATION: Parameter(keys=keys, low=low, high=high)})


def whole(
    default: int, *keys: str, low: int = 1, high: float = 1e9, words: Mapping[str, int] | None = None
) -> Any:  # fmt: skip
    """A field that takes a whole number in ``low``..``high``, or one of ``words`` for the number behind it."""
    declared = Parameter(keys=keys, low=low, high=high, whole=True, words=words or {})
    return field(default=default, metadata={_DECLARATION: declared})


def flag(default: bool, *keys: str) -> Any:
    """A field that takes true or false."""
    return field(default=default, metadata={_DECLARATION: Parameter(keys=keys, choices=(True, False))})


def structured(default: Any, *keys: str, read: Callable[[Any], Any]) -> Any:
    """A field that takes a word, a list or a mapping, which ``read`` turns into its value or refuses (ValueError)."""
    declared = {_DECLARATION: Parameter(keys=keys, convert=read)}
    return field(default_factory=lambda: default, metadata=declared)


def word(value: Any) -> str:
    """For :func:`structured`: a word.

    Raises: ValueError.
    """
    if not isinstance(value, str) or not value:
        raise ValueError("a word")
    return value


def word_list(value: Any) -> tuple[str, ...]:
    """For :func:`structured`: a list of words.

    Raises: ValueError.
    """
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError("a list of words")
    return tuple(value)


def word_map(value: Any) -> Mapping[str, str]:
    """For :func:`structured`: words by words.

    Raises: ValueError.
    """
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise ValueError("a mapping of words to words")
    return MappingProxyType(dict(value))


def choice(default: object, *keys: str, among: tuple[Any, ...], why: str = "") -> Any:
    """A field that takes one of a few values; ``why`` explains a choice of one."""
    return field(default=default, metadata={_DECLARATION: Parameter(keys=keys, choices=among, unless_equal=why)})


def parameters(kind: type) -> Mapping[str, tuple[str, Parameter]]:
    """Every accepted configuration name of ``kind`` with its field's name and declaration."""
    declared = [
        (item.name, item.metadata[_DECLARATION]) for item in dataclasses.fields(kind) if _DECLARATION in item.metadata
    ]
    return {key: (name, parameter) for name, parameter in declared for key in parameter.keys}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin(Generic[T]):
    """What a type name in configuration stands for."""

    kind: type[T]
    preset: Mapping[str, object] = field(default_factory=dict)
    """Field values that the type name itself fixes."""
    idle: Mapping[str, str] = field(default_factory=dict)
    """Parameters that other routers' files carry and that have no effect here, each with the reason."""
