"""``fleet bench decision``: what one scheduling decision costs, everything included."""

from benchmarks.decision.bench import BARS, run
from benchmarks.options import Bench

BENCH = Bench(
    name="decision", what="one decision over 100 endpoints with every scorer and predicted latency: P99 by prompt",
    bars=BARS, run=run,
)  # fmt: skip
