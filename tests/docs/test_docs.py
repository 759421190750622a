"""The documentation holds together: reference pages are those of the code, links lead somewhere, the site builds."""

from __future__ import annotations

import os
import re
import subprocess
import unicodedata
from pathlib import Path

import pytest

from fleet import signals
from fleet.signals import Signal
from tests.docs import reference
from tests.fleet.all_settings import ALL_SETTINGS, variables_of

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"])
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ +(.+?) *$", re.MULTILINE)
CODE = re.compile(r"^```.*?^```|`[^`\n]+`", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("name", reference.PAGES)
def test_a_reference_page_is_what_the_code_says(name):
    assert (DOCS / "reference" / name).read_text(encoding="utf-8") == reference.PAGES[name](), "run make generate"


@pytest.mark.parametrize("cls", ALL_SETTINGS, ids=lambda cls: cls.__name__)
def test_every_setting_is_in_the_reference_with_its_meaning(cls):
    page = reference.settings_page()
    rows = {row.split("`")[1]: row for row in page.splitlines() if row.startswith("| `")}
    for variable in variables_of(cls):
        assert rows[variable].split(" | ")[-1].strip(" |"), f"{variable} has no words beside its definition"


def test_every_series_is_in_the_reference_once():
    page = reference.metrics_page()
    for one in vars(signals).values():
        if isinstance(one, Signal):
            assert page.count(f"| `{one.name}` |") == 1, one.name


def anchors(page: Path) -> set[str]:
    """Ids of a page's headings, as GitHub makes them."""
    found = set()
    for title in HEADING.findall(CODE.sub(lambda code: code[0].strip("`"), page.read_text(encoding="utf-8"))):
        plain = unicodedata.normalize("NFKC", re.sub(r"\[([^]]+)\]\([^)]*\)", r"\1", title)).lower()
        found.add(re.sub(r"[^\w\- ]", "", plain).replace(" ", "-"))
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page):
    text = CODE.sub("", page.read_text(encoding="utf-8"))
    broken = []
    for link in LINK.findall(text):
        target, _, anchor = link.partition("#")
        if "://" in target or target.startswith("mailto:"):
            continue
        there = (page.parent / target).resolve() if target else page
        if not there.exists() or (anchor and there.suffix == ".md" and anchor not in anchors(there)):
            broken.append(link)
    assert broken == []


def test_the_navigation_names_pages_that_there_are():
    listed = re.findall(r"[\w./-]+\.md", (ROOT / "mkdocs.yml").read_text("utf-8").partition("\nnav:")[2])
    assert len(listed) == len(set(listed))
    assert [name for name in listed if name != "index.md" and not (DOCS / name).is_file()] == []
    assert {"reference/settings.md", "reference/metrics.md", "install.md"} < set(listed)


@pytest.mark.skipif(not (ROOT / ".venvs/docs/bin/mkdocs").exists(), reason="make docs makes its environment")
def test_the_site_builds_strictly(tmp_path):
    program = ROOT / ".venvs/docs/bin/mkdocs"
    done = subprocess.run([program, "build", "--strict", "--site-dir", tmp_path / "site"], cwd=ROOT, check=False,
                          capture_output=True, text=True, timeout=170, env={**os.environ, "NO_COLOR": "1"})  # fmt: skip
    assert done.returncode == 0, done.stderr
    front = (tmp_path / "site/index.html").read_text(encoding="utf-8")
    assert 'href="router.html"' in front
    built = {page.relative_to(tmp_path / "site").with_suffix(".md") for page in (tmp_path / "site").rglob("*.html")}
    assert {page.relative_to(DOCS) for page in DOCS.rglob("*.md") if "examples" not in page.parts} <= built
    outside = re.findall(r'(?:src|href)="https?://(?!github\.com/llm-fleet)[^"]+"', front)
    assert not [one for one in outside if "fonts" in one or ".js" in one]  # nothing is fetched from elsewhere
