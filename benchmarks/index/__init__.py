"""``fleet bench index``: the KV-cache index with a million blocks on a hundred pods."""

from benchmarks.index.bench import BENCH as BENCH
