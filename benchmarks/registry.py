"""All benches by name."""

from __future__ import annotations

from benchmarks.alerts.bench import BENCH as ALERTS
from benchmarks.alerts.live import BENCH as ALERTS_LIVE
from benchmarks.autoscaling import BENCH as AUTOSCALING
from benchmarks.console.bench import BENCH as CONSOLE
from benchmarks.decision import BENCH as DECISION
from benchmarks.disaggregation import BENCH as DISAGGREGATION
from benchmarks.index import BENCH as INDEX
from benchmarks.loop.bench import BENCH as LOOP
from benchmarks.options import Bench
from benchmarks.picker import BENCH as PICKER
from benchmarks.predictor.bench import BENCH as PREDICTOR
from benchmarks.proxy import BENCH as PROXY
from benchmarks.replicas import BENCH as REPLICAS
from benchmarks.routing import BENCH as ROUTING
from benchmarks.simulator.bench import BENCH as SIMULATOR

_ALL: tuple[Bench, ...] = (
    ALERTS, ALERTS_LIVE, AUTOSCALING, CONSOLE, DECISION, DISAGGREGATION, INDEX, LOOP, PICKER, PREDICTOR, PROXY,
    REPLICAS, ROUTING, SIMULATOR,
)  # fmt: skip

BENCHES: dict[str, Bench] = {bench.name: bench for bench in _ALL}
