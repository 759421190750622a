"""The autoscaling bench: published rules and ours on the same traffic, beside the clairvoyant."""

from benchmarks.autoscaling.run import BENCH

__all__ = ["BENCH"]
