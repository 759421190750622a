"""Tables that are written into a page of the docs, between two marks; tests keep the pages to the committed results."""

from __future__ import annotations

from typing import Final

END: Final = "<!-- end -->"


def written(page: str, begin: str, text: str) -> str:
    """The page with ``text`` between the mark ``begin`` and :data:`END`.

    Raises: ValueError when the marks are not there.

    >>> written("a <!-- b --> old <!-- end --> z", "<!-- b -->", "new")
    'a <!-- b -->\\n\\nnew\\n\\n<!-- end --> z'
    """
    head, start, rest = page.partition(begin)
    _, end, tail = rest.partition(END)
    if not start or not end:
        raise ValueError(f"the page lacks {begin!r} or {END!r}")
    return f"{head}{begin}\n\n{text}\n\n{END}{tail}"
