"""A YAML document whose every value knows its line, so that a wrong one can be pointed at. Pure: text in, tree out."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import yaml

from fleet.errors import ConfigError

MAX_NODES: Final = 10_000
"""Values in one document, aliases expanded; a router's configuration has some dozens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Located:
    """One value: a scalar, ``list[Located]`` or ``dict[str, Located]``."""

    value: Any
    line: int
    where: str
    """The file's name."""

    @property
    def at(self) -> str:
        """File and line, for an error."""
        return f"{self.where} line {self.line}"

    def refuse(self, what: str, *, limit: str = "", next_step: str = "") -> ConfigError:
        """An error at this value, to be raised."""
        return ConfigError(what, where=self.at, limit=limit, next_step=next_step)

    def plain(self) -> Any:
        """The value without its lines."""
        if isinstance(self.value, dict):
            return {key: entry.plain() for key, entry in self.value.items()}
        if isinstance(self.value, list):
            return [entry.plain() for entry in self.value]
        return self.value

    def mapping(self, what: str) -> Mapping[str, Located]:
        """The value as a mapping; ``what`` names it in the error. Raises: ConfigError."""
        if self.value is None:
            return {}
        if not isinstance(self.value, dict):
            raise self.refuse(f"{what} must be a mapping, not {shown(self.value)}", next_step="Write key: value lines.")
        return self.value

    def sequence(self, what: str) -> Sequence[Located]:
        """The value as a list; ``what`` names it in the error. Raises: ConfigError."""
        if self.value is None:
            return []
        if not isinstance(self.value, list):
            raise self.refuse(
                f"{what} must be a list, not {shown(self.value)}", next_step="Start each entry with '- '."
            )
        return self.value

    def word(self, what: str) -> str:
        """The value as text; ``what`` names it in the error. Raises: ConfigError."""
        if not isinstance(self.value, str) or not self.value:
            raise self.refuse(f"{what} must be a name, not {shown(self.value)}", next_step="Write a word.")
        return self.value

    def only(self, what: str, keys: Iterable[str]) -> Mapping[str, Located]:
        """The value as a mapping with no other keys than ``keys``. Raises: ConfigError with the nearest key."""
        known = tuple(keys)
        entries = self.mapping(what)
        for key, value in entries.items():
            if key not in known:
                raise value.refuse(f"{what} has an unknown key {key!r}", next_step=nearest(key, known))
        return entries


def shown(value: object) -> str:
    """A value for an error line: short, and containers by what they are."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def nearest(word: str, known: Iterable[str]) -> str:
    """What to write instead of ``word``.

    >>> nearest("prefix-awar", ["prefix-aware", "load-aware"])
    "Did you mean 'prefix-aware'?"
    >>> nearest("xyz", ["prefix-aware", "load-aware"])
    'Known: prefix-aware, load-aware.'
    """
    words = list(known)
    folded = {entry.lower(): entry for entry in reversed(words)}
    close = difflib.get_close_matches(word.lower(), list(folded), n=1, cutoff=0.6)
    return f"Did you mean {folded[close[0]]!r}?" if close else f"Known: {', '.join(words)}."


def locate(text: str, *, where: str) -> Located:
    """Parse one YAML (or JSON) document.

    Args:
        text: the document.
        where: the file's name, for error lines.
    Raises: ConfigError at the line that is no YAML, repeats a key, or when the document is empty or endless.
    """
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            raise ConfigError("the document is empty", where=where, next_step="Write filters:, scorers: or selection:.")
        return _Reader(loader, where).read(node)
    except yaml.YAMLError as error:
        raise _no_yaml(error, where) from error
    except RecursionError as error:
        raise ConfigError("the document nests without end", where=where, next_step="Flatten it.") from error


def _no_yaml(error: yaml.YAMLError, where: str) -> ConfigError:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "it cannot be read"
    at = where if mark is None else f"{where} line {mark.line + 1}"
    return ConfigError(f"not YAML: {problem}", where=at, next_step="Check indentation, colons and quotes there.")


class _Reader:
    """Turns YAML nodes into :class:`Located` values."""

    def __init__(self, loader: yaml.SafeLoader, where: str) -> None:
        self._loader, self._where, self._left = loader, where, MAX_NODES

    def read(self, node: yaml.Node) -> Located:
        """The node and all below it."""
        self._left -= 1
        if self._left < 0:
            raise ConfigError("the document is too large", where=self._where, limit=f"{MAX_NODES} values",
                              next_step="Remove the aliases.")  # fmt: skip
        if isinstance(node, yaml.MappingNode):
            value: Any = self._mapping(node)
        elif isinstance(node, yaml.SequenceNode):
            value = [self.read(entry) for entry in node.value]
        else:
            value = self._scalar(node)
        return self._located(value, node)

    def _located(self, value: Any, node: yaml.Node) -> Located:
        return Located(value=value, line=node.start_mark.line + 1, where=self._where)

    def _mapping(self, node: yaml.MappingNode) -> dict[str, Located]:
        self._loader.flatten_mapping(node)
        entries: dict[str, Located] = {}
        for key_node, value_node in node.value:
            key = self._located(self._scalar(key_node), key_node)
            name = key.word("a key")
            if name in entries:
                raise key.refuse(f"{name!r} is given twice", next_step="Keep one.")
            entry = self.read(value_node)
            entries[name] = self._located(entry.value, key_node)
        return entries

    def _scalar(self, node: yaml.Node) -> Any:
        try:
            return self._loader.construct_object(node, deep=True)
        except ValueError as error:  # 2020-99-99 and its like
            raise self._located(None, node).refuse(f"{error}", next_step="Put the value in quotes.") from error
