"""What surrounds every page: navigation, range and model, parts' health, refresh, and the states without data."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from typing import Any, Final

import pandas as pd
import streamlit as st

from dashboards import data, html, paper, view
from dashboards.login import may_look
from dashboards.pages import (
    alerting,
    autoscaling,
    business,
    cache,
    engines,
    infrastructure,
    overview,
    planning,
    prediction,
    resources,
    routing,
    whatif,
)
from dashboards.press import Press
from dashboards.summary import Level
from dashboards.timing import BEHIND, DRAWN, PACE, WRITTEN
from dashboards.view import Asked, View
from dashboards.words import ago, clock, seconds
from fleet.errors import HistoryError, SourceError

pd.set_option("mode.string_storage", "python")
"""Words as Python's own: pages cut tables of some hundred rows many times, and each cut of an Arrow column costs more
than the rows in it; pages are drawn in a quarter less time."""

Render = Callable[[View], None]
SHOWN_AGAIN_S: Final = 15.0
"""A live page that is so old, or two ticks, may be shown again while the new one is written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One page of the navigation."""

    path: str
    title: str
    lead: str
    """What the page answers."""
    icon: str
    render: Render


SECTIONS: Final[dict[str, tuple[Entry, ...]]] = {
    "": (
        Entry(
            path="overview", title="Overview", lead="is the fleet well?", icon="monitor_heart", render=overview.render
        ),
    ),
    "Layers": (
        Entry(
            path="business", title="L1 Business", lead="are the promises kept?", icon="speed", render=business.render
        ),
        Entry(path="vllm", title="L2 vLLM", lead="what are the engines doing?", icon="memory", render=engines.render),
        Entry(
            path="resources",
            title="L3 Resources",
            lead="GPUs, their memory, their price",
            icon="developer_board",
            render=resources.render,
        ),
        Entry(
            path="infrastructure",
            title="L4 Infrastructure",
            lead="what runs, what restarted, is the loop well?",
            icon="lan",
            render=infrastructure.render,
        ),
    ),
    "Control": (
        Entry(
            path="autoscaling",
            title="Autoscaling",
            lead="planned, requested, observed, and why",
            icon="open_in_full",
            render=autoscaling.render,
        ),
        Entry(
            path="whatif",
            title="What if",
            lead="other settings, tried on the recorded load",
            icon="swap_horiz",
            render=whatif.render,
        ),
        Entry(
            path="routing",
            title="Router",
            lead="where requests went, how even the load is, what is held back",
            icon="alt_route",
            render=routing.render,
        ),
        Entry(
            path="prediction",
            title="Predictor",
            lead="how good the guesses are, and whether the model still fits",
            icon="online_prediction",
            render=prediction.render,
        ),
        Entry(
            path="cache",
            title="Cache",
            lead="blocks by engine, what prefixes save",
            icon="database",
            render=cache.render,
        ),
        Entry(
            path="planner",
            title="Planner",
            lead="what the traffic asks for, and what it costs",
            icon="calculate",
            render=planning.render,
        ),
        Entry(
            path="alerts",
            title="Alerts",
            lead="what fires, what fired, and why",
            icon="notifications",
            render=alerting.render,
        ),
    ),
}


def entry(path: str) -> Entry:
    """The page of a path.

    >>> entry("vllm").title
    'L2 vLLM'
    """
    return next(page for pages in SECTIONS.values() for page in pages if page.path == path)


def run() -> None:
    """Draw the page that the address names."""
    st.set_page_config(page_title="llm-fleet", page_icon=_static("favicon.svg"), layout="wide")
    st.html(f"<style>{_static('style.css')}</style>")
    if not admitted():
        return
    view.restore()
    pages = {section: [_page(page) for page in entries] for section, entries in SECTIONS.items()}
    st.session_state["pages"] = {page.url_path or "overview": page for found in pages.values() for page in found}
    chosen = st.navigation(pages, position="sidebar", expanded=True)
    if chosen.url_path == "" and "alert" in st.query_params:  # an alert's link names no page
        st.switch_page(st.session_state["pages"]["alerts"], query_params=st.query_params.to_dict())
    controls()
    view.remember()
    chosen.run()


def admitted() -> bool:
    """Whether the viewer may look; where people sign in, draws the way to do so for those who have not."""
    chosen = data.settings()
    if chosen.oidc is None:
        return True
    email = str(st.user.get("email") or "")
    if st.user.get("is_logged_in") and may_look(email, st.user.get("email_verified"), chosen.oidc_allow):
        with st.sidebar:
            st.button("Sign out", on_click=st.logout, icon=":material/logout:", type="tertiary", help=email or None)
        return True
    if st.user.get("is_logged_in"):
        who = email or "somebody without an address"
        st.html(
            html.empty("You may not look here", f"You are signed in as {who}: not on this console's list.", icon="✕")
        )
        label, way = "Sign in as somebody else", st.logout
    else:
        st.html(html.empty("Sign in", "This console shows the fleet to people it knows.", icon="◌"))
        label, way = "Sign in", st.login
    with st.container(horizontal=True, horizontal_alignment="center"):
        st.button(label, on_click=way, icon=":material/login:", type="primary")
    return False


@st.cache_resource(show_spinner=False)
def _static(name: str) -> str:
    return (files("dashboards") / "static" / name).read_text(encoding="utf-8")


def _page(page: Entry) -> Any:
    def draw() -> None:
        body(page)

    draw.__name__ = page.path
    return st.Page(
        draw, title=page.title, icon=f":material/{page.icon}:", url_path=page.path, default=page.path == "overview"
    )


def body(page: Entry) -> None:
    """One page, drawn again every tick while it is live."""
    every = view.tick_s(st.session_state["range"]) if st.session_state["at"] is None else None
    with st.sidebar:
        st.fragment(parts, run_every=every)()
    st.fragment(lambda: paced(page, every), run_every=every, key="page")()


def paced(page: Entry, every_s: float | None) -> None:
    """A page, and the whole script again when the time between draws is to be another one."""
    begun = time.thread_time()
    guarded(page)
    PACE.note(time.thread_time() - begun)
    if every_s is not None and st.session_state["at"] is None and view.tick_s(st.session_state["range"]) != every_s:
        st.rerun()


def guarded(page: Entry) -> None:
    """A page, or the designed state for a history that is missing or broken."""
    try:
        with DRAWN.labels(page.path).time():
            _sheet(page).show()
    except HistoryError as error:
        st.html(heading(page))
        without_history(error)
    except SourceError as error:
        st.html(heading(page))
        st.html(html.empty("Prometheus cannot be read", f"{error}", icon="✕"))


PRESS: Final = Press[paper.Sheet](worked=PACE.note)
"""Of this process."""


def _sheet(page: Entry) -> paper.Sheet:
    """The page that this viewer asks for, written once for all who ask for the same."""
    wanted = view.asked()
    moment, tick = wanted.until_s(time.time()), view.tick_s(wanted.range_key)
    oldest = moment - max(SHOWN_AGAIN_S, 2 * tick) if wanted.at_s is None else None
    source = data.settings().model_dump_json(include={"history_url", "prometheus_url"})
    found, new = PRESS.sheet(
        (page.path, wanted, source), moment, lambda: write(page, wanted, time.time()), oldest_s=oldest
    )
    if not new:
        BEHIND.labels(page.path).inc()
    return found


def write(page: Entry, wanted: Asked, now_s: float) -> tuple[float, paper.Sheet]:
    """A page on paper, and the moment that it shows; needs no session.

    Raises: HistoryError, SourceError when what it shows cannot be read.
    """
    with WRITTEN.labels(page.path).time(), paper.sheet() as whole:
        seen = view.look(wanted, now_s)
        paper.html(heading(page, status(seen)))
        if _too_old(seen):
            _show_old(seen)
        else:
            page.render(seen)
    return seen.window.until_s, whole


def heading(page: Entry, note: str = "") -> str:
    """The page's title, what it answers, and how fresh it is."""
    title = page.title.split(" ", 1)[1] if page.title.startswith("L") and page.title[1:2].isdigit() else page.title
    return f'<div class="fl-title"><h1>{escape(title)}</h1><p>{escape(page.lead)}</p>{note}</div>'


def without_history(error: HistoryError) -> None:
    """Nothing to show: why, and what to do."""
    missing = "no history yet" in error.what
    title = "There is no history yet" if missing else "The history cannot be read"
    text = f"{error.where}: {error.what}. " + (
        "Start the fleet, or point the console at another history with --history-url. This page fills by itself."
        if missing
        else error.next_step
    )
    st.html(html.empty(title, text, command="fleet up" if missing else "", icon="◌" if missing else "✕"))


def status(seen: View) -> str:
    """How fresh is what is shown."""
    if seen.live:
        newest = "no data yet" if seen.age_s is None else f"newest data {ago(seen.age_s)}"
        mode = f'<span class="fl-live">live, {newest}</span>'
    else:
        mode = f'<span class="fl-frozen">until {clock(seen.window.until_s, seen.zone, with_date=True)}</span>'
    zone = getattr(seen.zone, "key", "UTC")
    return (
        f'<div class="fl-status">{mode}<span>updated {clock(seen.now_s, seen.zone)} {escape(zone)}</span>'
        f"<span>one point = {seconds(seen.width_s)}</span></div>"
    )


def _too_old(seen: View) -> bool:
    """Whether all data lie before a live window."""
    return seen.live and seen.newest_s is not None and seen.newest_s < seen.window.since_s


def _show_old(seen: View) -> None:
    """Say so, with a way there."""
    newest_s = seen.newest_s or 0.0
    when = clock(newest_s, seen.zone, with_date=True)
    text = f"The newest data are from {when}. Start the fleet to get new ones, or look at that time."
    paper.html(html.empty(f"Nothing in the last {seconds(seen.window.span_s)}", text, command="fleet up", icon="◌"))
    paper.live(lambda: _way_back(newest_s + 1.0))


def _way_back(moment_s: float) -> None:
    with st.container(horizontal=True, horizontal_alignment="center"):
        st.button("Show that time", on_click=_go_to, args=(moment_s,), icon=":material/history:")


def _go_to(moment_s: float) -> None:
    st.session_state["at"] = moment_s
    st.session_state["live"] = False


def _live_changed() -> None:
    st.session_state["at"] = None if st.session_state["live"] else time.time() // 1


def _narrower_filters_off() -> None:
    """Another model has other variants."""
    st.session_state["namespace"] = st.session_state["variant"] = ""


def controls() -> None:
    """Model, namespace, variant, range and live, above every page; the address keeps them."""
    state = st.session_state
    options = ["", *sorted({*view.known_models(view.asked().until_s(time.time())), state["model"]} - {""})]
    with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="right", key="controls"):
        st.selectbox(
            "Model",
            options,
            key="model",
            label_visibility="collapsed",
            width=280,
            format_func=lambda name: name or "All models",
            on_change=_narrower_filters_off,
        )
        for name in ("namespace", "variant"):
            choices = view.choices(name)
            if len(choices) > 1 or state[name]:
                st.selectbox(
                    name.capitalize(),
                    ["", *choices],
                    key=name,
                    label_visibility="collapsed",
                    width=190,
                    format_func=lambda value, name=name: value or f"All {name}s",
                )
        st.segmented_control(
            "Time range",
            list(view.RANGES),
            key="range",
            required=True,
            label_visibility="collapsed",
            format_func=view.RANGE_WORDS.__getitem__,
        )
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
            lines.append(html.part(name, Level.ATTENTION, f"not reachable since {since}"))
    if lines:
        st.html(f'<div class="fl-parts"><div class="fl-sub">Parts</div>{"".join(lines)}</div>')
