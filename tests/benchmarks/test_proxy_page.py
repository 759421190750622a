"""The page on the router shows what the proxy bench found."""

import json
from pathlib import Path

from benchmarks.marked import written
from benchmarks.proxy.arms import COMPILED, OURS
from benchmarks.proxy.bench import CONNECTIONS, DIRECT
from benchmarks.proxy.page import BEGIN, RESULT, table

PAGE = Path(__file__).resolve().parents[2] / "docs" / "router.md"


def test_the_table_is_that_of_the_committed_result():
    page = PAGE.read_text(encoding="utf-8")
    assert page == written(page, BEGIN, table(json.loads(RESULT.read_text(encoding="utf-8")))), "make generate"


def test_ours_come_first_no_proxy_comes_last_and_what_was_not_measured_not_at_all():
    arms = {
        f"{name}/{connections}/{shape}": {"rps": 1000.4 * connections, "p50_ms": 0.111, "first_p50_ms": 0.222}
        for name in (DIRECT, "another", "envoy", OURS, COMPILED)
        for connections in CONNECTIONS
        for shape in ("plain", "stream")
    }
    rows = table({"results": {"arms": arms}}).splitlines()[2:]
    assert [row.split(" | ")[0].strip("| ") for row in rows] == [
        "ours, native code (what is shipped)", "ours, plain Python", "Envoy, no picker", "another", "no proxy",
    ]  # fmt: skip
    assert rows[0].endswith("| 16 006 | 64 026 | 64 026 | 0.11 ms | 0.22 ms |")
