"""``fleet console`` as a process: help, one line for what is wrong, health, a clean stop."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from tests.integration.screenshots import console


def fleet(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fleet.cli", "console", *arguments], capture_output=True, text=True, timeout=120,
        env=os.environ | environment, check=False,
    )  # fmt: skip


def test_help_shows_examples_and_options():
    answer = fleet("--help")
    assert answer.returncode == 0
    assert "fleet console --port 0" in answer.stdout
    for option in ("--history-url", "--wva", "--router", "--predictor", "--alerts", "--slo", "--die-with-parent"):
        assert option in answer.stdout


SERVED = """
import sys
from streamlit import config
from dashboards import server
told = ("client.toolbarMode", "runner.postScriptGC", "secrets.files")
server.uvicorn.Server.run = lambda self, sockets: print(*map(config.get_option, told))
server.Folder = type("Folder", (), {"__init__": lambda *_: None, "start": lambda _: None, "stop": lambda _: None})
server.serve(server.socket.create_server(("127.0.0.1", 0)))
"""


@pytest.mark.parametrize("login", [False, True])
def test_the_settings_beside_the_script_hold_with_and_without_a_login(tmp_path: Path, login: bool):
    secrets = tmp_path / "oidc.toml"
    secrets.write_text("[auth]")
    environment = os.environ | ({"CONSOLE_OIDC": str(secrets)} if login else {})
    answer = subprocess.run([sys.executable, "-c", SERVED], capture_output=True, text=True, timeout=120, check=True,
                            env=environment)  # fmt: skip
    assert answer.stdout.startswith("minimal False ")
    assert (str(secrets) in answer.stdout) is login


def test_a_taken_port_is_one_line():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        answer = fleet("--port", str(taken.getsockname()[1]))
    assert answer.returncode == 2
    assert len(answer.stderr.strip().splitlines()) == 1
    assert "cannot be used" in answer.stderr


@pytest.mark.parametrize(
    ("arguments", "environment", "words"),
    [
        pytest.param(["--router", "router:8081"], {}, "is no address", id="address-without-scheme"),
        pytest.param(["--slo", "/no/such/slos.yaml"], {}, "no such file", id="slo-file-missing"),
        pytest.param([], {"CONSOLE_PROT": "1"}, "Did you mean CONSOLE_PORT?", id="misspelt-setting"),
        pytest.param(["--port", "70000"], {}, "CONSOLE_PORT", id="port-out-of-range"),
    ],
)
def test_what_is_wrong_is_one_line(arguments: list[str], environment: dict[str, str], words: str):
    answer = fleet(*arguments, **environment)
    assert answer.returncode == 2
    assert words in answer.stderr
    assert "Traceback" not in answer.stderr


@pytest.mark.integration
def test_it_serves_health_metrics_and_its_own_plotly_and_stops_cleanly(missing_history: str, tmp_path: Path):
    from dashboards.plot import PLOTLY_PATH

    with console(missing_history, home=tmp_path) as address:
        for path, content in (("/healthz", b"ok"), ("/metrics", b"python_info"), (PLOTLY_PATH, b"plotly.js")):
            with urllib.request.urlopen(address + path, timeout=60) as response:
                assert response.status == 200
                assert content in response.read(4_000_000)


@pytest.mark.integration
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_code_0(number: signal.Signals, missing_history: str, tmp_path: Path):
    stopped: list[subprocess.Popen[bytes]] = []
    with console(missing_history, home=tmp_path, started=stopped.append):
        stopped[0].send_signal(number)
        assert stopped[0].wait(60) == 0


@pytest.mark.integration
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="asks Linux which signals a process handles")
def test_a_signal_while_it_starts_ends_it_too(missing_history: str, tmp_path: Path):
    environment = os.environ | {"FLEET_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "fleet.cli", "console", "--port", "0", "--history-url", missing_history]
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as starting:
        try:
            bit, deadline = 1 << (signal.SIGTERM - 1), time.monotonic() + 120
            while not _caught(starting.pid) & bit:
                assert time.monotonic() < deadline
            starting.send_signal(signal.SIGTERM)
            assert starting.wait(60) == 0
        finally:
            starting.kill()


@pytest.mark.integration
def test_a_signal_amid_an_import_that_fails_on_any_exception_ends_it_too(missing_history: str, tmp_path: Path):
    """Extension modules may turn whatever is raised while they load into a failed import."""
    (tmp_path / "streamlit.py").write_text(
        "import time\n"
        "print('importing', flush=True)\n"
        "try:\n"
        "    time.sleep(60)\n"
        "except BaseException as error:\n"
        "    raise ImportError('did not load') from error\n"
    )
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"FLEET_HOME": str(tmp_path), "PYTHONPATH": path}
    command = [sys.executable, "-m", "fleet.cli", "console", "--port", "0", "--history-url", missing_history]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as starting:
        try:
            assert starting.stdout is not None
            assert starting.stdout.readline() == b"importing\n"
            starting.send_signal(signal.SIGTERM)
            assert starting.wait(60) == 0
            assert starting.stderr is not None
            assert b"Traceback" not in starting.stderr.read()
        finally:
            starting.kill()


def _caught(pid: int) -> int:
    """Signals that a process handles, as a mask."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("SigCgt")), 16)
