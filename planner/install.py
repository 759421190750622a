"""One configuration model of our own parts, from which ``fleet up`` and the chart's values both follow. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fleet.slo import DEFAULT_SLOS, LatencyTarget, Slo
from fleet.up.plan import Ports, UpOptions, parts

RUNS: Final = ("predictor", "router", "wva", "alerts", "console")
"""Parts that a cluster runs too; engines and traffic are its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One of our parts as ``fleet up`` starts it."""

    name: str
    command: tuple[str, ...]
    """Words of the command, without its options."""
    ports: tuple[int, ...]
    """Where it listens: clients first, then health and metrics where they are apart."""
    health: str
    """Path of its health page."""


def services() -> tuple[Service, ...]:
    """Our parts, around engines that are not ours: what ``fleet up --engines`` starts."""
    ports = Ports()
    listening = {"predictor": (ports.predictor,), "router": (ports.router, ports.router_admin), "wva": (ports.wva,),
                 "alerts": (ports.alerts,), "console": (ports.console,)}  # fmt: skip
    options = UpOptions(home=Path(), history_url="", engines="http://engine:8000", traffic=False)
    started = {part.name: part for part in parts(options, ports)}
    return tuple(
        Service(name=name, command=_words(started[name].argv), ports=listening[name],
                health="/" + started[name].health_url.split("/", 3)[3])
        for name in RUNS
    )  # fmt: skip


def chart_values() -> dict[str, Any]:
    """The chart's values that must follow from what the code says: ports and promises."""
    found: dict[str, Any] = {one.name: {"port": one.ports[0]} for one in services()}
    found["router"]["adminPort"] = next(one for one in services() if one.name == "router").ports[1]
    return {**found, "slos": {"default": _promise(DEFAULT_SLOS.default), "models": {}}}


def _words(argv: tuple[str, ...]) -> tuple[str, ...]:
    """``predictor serve`` out of ``python -m fleet.cli predictor serve --host ...``."""
    after = argv[argv.index("fleet.cli") + 1 :]
    return after[: next(index for index, word in enumerate(after) if word.startswith("--"))]


def _promise(slo: Slo) -> dict[str, Any]:
    def latency(target: LatencyTarget | None) -> dict[str, float] | None:
        return None if target is None else {"threshold_s": target.threshold_s, "objective": target.objective}

    found = {"ttft": latency(slo.ttft), "tpot": latency(slo.tpot), "success_rate": slo.success_rate,
             "output_tps": slo.output_tps, "window": slo.window}  # fmt: skip
    return {key: value for key, value in found.items() if value is not None}
