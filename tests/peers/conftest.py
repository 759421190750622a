"""Programs of others against our parts."""

from tests.simulator.conftest import launch_engine

__all__ = ["launch_engine"]
