"""Which tests one worker runs one after the other, and which come first, where several workers share the suite.

By the files' names, not by marks: what xdist does with its own marks does not reach every pytest that we allow.
"""

from __future__ import annotations

from typing import Final

from xdist.scheduler import LoadScopeScheduling

LOOP: Final = ("tests/integration/test_loop.py", "tests/alerts/test_alerts_live.py")
"""Whole loops, each busy with a machine of its own: never two at once."""
HELM: Final = ("tests/deploy/test_chart.py", "tests/deploy/test_rbac.py")
"""They share what helm has rendered."""
SHARED: Final = (
    "tests/router/test_cache_threshold.py",
    "tests/router/test_disaggregation.py",
    "tests/router/test_kv_precise.py",
    "tests/router/test_mooncake.py",
    "tests/router/test_picker_envoy.py",
    "tests/integration/test_console_browser.py",
    "tests/integration/test_console_browser_states.py",
    "tests/dashboards/test_console_prometheus.py",
    "tests/wva/test_wva_prometheus_faults.py",
    "tests/alerts/test_alerts_agreement.py",
    "tests/simulator/test_manager_platform.py",
    "tests/simulator/test_server_engine.py",
    "tests/simulator/test_server_faults.py",
    "tests/simulator/test_server_mooncake.py",
    "tests/simulator/test_server_states.py",
    "tests/simulator/test_server_threshold.py",
    "tests/simulator/test_server_transfer.py",
)
"""Files whose tests share processes that take seconds to start."""
_GROUP_OF: Final = dict.fromkeys(LOOP, "loop") | dict.fromkeys(HELM, "helm") | {file: file for file in SHARED}


def place(nodeid: str) -> int:
    """Lower comes first: what lasts longest begins while there is other work for the other workers."""
    file = nodeid.partition("::")[0]
    return 0 if file in LOOP else 1 if file in _GROUP_OF else 2


def group(nodeid: str) -> str:
    """What goes to one worker: a group of files, or a test alone."""
    return _GROUP_OF.get(nodeid.partition("::")[0], nodeid)


class ByGroup(LoadScopeScheduling):
    """One test at a time goes to a worker, or a whole group."""

    def _split_scope(self, nodeid: str) -> str:
        return group(nodeid)
