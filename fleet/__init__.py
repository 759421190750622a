"""Shared vocabulary of the fleet: types, signals, SLOs, sources, history, settings."""

__version__ = "0.1.0"
