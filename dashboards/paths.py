"""Addresses of the console's pages, for those who only visit them: importing this loads no page and no Streamlit."""

from __future__ import annotations

from typing import Final

PATHS: Final = (
    "overview", "business", "vllm", "resources", "infrastructure", "autoscaling", "whatif", "routing", "prediction",
    "cache", "planner", "alerts",
)  # fmt: skip
"""In the order of the navigation (:data:`dashboards.frame.SECTIONS`, which a test holds against this)."""
