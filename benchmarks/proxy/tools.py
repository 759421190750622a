"""Programs that the proxy bench runs: canned engines and a load, both in C, and the processes they need."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fleet.errors import ConfigError

_HERE = Path(__file__).parent
PROMPT_BYTES = 600
_BODY = b'{"model":"m","prompt":"hello","max_tokens":16}'


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What one run of the load saw; latencies in milliseconds, to the first byte of the body and to its end."""

    rps: float
    errors: int
    first_p50_ms: float
    first_p99_ms: float
    p50_ms: float
    p99_ms: float
    cpu_us: float
    """CPU time of the program under test for each request."""


def compiled(folder: Path) -> tuple[Path, Path]:
    """Canned engines and load, compiled into ``folder``.

    Raises: ConfigError where there is no C compiler.
    """
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise ConfigError("no C compiler: the bench's engines and load must outrun every proxy",
                          limit="cc, gcc or clang", next_step="Install gcc.")  # fmt: skip
    made = []
    for name in ("backend", "load"):
        made.append(folder / name)
        subprocess.run([compiler, "-O2", "-o", str(made[-1]), str(_HERE / f"{name}.c")], check=True)
    return made[0], made[1]


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@contextlib.contextmanager
def running(command: Sequence[str], *, log: Path, env: dict[str, str] | None = None) -> Iterator[int]:
    """A program in a process group of its own, which ends with it; gives its process id."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, start_new_session=True, env={**os.environ, **(env or {})}
        )
    try:
        yield process.pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def answers(port: int, *, within_s: float) -> bool:
    """Does it pass a completion on, some time soon?"""
    end_s = time.monotonic() + within_s
    while time.monotonic() < end_s:
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("POST", "/v1/completions", _BODY, {"content-type": "application/json"})
            if connection.getresponse().status == 200:
                return True
        time.sleep(0.1)
    return False


def python_version(program: Path) -> str:
    """Which Python a program is, and who built it."""
    out = subprocess.run([str(program), "-c", "import sys; print(sys.version)"], check=True, capture_output=True)
    return " ".join(out.stdout.decode().split())


def cpu_s(pid: int) -> float:
    """CPU time of a process and its descendants, seconds."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return 0.0
    own = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return own + sum(cpu_s(int(child)) for child in children)


def rss_mb(pid: int) -> float:
    """Resident memory of a process and its descendants, MB."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6 + sum(rss_mb(int(child)) for child in children)


def load(tool: Path, port: int, *, connections: int, seconds: float, stream: bool, pid: int) -> Load:
    """One run against ``port``; ``pid`` is whose CPU time is counted."""
    settle_s = 0.3
    words = [str(tool), str(port), str(connections), str(settle_s), str(seconds), str(int(stream)), str(PROMPT_BYTES)]
    before_s = cpu_s(pid)
    out = subprocess.run(words, check=True, capture_output=True, timeout=settle_s + seconds + 60)
    spent_s = cpu_s(pid) - before_s
    seen = json.loads(out.stdout)
    rps = seen["requests"] / seen["seconds"]
    all_requests = max(1.0, rps * (seen["seconds"] + settle_s))
    return Load(
        rps=rps, errors=seen["errors"], cpu_us=spent_s / all_requests * 1e6,
        **{name.replace("_us", "_ms"): value / 1e3 for name, value in seen.items() if name.endswith("_us")},
    )  # fmt: skip
