"""All benches by name; a bench's modules are imported when it is asked for, so that ``--help`` needs none of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Final

from benchmarks.options import Bench

MODULES: Final[Mapping[str, str]] = {
    "alerts": "benchmarks.alerts.bench",
    "alerts-live": "benchmarks.alerts.live",
    "autoscaling": "benchmarks.autoscaling",
    "console": "benchmarks.console.bench",
    "decision": "benchmarks.decision",
    "disaggregation": "benchmarks.disaggregation",
    "index": "benchmarks.index",
    "loop": "benchmarks.loop.bench",
    "picker": "benchmarks.picker",
    "predictor": "benchmarks.predictor.bench",
    "proxy": "benchmarks.proxy",
    "replicas": "benchmarks.replicas",
    "routing": "benchmarks.routing",
    "simulator": "benchmarks.simulator.bench",
}
"""Name of each bench, and the module whose ``BENCH`` it is."""


class Benches(Mapping[str, Bench]):
    """Benches by name, imported at first use."""

    def __getitem__(self, name: str) -> Bench:
        """The bench of a name.

        Raises: KeyError when there is none.
        """
        found = import_module(MODULES[name]).BENCH
        if not isinstance(found, Bench) or found.name != name:
            raise TypeError(f"{MODULES[name]}.BENCH is not the bench {name!r}")
        return found

    def __contains__(self, name: object) -> bool:
        return name in MODULES

    def __iter__(self) -> Iterator[str]:
        return iter(MODULES)

    def __len__(self) -> int:
        return len(MODULES)


BENCHES: Final = Benches()
