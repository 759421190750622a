"""The tables of ``docs/disaggregation.md``, from the committed result; a test keeps the page to it.

``python -m benchmarks.disaggregation.page docs/disaggregation.md`` writes them (``make generate``).
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.disaggregation.layouts import DOCUMENTED, LAYOUTS, Layout
from benchmarks.marked import written

RESULT: Final = Path(__file__).parents[1] / "results" / "disaggregation.json"
BEGIN: Final = "<!-- from benchmarks/results/disaggregation.json, written by make generate -->"

ByLayout = Mapping[str, Sequence[float]]
"""Layout -> requests per second and GPU, of each seed."""


def tables(result: Mapping[str, Any]) -> str:
    """Where each wins, and what every layout bears, as Markdown."""
    found: Mapping[str, Mapping[str, ByLayout]] = result["results"]
    limits = list(next(iter(found.values())))
    wins = [_winner(lengths, slo, by_slo[slo]) for lengths, by_slo in found.items() for slo in by_slo]
    parts = [
        *("| prompt : answer | limits | best together | best apart | apart is |", "|---|---|---|---|---|", *wins, ""),
        "Every layout, in percent of the best that does both together, per GPU; **bold** where it is ahead, † the",
        "ratio that the source documents advise for these lengths.",
        "",
        f"| layout | GPUs | {' | '.join(f'{_ratio(lengths)}, {_short(slo)}' for lengths in found for slo in limits)} |",
        "|---|---|" + "---|" * (len(found) * len(limits)),
        *(_row(layout, found) for layout in LAYOUTS),
    ]
    return "\n".join(parts)


def _winner(lengths: str, slo: str, by_layout: ByLayout) -> str:
    together, apart = _best(by_layout, split=False), _best(by_layout, split=True)
    ahead = 100.0 * (_rate(by_layout, apart) / _rate(by_layout, together) - 1.0)
    said = f"{ahead:+.0f} %"
    return (f"| {_ratio(lengths)} | {slo} | {together.name}: {_rate(by_layout, together):.3f}/s | {apart.name}: "
            f"{_rate(by_layout, apart):.3f}/s | {f'**{said}**' if ahead > 0 else said} |")  # fmt: skip


def _row(layout: Layout, found: Mapping[str, Mapping[str, ByLayout]]) -> str:
    cells = [_cell(layout, lengths, by_layout) for lengths, by_slo in found.items() for by_layout in by_slo.values()]
    return f"| {layout.name} | {layout.gpus} | {' | '.join(cells)} |"


def _cell(layout: Layout, lengths: str, by_layout: ByLayout) -> str:
    percent = 100.0 * _rate(by_layout, layout) / _rate(by_layout, _best(by_layout, split=False))
    mark = " †" if layout.ratio == DOCUMENTED[_quotient(lengths)] else ""
    text = f"{percent:.0f}"
    return (f"**{text}**" if layout.ratio is not None and percent > 100.0 else text) + mark


def _rate(by_layout: ByLayout, layout: Layout) -> float:
    return statistics.median(by_layout[layout.name])


def _best(by_layout: ByLayout, *, split: bool) -> Layout:
    kind = [layout for layout in LAYOUTS if (layout.ratio is not None) == split]
    return max(kind, key=lambda layout: _rate(by_layout, layout))


def _quotient(lengths: str) -> float:
    prompt, answer = map(int, lengths.split("/"))
    return prompt / answer


def _ratio(lengths: str) -> str:
    """Prompt over answer.

    >>> _ratio("10000/1000")
    '10:1'
    """
    return f"{_quotient(lengths):g}:1"


def _short(slo: str) -> str:
    """Limits in few letters.

    >>> _short("TTFT 2 s, TPOT 25 ms")
    '2 s, 25 ms'
    """
    return slo.replace("TTFT ", "").replace("TPOT ", "")


def main(path: Path) -> None:
    """Write the tables into the page at ``path``."""
    result = json.loads(RESULT.read_text(encoding="utf-8"))
    path.write_text(written(path.read_text(encoding="utf-8"), BEGIN, tables(result)), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
