"""The page names everything that can be configured, with its range, default and fallback."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from router.aliases import parse_aliases
from router.config import parse_profile
from router.filters import FILTERS
from router.hints import HEADERS
from router.parameters import parameters
from router.pickers import PICKERS
from router.profile import PROFILES
from router.scorers import SCORERS
from router.tenants import parse_tenants

PAGE = (Path(__file__).parent.parent.parent / "docs" / "router.md").read_text(encoding="utf-8")


def rows(title):
    """The cells of the table under a heading, by the names in its first column."""
    section = PAGE.split(f"### {title}\n", 1)[1].split("\n#", 1)[0]
    lines = [line for line in section.splitlines() if line.startswith("| `")]
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {name: row for row in table for name in re.findall(r"`([^`]+)`", row[0])}


TABLES = [("Filters", FILTERS), ("Scorers", SCORERS), ("Pickers", PICKERS)]
NAMED = [pytest.param(title, name, plugin, id=name) for title, known in TABLES for name, plugin in known.items()]


@pytest.mark.parametrize(("title", "name", "plugin"), NAMED)
def test_every_plugin_is_on_the_page_with_its_parameters(title, name, plugin):
    row = rows(title)[name]
    accepted = [key for key, (field, _) in parameters(plugin.kind).items() if field not in plugin.preset]
    said = " ".join(row[1:])
    assert [key for key in accepted if f"`{key}`" not in said] == []


@pytest.mark.parametrize("name", sorted(SCORERS))
def test_every_scorer_says_its_score_range_and_fallback(name):
    _, score, reach, _, fallback = rows("Scorers")[name]
    assert score
    assert re.match(r"0(\.\.| or )", reach)
    assert fallback


@pytest.mark.parametrize("title", ["Filters", "Scorers", "Pickers", "Profiles"])
def test_the_page_names_nothing_that_is_not_there(title):
    known = {"Filters": FILTERS, "Scorers": SCORERS, "Pickers": PICKERS, "Profiles": PROFILES}[title]
    assert set(rows(title)) == set(known)


def test_defaults_on_the_page_are_the_defaults():
    for title, known in TABLES:
        for name, row in rows(title).items():
            plugin = known[name]
            for key, shown in re.findall(r"`(\w+)` \((-?[\d.]+)", " ".join(row)):
                field, _ = parameters(plugin.kind)[key]
                if field not in plugin.preset:
                    assert float(shown) == float(getattr(plugin.kind(), field)), (name, key)


def test_the_example_is_read():
    example = re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL)[0]
    profile = parse_profile(example)
    assert profile.adaptive is not None
    assert not profile.notes


def test_the_examples_of_tenants_and_models_are_read():
    _, tenants, models = re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL)
    assert parse_tenants(tenants.replace("sha256:...", "sha256:" + "ab" * 32)).priority(None, "batch") == -1
    assert parse_aliases(models)["gpt-4o"].models == ("qwen-72b", "llama-70b")


def test_every_header_that_a_client_may_send_is_there():
    for header in HEADERS:
        name = header.decode()
        assert name in PAGE or name.replace("x-slo-", "x-llm-d-slo-") in PAGE
