"""Several workers on one port: whole processes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from router.merge import merge
from router.workers import Place
from tests.ports import free_ports
from tests.router.dataplane_stubs import Engine, completion, until
from tests.router.test_router_app import engine_script
from tests.waiting import ENDS_WITHIN_S

pytestmark = pytest.mark.integration


def test_counters_add_up_and_gauges_of_engines_do_not():
    page = (
        "# TYPE llm_d_epp_request counter\nllm_d_epp_request_total{model_name=\"m\"} %d\n"
        "# TYPE llm_d_epp_ready_endpoints gauge\nllm_d_epp_ready_endpoints{name=\"default\"} 4\n"
        "# TYPE h histogram\nh_bucket{le=\"1.0\"} 1\nh_bucket{le=\"+Inf\"} %d\nh_count %d\nh_sum 2.5\n"
    )  # fmt: skip
    values = {
        (sample.name, sample.labels.get("le", "")): sample.value
        for family in text_string_to_metric_families(merge([page % (3, 2, 2), page % (4, 5, 5)]).decode())
        for sample in family.samples
    }
    assert values["llm_d_epp_request_total", ""] == 7
    assert values["llm_d_epp_ready_endpoints", ""] == 4
    assert (values["h_bucket", "+Inf"], values["h_count", ""], values["h_sum", ""]) == (7, 7, 5.0)


def test_a_place_is_told_on_the_command_line():
    place = Place(index=2, count=3, folder=Path("/tmp/x"))  # noqa: S108
    assert Place.parse(place.argument()) == place


def _read(port, path):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=60) as answer:
        return answer.read().decode()


def _total(port):
    return sum(
        sample.value
        for family in text_string_to_metric_families(_read(port, "/metrics"))
        for sample in family.samples
        if sample.name == "llm_d_epp_request_total"
    )


def _children(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _workers(pid):
    """The children that serve; one more writes the history."""
    return [child for child in _children(pid) if b"--worker" in Path(f"/proc/{child}/cmdline").read_bytes()]


def test_workers_share_a_port_their_books_and_their_end(tmp_path, free_port):
    assert asyncio.run(asyncio.wait_for(_share(tmp_path, free_port), 120)) == 2, "workers that served"


async def _share(tmp_path, free_port):
    port, admin = free_port, free_ports()
    async with Engine(engine_script()) as engine:
        process = subprocess.Popen(  # noqa: ASYNC220 - it is waited for in a thread
            [str(Path(sys.executable).with_name("fleet")), "router", "serve", "--engines", engine.url, "--port",
             str(port), "--admin-port", str(admin), "--home", str(tmp_path), "--workers", "2"],
            stderr=(tmp_path / "log").open("wb"),
        )  # fmt: skip
        try:
            served = set()
            deadline = time.monotonic() + 100
            asked = 0
            while len(served) < 2 and time.monotonic() < deadline:
                try:
                    reader, writer = await asyncio.open_connection("127.0.0.1", port)
                except OSError:
                    await asyncio.sleep(0.1)
                    continue
                writer.write(completion(stream=True))
                head = await reader.readuntil(b"\r\n\r\n")
                if b" 200 " in head:
                    asked += 1
                    name = head.lower().partition(b"x-request-id: ")[2].partition(b"-")[0]
                    served.add(name)
                await reader.readuntil(b"0\r\n\r\n")
                writer.close()
            assert len(served) == 2, "both workers answer"
            loop = asyncio.get_running_loop()
            assert await loop.run_in_executor(None, _total, admin) >= asked
            decisions = json.loads(await loop.run_in_executor(None, _read, admin, "/debug/decisions?last=1000"))
            assert {one["request_id"].partition("-")[0].encode() for one in decisions} == served
            (child,) = _workers(process.pid)
            os.kill(child, signal.SIGKILL)
            await until(lambda: _workers(process.pid) not in ([child], []))
        finally:
            process.terminate()
            children = _children(process.pid)
            assert await asyncio.get_running_loop().run_in_executor(None, process.wait, ENDS_WITHIN_S) == 0
        await until(lambda: not any(Path(f"/proc/{one}").exists() for one in children))
    return len(served)
