"""An operator's actions: pause a variant, narrow its bounds, hold everything for a while. Behind two switches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from html import escape
from typing import Any

import streamlit as st

from dashboards import actions, data, html
from dashboards.actions import Actions, Laid, State
from dashboards.panels import section
from dashboards.view import View
from dashboards.words import clock
from fleet.errors import SourceError


def render(view: View) -> None:
    """The panel; nothing where the console may not act and nothing holds."""
    answer = data.ask("controller", "/overrides")
    state = actions.parse(answer.document if answer else None)
    may = data.settings().actions
    if not may and not state.any:
        return
    with st.container(border=True, key="panel-actions"):
        section("Operator", "what people laid over the controller's own rules; each change is recorded as an event")
        st.html(_held(state, view))
        if not may:
            return
        if not state.allowed:
            st.html(html.empty("The controller takes no actions", "Start it with --allow-overrides "
                               "(WVA_ALLOW_OVERRIDES=true), and on other than loopback with a token."))  # fmt: skip
            return
        if st.toggle("Change things", key="acting", help="Off: nothing here can be clicked by accident."):
            _controls(state)


def _held(state: State, view: View) -> str:
    lines = (
        ["<strong>Dry run:</strong> every variant stays where it is; decisions tell what they would have done."]
        if state.dry_run
        else []
    )
    for name, laid in sorted(state.variants.items()):
        who = f" by {escape(laid.by)}" if laid.by else ""
        lines.append(f"<strong>{escape(name)}</strong>: {laid.words}{who} since "
                     f"{clock(laid.at_s, view.zone, with_date=True)}")  # fmt: skip
    text = "<br>".join(lines) or "Nothing: every variant follows its own bounds."
    return f'<p class="fl-sub">{text}</p>'


def _controls(state: State) -> None:
    specs = _specs()
    shown = st.session_state.get("message-actions", "")
    left, right = st.columns([3, 1], gap="small", vertical_alignment="bottom")
    with right:
        label = "End the dry run" if state.dry_run else "Dry run: hold everything"
        st.button(label, on_click=_act, args=(lambda to, by: to.dry_run(on=not state.dry_run, by=by),), width="stretch")
    if specs:
        with left:
            name = st.selectbox("Variant", sorted(specs), key="acting-on")
        _of_variant(name, specs[name], state.variants.get(name))
    if shown:
        st.html(f'<p class="fl-sub" role="status">{escape(shown)}</p>')


def _of_variant(name: str, own: tuple[int, int], laid: Laid | None) -> None:
    (low, high), now = own, laid or Laid()
    # What was laid before its owner changed the bounds may lie outside them now.
    least, greatest = (
        min(max(value, low), high) for value in (_or(now.min_replicas, low), _or(now.max_replicas, high))
    )
    with st.container(horizontal=True, vertical_alignment="bottom"):
        fewest = st.number_input("At least", low, high, least, key=f"low-{name}", width=120)
        most = st.number_input("At most", low, high, greatest, key=f"high-{name}", width=120)
        st.button("Set bounds", disabled=fewest > most, on_click=_act, key="set-bounds",
                  args=(lambda to, by: to.bound(name, int(fewest), int(most), by=by),))  # fmt: skip
        st.button("Pause", disabled=now.paused, on_click=_act, icon=":material/pause:", key="pause",
                  args=(lambda to, by: to.pause(name, by=by),))  # fmt: skip
        st.button("Back to its own bounds", disabled=laid is None, on_click=_act, icon=":material/undo:", key="clear",
                  args=(lambda to, by: to.clear(name, by=by),))  # fmt: skip
    st.html(f'<p class="fl-sub">Its owner allows {low} to {high} replicas; bounds set here can only be narrower.</p>')


def _or(value: int | None, otherwise: int) -> int:
    return otherwise if value is None else value


def _specs() -> dict[str, tuple[int, int]]:
    """Variants of the controller's last pass with their own bounds."""
    answer = data.ask("controller", "/fleet")
    document = answer.document if answer and isinstance(answer.document, Mapping) else {}
    entries: list[dict[str, Any]] = (document.get("snapshot") or {}).get("variants") or []
    specs = [entry["spec"] for entry in entries]
    return {f"{spec['namespace']}/{spec['name']}": (int(spec["min_replicas"]), int(spec["max_replicas"]))
            for spec in specs}  # fmt: skip


def _act(what: Callable[[Actions, str], State]) -> None:
    chosen = data.settings()
    to = Actions(chosen.parts().get("controller", ""), chosen.wva_token.get_secret_value())
    try:
        what(to, data.user())
        said = "Done; the controller follows with its next pass."
    except SourceError as error:
        said = str(error)
    st.session_state["message-actions"] = said
    data.ask.clear()
