"""What surrounds every page: navigation, range and model, parts' health, refresh, and the states without data."""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib.resources import files
from typing import Final

import streamlit as st

from dashboards import data, html, view
from dashboards.pages import alerting, autoscaling, business, engines, infrastructure, overview, resources, routing
from dashboards.summary import Level
from dashboards.view import View
from dashboards.words import ago, clock, seconds
from fleet.errors import HistoryError

Render = Callable[[View], None]

SECTIONS: Final[dict[str, tuple[tuple[str, str, str, Render], ...]]] = {
    "": (("overview", "Overview", ":material/monitor_heart:", overview.render),),
    "Layers": (
        ("business", "L1 Business", ":material/speed:", business.render),
        ("vllm", "L2 vLLM", ":material/memory_alt:", engines.render),
        ("resources", "L3 Resources", ":material/developer_board:", resources.render),
        ("infrastructure", "L4 Infrastructure", ":material/lan:", infrastructure.render),
    ),
    "Control": (
        ("autoscaling", "Autoscaling", ":material/open_in_full:", autoscaling.render),
        ("routing", "Router & predictor", ":material/alt_route:", routing.render),
        ("alerts", "Alerts", ":material/notifications:", alerting.render),
    ),
}
"""Section -> (path, title, icon, what draws it)."""


def run() -> None:
    """Draw the page that the address names."""
    st.set_page_config(page_title="llm-fleet", page_icon=":material/monitor_heart:", layout="wide")
    st.html(f"<style>{_style()}</style>")
    view.restore()
    pages = {
        section: [st.Page(_page(render, path), title=title, icon=icon, url_path=path, default=path == "overview")
                  for path, title, icon, render in entries]
        for section, entries in SECTIONS.items()
    }  # fmt: skip
    st.session_state["pages"] = {page.url_path or "overview": page for entries in pages.values() for page in entries}
    chosen = st.navigation(pages, position="sidebar", expanded=True)
    controls()
    view.remember()
    chosen.run()


@st.cache_resource(show_spinner=False)
def _style() -> str:
    return (files("dashboards") / "static" / "style.css").read_text(encoding="utf-8")


def _page(render: Render, path: str) -> Callable[[], None]:
    def draw() -> None:
        body(render)

    draw.__name__ = path
    return draw


def body(render: Render) -> None:
    """One page, drawn again every tick while it is live."""
    every = view.tick_s(st.session_state["range"]) if st.session_state["at"] is None else None
    with st.sidebar:
        st.fragment(parts, run_every=every)()
    st.fragment(lambda: guarded(render), run_every=every, key="page")()


def guarded(render: Render) -> None:
    """A page, or the designed state for a history that is missing or broken."""
    try:
        seen = view.look()
        status(seen)
        render(seen)
    except HistoryError as error:
        without_history(error)


def without_history(error: HistoryError) -> None:
    """Nothing to show: why, and what to do."""
    missing = "no history yet" in error.what
    title = "There is no history yet" if missing else "The history cannot be read"
    text = f"{error.where}: {error.what}. " + (
        "Start the fleet, or point the console at another history with --history-url. This page fills by itself."
        if missing else error.next_step)  # fmt: skip
    st.html(html.empty(title, text, command="fleet up" if missing else "", icon="◌" if missing else "✕"))


def status(seen: View) -> None:
    """How fresh is what is shown; a way out when it is old."""
    mode = '<span class="fl-live">live</span>' if seen.live else (
        f'<span class="fl-frozen">fixed at {clock(seen.window.until_s, seen.zone, with_date=True)}</span>')  # fmt: skip
    zone = getattr(seen.zone, "key", "UTC")
    st.html(f'<div class="fl-status">{mode}<span>updated {clock(seen.now_s, seen.zone)}</span>'
            f"<span>newest data {ago(seen.age_s)}</span><span>times in {zone}</span>"
            f"<span>one point = {seconds(seen.width_s)}</span></div>")  # fmt: skip
    if seen.live and seen.newest_s is not None and seen.newest_s < seen.window.since_s:
        st.html(html.empty(f"Nothing in the last {seconds(seen.window.span_s)}",
                           f"The newest data are from {clock(seen.newest_s, seen.zone, with_date=True)}."))  # fmt: skip
        st.button("Show that time", on_click=_go_to, args=(seen.newest_s + 1.0,), icon=":material/history:")


def _go_to(moment_s: float) -> None:
    st.session_state["at"] = moment_s
    st.session_state["live"] = False


def _live_changed() -> None:
    st.session_state["at"] = None if st.session_state["live"] else time.time() // 1


def controls() -> None:
    """Model, range and live, above every page; the address keeps them."""
    state = st.session_state
    options = sorted({*view.known_models(), state["model"], view.ALL_MODELS})
    with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="right", key="controls"):
        st.selectbox("Model", options, key="model", label_visibility="collapsed", width=280,
                     format_func=lambda name: name or "All models")  # fmt: skip
        st.segmented_control("Time range", list(view.RANGES), key="range", required=True, label_visibility="collapsed",
                             format_func=view.RANGE_WORDS.__getitem__)  # fmt: skip
        st.toggle("Live", key="live", on_change=_live_changed, help="Off: the time range stays where it is now.")


def parts() -> None:
    """The other parts and whether they answer, at the foot of the navigation."""
    lines = []
    for name, answer in data.health().items():
        if answer.reachable and not answer.problem:
            lines.append(html.part(name, Level.GOOD, "answers"))
        elif answer.reachable:
            lines.append(html.part(name, Level.ATTENTION, answer.problem))
        else:
            since = clock(answer.since_s, view.viewer_zone())
            lines.append(html.part(name, Level.UNKNOWN, f"not reachable since {since}"))
    st.html(f'<div class="fl-parts"><div class="fl-sub">Parts</div>{"".join(lines)}</div>')
