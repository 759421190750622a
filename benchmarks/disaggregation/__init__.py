"""``fleet bench disaggregation``: prompts computed apart from answers, against engines that do both."""

from benchmarks.disaggregation.bench import BARS, run
from benchmarks.options import Bench

BENCH = Bench(
    name="disaggregation", what="prefill and decode apart (xPyD) against both together, by prompt and answer length",
    bars=BARS, run=run,
)  # fmt: skip
