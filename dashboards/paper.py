"""A page on paper: written once for everybody who looks at the same moment, then shown to each viewer.

While a sheet is being written (:func:`sheet`), the functions here note what belongs where; :func:`show` draws it with
Streamlit. Without a sheet they draw at once, so the same page code serves both: what depends on one viewer (a switch,
a row that was selected) goes through :func:`live`, which runs for each of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar, Token
from dataclasses import dataclass, field
from typing import Any, Literal

import streamlit as st

Node = Callable[[], object]
"""Draws one thing for the viewer in whose session it is called."""


@dataclass(slots=True)
class Sheet:
    """Things to show, in order; inside ``with`` what is written lands here."""

    nodes: list[Node] = field(default_factory=list)
    _tokens: list[Token[Sheet | None]] = field(default_factory=list)

    def __enter__(self) -> Sheet:
        self._tokens.append(_HERE.set(self))
        return self

    def __exit__(self, *_: object) -> None:
        _HERE.reset(self._tokens.pop())

    def show(self) -> None:
        """Draw it in this viewer's session."""
        for node in self.nodes:
            node()


_HERE: ContextVar[Sheet | None] = ContextVar("sheet", default=None)


@contextmanager
def sheet() -> Iterator[Sheet]:
    """A new sheet to write on."""
    with Sheet() as written:
        yield written


def live(draw: Node) -> None:
    """What is made for each viewer anew."""
    here = _HERE.get()
    if here is None:
        draw()
    else:
        here.nodes.append(draw)


def html(text: str) -> None:
    """A piece of HTML from :mod:`dashboards.html`."""
    live(lambda: st.html(text))


def code(text: str) -> None:
    """A command to copy."""
    live(lambda: st.code(text, language=None, wrap_lines=True))


def columns(widths: int | Sequence[float]) -> Sequence[AbstractContextManager[Any]]:
    """Columns side by side, to be written in with ``with``."""
    if _HERE.get() is None:
        return st.columns(widths, gap="small")
    sheets = [Sheet() for _ in range(widths if isinstance(widths, int) else len(widths))]

    def draw() -> None:
        for place, own in zip(st.columns(widths, gap="small"), sheets, strict=True):
            with place:
                own.show()

    live(draw)
    return sheets


def frame(key: str) -> AbstractContextManager[Any]:
    """A panel's border, to be written in with ``with``."""
    if _HERE.get() is None:
        return st.container(border=True, key=f"panel-{key}")
    own = Sheet()

    def draw() -> None:
        with st.container(border=True, key=f"panel-{key}"):
            own.show()

    live(draw)
    return own


def rows(frame: Any, *, key: str, alt: str, height: int | Literal["auto", "content"] = "auto") -> None:
    """A table."""
    live(lambda: st.dataframe(frame, key=key, hide_index=True, placeholder="–", height=height, alt=alt))
