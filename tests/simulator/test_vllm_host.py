"""Servers of another program behind the platform API: started, scaled and ended like engines.

The program stands in for vLLM: it takes ``vllm serve``'s arguments and serves a simulated engine, with a worker of its
own that must not outlive it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import httpx
import pytest

from fleet.errors import ConfigError
from fleet.hardware import GPUS
from fleet.up.vllm import RealEngines, check, fleet_file, write
from simulator.engine_options import EngineOptions
from simulator.hosting import VllmHost
from simulator.settings import load_fleet_file
from tests.simulator.test_manager_platform import Platform
from tests.waiting import ENDS_WITHIN_S, until

PROGRAM = """#!{python}
import os, subprocess, sys
given = dict(zip(sys.argv[3::2], sys.argv[4::2]))
worker = subprocess.Popen(["sleep", "300"])
open({pids!r}, "a").write(f"{{worker.pid}}\\n")
assert sys.argv[1] == "serve" and sys.argv[2] == "/models/tiny", sys.argv
os.execv({python!r}, [{python!r}, "-m", "simulator.engine_main", "--host", given["--host"], "--port", given["--port"],
                     "--model", given["--served-model-name"]])
"""
FLEET = """
model: tiny
variants:
  - {name: vllm, shape: Llama-3.1-8B, accelerator: h100_sxm, max_replicas: 2, startup_s: 5}
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "vllm"
    path.write_text(PROGRAM.format(python=sys.executable, pids=str(tmp_path / "workers")))
    path.chmod(0o755)
    return path


def _alive(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rsplit(")", 1)[1].split()[0] != "Z"


@pytest.mark.integration
def test_real_servers_are_scaled_as_processes_and_leave_nothing_behind(program: Path, tmp_path: Path) -> None:
    config = tmp_path / "fleet.yaml"
    config.write_text(FLEET)
    platform = Platform(config, tmp_path / "log", "--vllm", str(program), "--vllm-model", "/models/tiny")
    try:
        platform.until(lambda: platform.process.poll() is None and _answers(platform), "it serves")
        platform.ready(1, "vllm")
        served = httpx.get(f"{platform.replicas('vllm')[0].url}/v1/models").json()["data"][0]["id"]
        assert served == "tiny"
        platform.client.scale("vllm", 2)
        platform.ready(2, "vllm")
        platform.client.scale("vllm", 1)
        platform.ready(1, "vllm")
    finally:
        platform.process.terminate()
        platform.process.wait(ENDS_WITHIN_S)
    workers = [int(line) for line in (tmp_path / "workers").read_text().split()]
    assert len(workers) == 2
    until(lambda: not any(map(_alive, workers)), "the workers ended")


def _answers(platform: Platform) -> bool:
    try:
        return bool(platform.client.variants())
    except Exception:  # noqa: BLE001 - whatever it is, it does not serve yet
        return False


def test_the_command_line_is_vllm_s(program: Path) -> None:
    host = VllmHost(str(program), "/models/tiny", "--block-size 32 --enforce-eager")
    options = EngineOptions(model="tiny", max_num_seqs=64, accelerator_count=2)
    assert host.command(options, host="127.0.0.1", port=9100) == [
        str(program), "serve", "/models/tiny", "--host", "127.0.0.1", "--port", "9100", "--served-model-name", "tiny",
        "--tensor-parallel-size", "2", "--max-num-seqs", "64", "--block-size", "32", "--enforce-eager",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("given", "words"),
    [
        pytest.param({"model": "Qwen/Qwen3-32B", "program": "no-such-vllm"}, "no program 'no-such-vllm'", id="program"),
        pytest.param({"model": "/no/such/folder", "program": "sh"}, "no such folder", id="folder"),
        pytest.param({"model": "m", "program": "sh", "gpu": "h100"}, "unknown GPU 'h100'", id="gpu"),
    ],
)
def test_what_cannot_start_is_refused_in_one_line(given: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check(RealEngines(**given))  # type: ignore[arg-type]


def test_arguments_with_an_open_quote_are_refused() -> None:
    with pytest.raises(ConfigError, match="No closing quotation"):
        VllmHost("sh", "m", "--x 'y")


def test_the_fleet_file_is_one_that_the_platform_reads(tmp_path: Path) -> None:
    engines = RealEngines(model="Qwen/Qwen3-32B", gpus=2, replicas=3)
    assert fleet_file(engines)["variants"][0]["shape"] == "Qwen3-32B"
    fleet = load_fleet_file(write(engines, tmp_path))
    assert fleet.gpus == {engines.gpu: engines.gpus * engines.replicas}
    entry = fleet.variants[0]
    assert (entry.max_replicas, entry.accelerator_count) == (3, 2)
    assert entry.spec("m").cost_per_hour == 2 * GPUS["h100_sxm"].price_per_hour
    (tmp_path / "tiny").mkdir()
    assert RealEngines(model=str(tmp_path / "tiny")).served == "tiny"
