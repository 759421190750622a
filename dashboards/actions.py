"""What an operator may do from the console, and who does it. Sends to the controller, which keeps and records it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote

import requests

from fleet.errors import SourceError

_TIMEOUT_S: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Laid:
    """An operator's word on one variant, as the controller tells it."""

    paused: bool = False
    min_replicas: int | None = None
    max_replicas: int | None = None
    by: str = ""
    at_s: float = 0.0

    @property
    def words(self) -> str:
        """What holds, without who and when.

        >>> Laid(paused=True).words, Laid(max_replicas=4).words, Laid(min_replicas=2, max_replicas=4).words
        ('paused', 'at most 4 replicas', '2 to 4 replicas')
        """
        if self.paused:
            return "paused"
        if self.min_replicas is not None and self.max_replicas is not None:
            return f"{self.min_replicas} to {self.max_replicas} replicas"
        if self.min_replicas is not None:
            return f"at least {self.min_replicas} replicas"
        return "its own bounds" if self.max_replicas is None else f"at most {self.max_replicas} replicas"


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What the controller says of overrides."""

    allowed: bool = False
    dry_run: bool = False
    variants: Mapping[str, Laid] = field(default_factory=dict)

    @property
    def any(self) -> bool:
        """Whether something holds."""
        return self.dry_run or bool(self.variants)


def parse(document: Any) -> State:
    """The answer to ``GET /overrides``; from an older controller, or none: nothing is allowed."""
    if not isinstance(document, Mapping) or not isinstance(document.get("variants"), Mapping):
        return State()
    known = Laid.__dataclass_fields__
    laid = {
        str(name): Laid(**{key: value for key, value in entry.items() if key in known})
        for name, entry in document["variants"].items() if isinstance(entry, Mapping)
    }  # fmt: skip
    return State(allowed=bool(document.get("allowed")), dry_run=bool(document.get("dry_run")), variants=laid)


class Actions:
    """Sends an operator's word to the controller.

    Args:
        base_url: the controller's address.
        token: what it asks for (``WVA_OVERRIDES_TOKEN``); empty: nothing.
    """

    def __init__(self, base_url: str, token: str) -> None:
        self._base = base_url
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    def pause(self, variant: str, *, by: str) -> State:
        """Hold a variant (``namespace/name``) at what is requested.

        Raises: SourceError when the controller refuses or does not answer; so do all the others.
        """
        return self._send("PUT", _place(variant), {"paused": True, "by": by})

    def bound(self, variant: str, low: int, high: int, *, by: str) -> State:
        """Keep a variant between two counts."""
        return self._send("PUT", _place(variant), {"min_replicas": low, "max_replicas": high, "by": by})

    def clear(self, variant: str, *, by: str) -> State:
        """Back to the variant's own bounds."""
        return self._send("DELETE", f"{_place(variant)}?by={quote(by)}", None)

    def dry_run(self, *, on: bool, by: str) -> State:
        """Decide without scaling, or scale again."""
        return self._send("PUT", "/dry-run", {"on": on, "by": by})

    def _send(self, method: str, path: str, body: Mapping[str, Any] | None) -> State:
        try:
            answer = requests.request(method, self._base + path, json=body, headers=self._headers, timeout=_TIMEOUT_S)
        except requests.RequestException as error:
            raise SourceError(f"does not answer: {type(error).__name__}", where=self._base,
                              next_step="Look whether the controller runs.") from None  # fmt: skip
        if answer.status_code >= 400:
            raise SourceError(_refusal(answer), where="the controller", next_step="Nothing was changed.")
        try:
            return parse(answer.json())
        except ValueError:
            raise SourceError("answers no JSON", where=self._base, next_step="Is it a controller?") from None


def _place(variant: str) -> str:
    namespace, _, name = variant.partition("/")
    return f"/overrides/{quote(namespace, safe='')}/{quote(name, safe='')}"


def _refusal(answer: requests.Response) -> str:
    try:
        detail = answer.json()["detail"]
    except (ValueError, KeyError, TypeError):
        detail = answer.reason
    return f"HTTP {answer.status_code}: {detail}"
