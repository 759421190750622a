"""What a bench is asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.result import Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchOptions:
    """Options of ``fleet bench NAME``."""

    seeds: tuple[int, ...] = (1, 2, 3)
    workload: str = ""
    """A workload file, or the name of a known workload; empty: the bench's published one."""
    scale: float = 1.0
    """Multiplies the workload's rate."""
    traces: Path | None = None
    """Folder of trace files (FLEET_TRACES)."""
    jobs: int = 1
    """Processes for benches whose runs are independent; what they find does not depend on it."""
    extra: bool = False
    """Comparisons beyond the default ones, where a bench has them."""
    progress: Callable[[float, str], None] = lambda _share, _what: None
    """Called with the share done (0..1) and a word on what is running."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """A bench by name."""

    name: str
    what: str
    """One line for ``fleet bench --list``."""
    bars: tuple[str, ...]
    run: Callable[[BenchOptions], Outcome]
