"""What the site needs beside its pages: links into the repository, the README as the first page, all decisions.

On GitHub a link may leave ``docs``; on the site it leads to the repository then, if the file is there.
"""

from __future__ import annotations

import logging
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

log = logging.getLogger("mkdocs.hooks.repository")
ROOT = Path(__file__).resolve().parents[2]
BRANCH = "main"
LINK = re.compile(r"(\]\()([^)\s#]+)(#[^)\s]*)?(\))")
OUTSIDE = ("http://", "https://", "mailto:")


def on_config(config: Any) -> Any:
    """Decisions in the order of their numbers, and pages that the navigation lacks, at its end."""
    docs = Path(config.docs_dir)
    listed = set(re.findall(r"[\w./-]+\.md", str(config.nav)))
    pages = sorted(page.relative_to(docs).as_posix() for page in docs.rglob("*.md"))
    unlisted = [page for page in pages if page not in listed]
    sections = {"Decisions": [page for page in unlisted if page.startswith("adr/")],
                "More": [page for page in unlisted if not page.startswith("adr/")]}  # fmt: skip
    config.nav = [*config.nav, *({title: found} for title, found in sections.items() if found)]
    return config


def on_files(files: Any, config: Any) -> Any:
    """The README is the site's first page."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    files.append(File.generated(config, "index.md", content=LINK.sub(_from_root, text)))
    return files


def _from_root(match: re.Match[str]) -> str:
    """A link of the README, as seen from ``docs``."""
    start, target, anchor, end = match.groups(default="")
    if target.startswith(OUTSIDE):
        return match[0]
    inside = target.removeprefix("docs/")
    return f"{start}{inside if inside != target else '../' + target}{anchor}{end}"


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Links that leave ``docs`` lead to the repository."""

    def elsewhere(match: re.Match[str]) -> str:
        start, target, anchor, end = match.groups(default="")
        if target.startswith(OUTSIDE):
            return match[0]
        inside = posixpath.normpath(posixpath.join(posixpath.dirname(page.file.src_uri), target))
        if files.get_file_from_path(inside) is not None:
            return match[0]
        path = posixpath.normpath(posixpath.join("docs", inside))
        if path.startswith("..") or not (ROOT / path).exists():
            log.warning("%s links to %s, which is not there", page.file.src_uri, target)
            return match[0]
        kind = "tree" if (ROOT / path).is_dir() else "blob"
        return f"{start}{config.repo_url.rstrip('/')}/{kind}/{BRANCH}/{path}{anchor}{end}"

    return LINK.sub(elsewhere, markdown)
