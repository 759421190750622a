"""Which latencies a histogram can show: only its own bucket bounds are exact. Pure.

vLLM's default TTFT buckets go from 0.1 to 0.25 s, so "under 0.2 s" cannot be read from them: requests that all take
150 ms read as a P95 of 242 ms. A promise must therefore sit on a bound of a series that measures it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from fleet import signals as s
from fleet.errors import ConfigError
from fleet.signals import Signal
from fleet.slo import DEFAULT_MODEL, LatencyTarget, Slo, SloBook

# fmt: off
_TTFT: Final = (.001, .005, .01, .02, .04, .06, .08, .1, .25, .5, .75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560)
_TOKEN: Final = (.01, .025, .05, .075, .1, .15, .2, .3, .4, .5, .75, 1, 2.5, 5, 7.5, 10, 20, 40, 80)
_REQUEST: Final = (.3, .5, .8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680)
_ROUTER_LATENCY: Final = (.005, .025, .05, .1, .2, .4, .6, .8, 1, 1.5, 2, 3, 5, 10, 20, 40, 80, 160, 320, 640)
_ROUTER_TOKEN: Final = (.001, .0025, .005, .01, .015, .02, .025, .03, .04, .05, .075, .1, .15, .2, .5, 1, 5)
# fmt: on

BOUNDS: Mapping[str, tuple[float, ...]] = {
    s.ENGINE_TTFT.name: _TTFT,
    s.ENGINE_TPOT.name: _TOKEN,
    s.ENGINE_E2E.name: _REQUEST,
    s.ROUTER_TTFT.name: _ROUTER_LATENCY,
    s.ROUTER_TPOT.name: _ROUTER_TOKEN,
    s.ROUTER_DURATION.name: _ROUTER_LATENCY,
}
"""Default bounds by histogram, seconds: vLLM's and our router's (a test holds the latter against the router)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """One kind of latency promise: who measures it, and vLLM's name for its family of buckets."""

    key: str
    """Field of :class:`fleet.slo.Slo`."""
    router: Signal
    engine: Signal
    family: str
    router_matchers: tuple[tuple[str, str], ...] = ()

    def target(self, slo: Slo) -> LatencyTarget | None:
        """The promise, if one is made."""
        target: LatencyTarget | None = getattr(slo, self.key)
        return target


LATENCIES: Final = (
    Latency(key="ttft", router=s.ROUTER_TTFT, engine=s.ENGINE_TTFT, family="time_to_first_token",
            router_matchers=(("streaming", "true"),)),
    Latency(key="tpot", router=s.ROUTER_TPOT, engine=s.ENGINE_TPOT, family="inter_token_latency"),
    Latency(key="e2e", router=s.ROUTER_DURATION, engine=s.ENGINE_E2E, family="request_latency"),
)  # fmt: skip


def bound_matcher(bound_s: float) -> tuple[str, str]:
    """The ``le`` matcher of a bound: Python writes ``1.0`` where Go writes ``1``.

    >>> bound_matcher(0.2), bound_matcher(1)
    (('le', '0.2'), ('le', '~1([.]0)?'))
    """
    return ("le", f"~{bound_s:.0f}([.]0)?" if bound_s == int(bound_s) else f"{bound_s:g}")


def page_bounds(points: Iterable[tuple[str, str]]) -> dict[str, tuple[float, ...]]:
    """Bounds by histogram from (bucket series, le) pairs of a metrics page."""
    found: dict[str, set[float]] = {}
    for series, bound in points:
        if bound != "+Inf":
            found.setdefault(series.removesuffix("_bucket"), set()).add(float(bound))
    return {name: tuple(sorted(bounds)) for name, bounds in found.items()}


def _around(bound_s: float, bounds: tuple[float, ...]) -> str:
    near = [*[b for b in bounds if b < bound_s][-1:], *[b for b in bounds if b > bound_s][:1]]
    return " and ".join(f"{b:g}" for b in near) or "none"


def custom_flag(family: str, bounds: tuple[float, ...], bound_s: float) -> str:
    """vLLM's flag (0.32 and later) that adds a bound; a list replaces the whole family."""
    values = ", ".join(f"{b:g}" for b in sorted({*bounds, bound_s}))
    return f"--custom-histogram-buckets '{{\"{family}\": [{values}]}}'"


def engine_flag(book: SloBook, bounds: Mapping[str, tuple[float, ...]]) -> str:
    """vLLM's flag that adds every promised latency to the engine's own bounds; empty where it has them all.

    Args:
        book: the promises, of all models.
        bounds: what engines have now.
    """
    families = engine_families(book, bounds)
    return f"--custom-histogram-buckets '{json.dumps(families)}'" if families else ""


def engine_families(book: SloBook, bounds: Mapping[str, tuple[float, ...]] = BOUNDS) -> dict[str, list[float]]:
    """The flag's value: bounds by family, of the families that lack a promised latency."""
    families: dict[str, list[float]] = {}
    slos = (book.default, *book.models.values())
    for latency in LATENCIES:
        known = bounds.get(latency.engine.name, ())
        promised = {target.threshold_s for slo in slos if (target := latency.target(slo)) is not None}
        if promised - set(known):
            families[latency.family] = sorted({*known, *promised})
    return families


def problems(book: SloBook, bounds: Mapping[str, tuple[float, ...]], *, where: str) -> Iterator[ConfigError]:
    """One error for each latency target that no series can show.

    Args:
        book: the promises.
        bounds: bucket bounds by histogram, the deployed ones where they are known.
        where: name of the SLO file.
    """
    for slo in (book.default, *book.models.values()):
        for latency in LATENCIES:
            if (target := latency.target(slo)) is not None and not _shown_by(latency, target, bounds):
                yield _refusal(latency, target, bounds, f"{where}: {_entry(slo)}.{latency.key}.threshold_s")


def _entry(slo: Slo) -> str:
    return "default" if slo.model == DEFAULT_MODEL else f"models.{slo.model}"


def _shown_by(latency: Latency, target: LatencyTarget, bounds: Mapping[str, tuple[float, ...]]) -> bool:
    return any(target.threshold_s in bounds.get(signal.name, ()) for signal in (latency.router, latency.engine))


def _refusal(
    latency: Latency, target: LatencyTarget, bounds: Mapping[str, tuple[float, ...]], where: str
) -> ConfigError:
    at_s, known = target.threshold_s, [sig.name for sig in (latency.router, latency.engine) if sig.name in bounds]
    shown = "; ".join(f"{name} has {_around(at_s, bounds[name])}" for name in known)
    flag = custom_flag(latency.family, bounds.get(latency.engine.name, ()), at_s)
    return ConfigError(
        f"no histogram has a bucket bound at {at_s:g} s, so nothing can show it: {shown}",
        where=where,
        limit="a bound of one of them",
        next_step=f"Take such a bound, or run vLLM with {flag}.",
    )


def check(book: SloBook, bounds: Mapping[str, tuple[float, ...]] = BOUNDS, *, where: str = "slos.yaml") -> None:
    """Refuse promises that cannot be measured.

    Raises: ConfigError for the first one, with the vLLM flag that would make it measurable.
    """
    for problem in problems(book, bounds, where=where):
        raise problem


def measured_names() -> frozenset[str]:
    """Histograms that latency promises are read from, under all their names."""
    return frozenset(name for latency in LATENCIES for sig in (latency.router, latency.engine) for name in sig.names)
