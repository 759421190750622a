"""Draws a plot with matplotlib (extra ``bench``)."""

from __future__ import annotations

from pathlib import Path

from benchmarks.result import Plot
from fleet.errors import ConfigError

PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
"""Okabe and Ito's colours, readable with any colour vision."""


def draw(plot: Plot, path: Path) -> None:
    """Write ``plot`` to ``path`` (SVG).

    Raises: ConfigError when matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415  # an extra: only --out needs it
    except ImportError:
        raise ConfigError("matplotlib is not installed, so no plot can be drawn", where="--out",
                          next_step="pip install 'llm-fleet[bench]'.") from None  # fmt: skip
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    axes.set_prop_cycle(color=PALETTE)
    for series in plot.series:
        axes.plot(series.x, series.y, "o" if series.markers_only else "o-", markersize=4, label=series.name)
    axes.set(title=plot.title, xlabel=plot.x_label, ylabel=plot.y_label)
    axes.set_yscale("log" if plot.log_y else "linear")
    axes.grid(visible=True, alpha=0.3)
    axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5))
    # No date in the file: the same result gives the same bytes.
    figure.savefig(path, format="svg", metadata={"Date": None})
