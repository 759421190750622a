"""Which endpoints a request may go to, by the filters of a profile. Pure.

Most filters ask only what a scrape told and which model is wanted: what they keep is worked out once for each model and
kept until the caller says that something changed, and with it what scorers know by then.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from router.filters import Filter
from router.types import EndpointView, InferenceRequest

_MODELS: Final = 64
"""Models whose endpoints are kept at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedFilter:
    """A filter under the name that explains a drop."""

    name: str
    filter: Filter


class Sifted:
    """What the filters say of one request."""

    __slots__ = ("dropped", "fit", "kept", "memo")

    def __init__(
        self, fit: Sequence[EndpointView], kept: Sequence[EndpointView], dropped: Mapping[str, str],
        memo: dict[Hashable, Any],
    ) -> None:  # fmt: skip
        self.fit = fit
        """Endpoints that can serve it at all."""
        self.kept = kept
        """Of these, the ones that are not overloaded."""
        self.dropped = dropped
        """URL -> the filter that dropped it."""
        self.memo = memo
        """What scorers found out of the kept ones that holds until something changes."""


class Sieve:
    """The filters of one profile.

    Args:
        filters: in their order; those for fitness come before those for load.
        stale_after_s: an endpoint whose sample is older counts as never scraped.
    """

    __slots__ = ("_epoch", "_fit", "_given", "_known", "_memo", "_overload", "_stale_after_s", "_steady")

    def __init__(self, filters: Sequence[NamedFilter], *, stale_after_s: float) -> None:
        self._fit = tuple(entry for entry in filters if not entry.filter.overload)
        self._overload = tuple(entry for entry in filters if entry.filter.overload)
        self._steady = all(entry.filter.steady for entry in filters)
        self._stale_after_s = stale_after_s
        self._epoch: int | None = None
        self._given: Sequence[EndpointView] = ()
        self._memo: dict[Hashable, Any] = {}
        self._known: dict[str, Sifted] = {}

    def sift(self, request: InferenceRequest, endpoints: Sequence[EndpointView], epoch: int | None) -> Sifted:
        """The endpoints that ``request`` may go to.

        ``epoch``: with the same number and the same list as the last time, nothing of the endpoints has changed but
        counts of requests and tokens and what is matched; ``None``: nothing is promised.
        """
        if epoch is None or epoch != self._epoch or endpoints is not self._given:
            seen = fresh(endpoints, self._stale_after_s)
            if epoch is None or seen is not endpoints:  # copies would not be brought up to date
                return self._sift(request, seen, {})
            self._epoch, self._given, self._memo, self._known = epoch, endpoints, {}, {}
        if not self._steady:
            return self._sift(request, endpoints, self._memo)
        found = self._known.get(request.model)
        if found is None:
            found = self._sift(request, endpoints, {})
            if len(self._known) < _MODELS:
                self._known[request.model] = found
        return found

    def _sift(
        self, request: InferenceRequest, endpoints: Sequence[EndpointView], memo: dict[Hashable, Any]
    ) -> Sifted:  # fmt: skip
        dropped: dict[str, str] = {}
        fit = _apply(self._fit, request, endpoints, dropped)
        kept = _apply(self._overload, request, fit, dropped) if fit else fit
        return Sifted(fit, kept, dropped, memo if kept is endpoints else {})


def _apply(
    filters: Sequence[NamedFilter],
    request: InferenceRequest,
    endpoints: Sequence[EndpointView],
    dropped: dict[str, str],
) -> Sequence[EndpointView]:
    """What all filters keep; ``dropped`` takes the others with the filter's name."""
    for entry in filters:
        kept, out = entry.filter(request, endpoints)
        if out:
            for endpoint in out:
                dropped[endpoint.url] = entry.name
            endpoints = kept
    return endpoints


def fresh(endpoints: Sequence[EndpointView], limit_s: float) -> Sequence[EndpointView]:
    """The same endpoints, without samples too old to trust."""
    for endpoint in endpoints:
        if endpoint.age_s is not None and endpoint.age_s > limit_s:
            break
    else:
        return endpoints
    return [
        dataclasses.replace(endpoint, sample=None)
        if endpoint.age_s is not None and endpoint.age_s > limit_s
        else endpoint
        for endpoint in endpoints
    ]
