"""``fleet bench proxy``: requests through the proxy and through its peers, over real sockets, in one run."""

from benchmarks.options import Bench
from benchmarks.proxy.bench import BARS, run

BENCH = Bench(
    name="proxy", what="the proxy, Envoy, sglang-router, vllm-router and LiteLLM before the same canned engines",
    bars=BARS, run=run,
)  # fmt: skip
