"""``fleet bench picker``: Envoy alone, with a minimal Python picker, and with ours."""

from benchmarks.picker.bench import BENCH as BENCH
