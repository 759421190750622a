"""Real vLLM servers with a random two-layer model, as processes on free ports; KV events and all counters on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx

from fleet.shell import die_with_parent
from tests.ports import free_ports

ROOT = Path(__file__).resolve().parents[2]
MODEL = "tiny"
BLOCK = 32
"""Tokens of a KV block; vLLM on CPU wants a multiple of 32."""
BLOCKS = 640
"""Of one server's cache (20,480 tokens): small enough that a test can fill it."""
CONTEXT = 4096
START_S = 300.0
ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1",
    "VLLM_SERVER_DEV_MODE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
}  # fmt: skip
"""One thread each, so that two servers share two cores; dev mode for ``/reset_prefix_cache``."""


@dataclass
class Server:
    """One vLLM server; without a process: one that somebody else started."""

    port: int
    process: subprocess.Popen[bytes] | None = None
    log: Path = Path("/dev/null")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def healthy(self) -> bool:
        """Raises: RuntimeError when it has ended."""
        if self.process is not None and self.process.poll() is not None:
            raise RuntimeError(f"vLLM ended:\n{self.log.read_text(errors='replace')[-4000:]}")
        try:
            return httpx.get(f"{self.url}/health", timeout=2).status_code == 200
        except httpx.TransportError:
            return False

    def reset_cache(self) -> None:
        """Forget every prefix."""
        httpx.post(f"{self.url}/reset_prefix_cache", timeout=10).raise_for_status()

    def end(self) -> None:
        """With its workers."""
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(30)
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)


def arguments(model: Path, port: int, events: int, replay: int) -> list[str]:
    """Of ``vllm serve``."""
    about = {"enable_kv_cache_events": True, "publisher": "zmq", "endpoint": f"tcp://*:{events}",
             "replay_endpoint": f"tcp://*:{replay}", "topic": f"kv@127.0.0.1:{port}@{MODEL}"}  # fmt: skip
    return ["serve", str(model), "--host", "127.0.0.1", "--port", str(port), "--served-model-name", MODEL,
            *ENGINE_ARGUMENTS, "--kv-events-config", json.dumps(about)]  # fmt: skip


ENGINE_ARGUMENTS = (
    "--dtype", "float32", "--block-size", str(BLOCK), "--num-gpu-blocks-override", str(BLOCKS), "--max-model-len",
    str(CONTEXT), "--max-num-seqs", "32", "--enable-prefix-caching", "--enable-prompt-tokens-details",
    "--enforce-eager",
)  # fmt: skip


@contextmanager
def servers(
    vllm: Path, folder: Path, *, count: int = 2, cores: Collection[int] = (), tell: Callable[[str], object] = print
) -> Iterator[Sequence[Server]]:
    """``count`` servers, ready, on those ``cores`` (default: any); the model is made in ``folder``."""
    model = make_model(vllm, folder)
    with ExitStack() as stack:
        found = [_start(vllm, model, folder / f"vllm-{count}-{number}.log", cores, stack) for number in range(count)]
        began = time.monotonic()
        until(lambda: all(one.healthy() for one in found), "vLLM servers", limit_s=START_S)
        tell(f"{count} vLLM servers are ready after {time.monotonic() - began:.0f} s")
        yield found


def make_model(vllm: Path, folder: Path) -> Path:
    """Weights, configuration and tokenizer of the random model."""
    model = folder / MODEL
    if not (model / "config.json").exists():
        subprocess.run([str(vllm.parent / "python"), str(ROOT / "tests/engine/tiny_model.py"), str(model)], check=True)
    return model


@contextmanager
def apart() -> Iterator[Sequence[int]]:
    """Cores for an engine alone: this process and what it starts keep to the others; none where there is but one."""
    mine = os.sched_getaffinity(0)
    engine = sorted(mine)[:1] if len(mine) > 1 else []
    os.sched_setaffinity(0, mine.difference(engine))
    try:
        yield engine
    finally:
        os.sched_setaffinity(0, mine)


def _start(vllm: Path, model: Path, log: Path, cores: Collection[int], stack: ExitStack) -> Server:
    port = free_ports()

    def before() -> None:
        die_with_parent()
        if cores:
            os.sched_setaffinity(0, cores)

    out = stack.enter_context(log.open("wb"))
    process = subprocess.Popen(
        [str(vllm), *arguments(model, port, free_ports(), free_ports())],
        stdout=out, stderr=out, start_new_session=True,
        preexec_fn=before,  # noqa: PLW1509 - one thread here, and no server may outlive the proof
        env={**os.environ, **ENVIRONMENT, "PATH": f"{vllm.parent}{os.pathsep}{os.environ['PATH']}"},
    )  # fmt: skip
    server = Server(port, process, log)
    stack.callback(server.end)
    return server


def until(true: Callable[[], object], what: str, *, limit_s: float = 60.0, every_s: float = 0.1) -> float:
    """Wait until ``true()``; seconds that it took.

    Raises: TimeoutError.
    """
    began = time.monotonic()
    while not true():
        if time.monotonic() - began > limit_s:
            raise TimeoutError(f"not within {limit_s:g} s: {what}")
        time.sleep(every_s)
    return time.monotonic() - began
