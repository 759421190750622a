"""The script that Streamlit runs for every visitor: frame, controls, one page."""

from __future__ import annotations

from dashboards.frame import run

run()
