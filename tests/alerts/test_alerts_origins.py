"""The table of docs/alerts.md, and evidence from a running Prometheus."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from alerts.cli import SLO_FILE
from alerts.cli import alerts as command
from alerts.live import Prometheus, known
from alerts.origins import evidence_of, leaves, table
from alerts.rules import rulebook
from fleet import signals as s
from fleet.errors import SourceError
from fleet.settings import load_slos
from fleet.slo import DEFAULT_SLOS

PAGE = "tests/data/vllm_0.32_cpu_metrics.txt"


def on_page(data_dir: Path) -> list[str]:
    return re.findall(r"^# TYPE (\S+) ", (data_dir / Path(PAGE).name).read_text(), re.MULTILINE)


def test_the_table_of_the_documentation_is_up_to_date(data_dir: Path) -> None:
    text = (SLO_FILE.parent.parent / "docs" / "alerts.md").read_text()
    rows = text.split("<!-- table: alerts.origins -->\n\n")[1].splitlines()
    assert rows == list(table(rulebook(load_slos(SLO_FILE)), {PAGE: on_page(data_dir)}))


def test_recorded_series_are_followed_to_what_is_exported() -> None:
    rules = rulebook(DEFAULT_SLOS)
    drain = next(alert for alert in rules.alerts if alert.name == "QueueDrainsSlowly")
    found = leaves(drain.expr, rules)
    assert {"vllm:num_requests_waiting", "vllm:request_success_total"} <= found
    assert not found & rules.recorded_names


def test_a_recorded_page_counts_before_documentation() -> None:
    assert evidence_of(s.WAITING, {"page": [s.WAITING.name]}) == "page"
    assert evidence_of(s.WAITING, {}) == "source of vLLM 0.33"
    assert evidence_of(s.ROUTER_SHED, {}) == "our router's page"


def test_a_prometheus_that_does_not_answer_is_one_line(free_port: int, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port}"
    result = CliRunner().invoke(command, ["diagnose", "--prometheus", url, "--tree", "ttft_high", "--history-url",
                                          f"sqlite:///{tmp_path / 'h.sqlite3'}"])  # fmt: skip
    assert isinstance(result.exception, SourceError)
    assert url in str(result.exception)


def test_unknown_facts_leave_room_for_another_source() -> None:
    assert known({"a": 1.0, "b": None}) == {"a": 1.0}


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/", "http://127.0.0.1:9"])
def test_a_slash_at_the_end_does_not_matter(url: str) -> None:
    with pytest.raises(SourceError, match=r"http://127[.]0[.]0[.]1:9: "):
        Prometheus(url).evidence(model="m", at_s=0.0)
