"""All benches by name."""

from __future__ import annotations

from benchmarks.options import Bench

_ALL: tuple[Bench, ...] = ()

BENCHES: dict[str, Bench] = {bench.name: bench for bench in _ALL}
