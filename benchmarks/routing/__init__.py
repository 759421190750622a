"""``fleet bench routing``: ways to route on published workloads, in virtual time."""

from benchmarks.options import Bench
from benchmarks.routing.bench import BARS, run

BENCH = Bench(
    name="routing", what="ways to route on the published 8-pod ladder, scenarios A-D and traces, in virtual time",
    bars=BARS, run=run,
)  # fmt: skip
