"""The live table of ``fleet up``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

_STATE_STYLE = {"up": "green", "starting": "yellow", "restarting": "red", "waiting": "dim", "done": "cyan"}


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantLine:
    """One row of the table."""

    variant: str
    accelerator: str
    ready: int
    starting: int
    desired: int | None
    saturation: float | None
    ttft_p95_s: float | None
    tokens_per_s: float
    cost_per_hour: float
    decision: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Screen:
    """Everything the terminal shows."""

    lines: Sequence[VariantLine] = ()
    parts: Mapping[str, str] = field(default_factory=dict)
    addresses: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    news: Sequence[str] = ()
    traffic: Mapping[str, Any] = field(default_factory=dict)
    elapsed_s: float = 0.0


def _bar(value: float | None) -> Text:
    if value is None:
        return Text("-", style="dim")
    style = "red" if value > 0.8 else "yellow" if value > 0.6 else "green"
    filled = round(min(value, 1.0) * 10)
    return Text(f"{'█' * filled}{'░' * (10 - filled)} {value:.2f}", style=style)


def _variants(lines: Sequence[VariantLine]) -> Table:
    table = Table(expand=True, box=None, pad_edge=False, header_style="bold")
    table.add_column("variant", no_wrap=True)
    table.add_column("replicas", justify="right", no_wrap=True)
    table.add_column("saturation", no_wrap=True, min_width=15)
    table.add_column("TTFT P95", justify="right", no_wrap=True)
    table.add_column("tokens/s", justify="right", no_wrap=True)
    table.add_column("$/h", justify="right", no_wrap=True)
    table.add_column("last decision, and why", ratio=1)
    for line in lines:
        replicas = f"{line.ready}/{'-' if line.desired is None else line.desired}"
        table.add_row(
            Text(line.variant, style="bold") + Text(f" {line.accelerator}", style="dim"),
            replicas + (f" (+{line.starting} starting)" if line.starting else ""),
            _bar(line.saturation),
            "-" if line.ttft_p95_s is None else f"{line.ttft_p95_s * 1e3:.0f} ms",
            f"{line.tokens_per_s:,.0f}",
            f"{line.cost_per_hour:.2f}",
            line.decision,
        )
    return table


def _traffic(traffic: Mapping[str, Any]) -> str:
    if not traffic:
        return "no traffic yet"
    p95 = (traffic.get("ttft_s") or {}).get("p95")
    latency = "" if p95 is None else f", TTFT P95 {p95 * 1e3:.0f} ms as the client sees it"
    counts = f"{traffic.get('sent', 0)} sent, {traffic.get('ok', 0)} served, {traffic.get('failed', 0)} failed"
    return f"{counts}{latency}"


def render(screen: Screen) -> Group:
    """The screen as one rich renderable."""
    parts = Text()
    for name, state in screen.parts.items():
        parts.append("● ", style=_STATE_STYLE.get(state, ""))
        parts.append(f"{name} " if state == "up" else f"{name} ({state}) ")
    addresses = Table.grid(padding=(0, 2))
    for name, address in screen.addresses.items():
        addresses.add_row(Text(name, style="dim"), Text(address, style="cyan"))
    body: list[RenderableType] = [
        Text(f"llm-fleet  up {screen.elapsed_s:.0f} s   {_traffic(screen.traffic)}", style="bold"),
        parts,
        Panel(_variants(screen.lines), title="variants (replicas ready/desired)", title_align="left"),
        addresses,
        *(Text(f"· {note}", style="dim") for note in screen.notes),
        *(Text(line) for line in list(screen.news)[-6:]),
        Text("Ctrl-C ends everything.", style="dim"),
    ]
    return Group(*body)
