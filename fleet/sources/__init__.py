"""Where metrics come from: scraped directly, or asked of a Prometheus, behind one interface."""

from fleet.sources.base import EngineReading, MetricSource, RouterQueue

__all__ = ["EngineReading", "MetricSource", "RouterQueue"]
