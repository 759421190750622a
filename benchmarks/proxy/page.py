"""The table of proxies in ``docs/router.md``, from the committed result; a test keeps the page to it.

``python -m benchmarks.proxy.page docs/router.md`` writes it (``make generate``).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from benchmarks.marked import written
from benchmarks.proxy.arms import COMPILED, OURS
from benchmarks.proxy.bench import DIRECT

RESULT: Final = Path(__file__).parents[1] / "results" / "proxy.json"
BEGIN: Final = "<!-- from benchmarks/results/proxy.json, written by make generate -->"
_NAMES: Final = {
    COMPILED: "ours, native code (what is shipped)",
    OURS: "ours, plain Python",
    "envoy": "Envoy, no picker",
    "vllm-router round_robin": "vllm-router, round robin",
    "sglang-router cache_aware": "sglang-router, cache aware",
    "vllm-router cache_aware": "vllm-router, cache aware",
    "litellm": "LiteLLM",
    DIRECT: "no proxy",
}
"""In the order of the rows; arms that are not here come before the last one, as they are named."""


def table(result: Mapping[str, Any]) -> str:
    """Requests/s, time to answer and time to a stream's first chunk of every arm, as Markdown."""
    arms: Mapping[str, Mapping[str, float]] = result["results"]["arms"]
    there = {name.split("/", 1)[0] for name in arms}
    *known, last = _NAMES
    rows = [name for name in (*known, *sorted(there - set(_NAMES)), last) if name in there]
    return "\n".join([
        "| | requests/s at 16 connections | at 64 | streams/s at 64 | P50 at one | a stream's first chunk at one |",
        "|---|---|---|---|---|---|",
        *(_row(name, arms) for name in rows),
    ])  # fmt: skip


def _row(name: str, arms: Mapping[str, Mapping[str, float]]) -> str:
    rates = [arms[f"{name}/{setting}"]["rps"] for setting in ("16/plain", "64/plain", "64/stream")]
    said = " | ".join(f"{rate:,.0f}".replace(",", " ") for rate in rates)
    whole_ms, first_ms = arms[f"{name}/1/plain"]["p50_ms"], arms[f"{name}/1/stream"]["first_p50_ms"]
    return f"| {_NAMES.get(name, name)} | {said} | {whole_ms:.2f} ms | {first_ms:.2f} ms |"


def main(path: Path) -> None:
    """Write the table into the page at ``path``."""
    result = json.loads(RESULT.read_text(encoding="utf-8"))
    path.write_text(written(path.read_text(encoding="utf-8"), BEGIN, table(result)), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
