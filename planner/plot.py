"""Cost against latency as a picture. Pure: figures in, HTML out."""

from __future__ import annotations

import plotly.graph_objects as go

from planner.demand import Promise
from planner.optimise import Found, Tried


def figure(found: Found, promise: Promise) -> go.Figure:
    """Every tried candidate; the Pareto front as a line; the promise as a dashed one."""
    front = [one for one in found.tried if one.best]
    drawn = go.Figure()
    for gpu in sorted({one.hardware.gpu for one in found.tried}):
        these = [one for one in found.tried if one.hardware.gpu == gpu]
        drawn.add_scatter(
            x=[one.cost_per_hour for one in these],
            y=[one.trial.ttft_s for one in these],
            mode="markers",
            name=gpu,
            text=[_words(one) for one in these],
            hoverinfo="text",
            marker={"size": 11},
        )
    drawn.add_scatter(
        x=[one.cost_per_hour for one in front],
        y=[one.trial.ttft_s for one in front],
        mode="lines",
        name="nothing is cheaper and faster",
        line={"width": 1, "color": "#888"},
        hoverinfo="skip",
    )
    drawn.add_hline(y=promise.ttft_s, line_dash="dash", annotation_text="promised TTFT")
    drawn.update_layout(title="Cost against TTFT", xaxis_title="US dollars per hour",
                        yaxis_title=f"TTFT P{100 * promise.objective:g}, seconds", yaxis_type="log",
                        template="plotly_white")  # fmt: skip
    return drawn


def pareto(found: Found, promise: Promise) -> str:
    """A page of its own, with the script inside: it opens without a network."""
    return str(figure(found, promise).to_html(include_plotlyjs=True, full_html=True))


def _words(one: Tried) -> str:
    return (f"{one.trial.replicas} x {one.hardware.tensor_parallel} {one.hardware.gpu} {one.hardware.precision}<br>"
            f"${one.cost_per_hour:.2f}/h, TTFT {one.trial.ttft_s:.3f} s, "
            f"TPOT {1000 * one.trial.tpot_s:.1f} ms")  # fmt: skip
