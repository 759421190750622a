"""``fleet bench replicas``: what several router replicas lose that do not talk to each other."""

from benchmarks.replicas.bench import BENCH as BENCH
