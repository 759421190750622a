"""The platform as a process with real engines: start-up, scaling, drains, crashes, its end."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from fleet.errors import SourceError
from fleet.platform import HttpPlatform
from fleet.types import Replica, ReplicaState
from tests.ports import free_ports
from tests.waiting import ENDS_WITHIN_S, until

pytestmark = pytest.mark.integration

FLEET = """
model: m
variants:
  - {name: h100, shape: Llama-3.1-8B, accelerator: h100_sxm, max_replicas: 3, startup_s: 0.3, kv_tokens: 24000}
  - {name: a100, shape: Llama-3.1-8B, accelerator: a100_sxm, min_replicas: 0, max_replicas: 1, startup_s: 0.3}
"""
ENGINES = 40
"""Ports in a row that a platform's engines get: more than any test starts."""


class Platform:
    """``fleet sim serve`` and its client."""

    def __init__(self, config: Path, log: Path, *options: str) -> None:
        port, base = free_ports(), free_ports(ENGINES)
        self.url, self.log = f"http://127.0.0.1:{port}", log
        command = [sys.executable, "-m", "fleet.cli", "sim", "serve", "--config", str(config), "--port", str(port),
                   "--engine-port-base", str(base), *options]  # fmt: skip
        with log.open("w", encoding="utf-8") as errors:
            self.process = subprocess.Popen(command, stderr=errors, env={**os.environ, "SIM_DRAIN_AT_LEAST_S": "0.5"})
        self.client = HttpPlatform(self.url)

    def replicas(self, variant: str = "h100") -> list[Replica]:
        return [replica for entry in self.client.variants() if entry.spec.name == variant for replica in entry.replicas]

    def states(self, variant: str = "h100") -> list[ReplicaState]:
        return [replica.state for replica in self.replicas(variant)]

    def until(self, check: Callable[[], bool], what: str) -> None:
        until(check, lambda: f"{what}\n{self.said()}")

    def said(self) -> str:
        return self.log.read_text(encoding="utf-8")

    def ready(self, count: int, variant: str = "h100") -> None:
        self.until(lambda: self.states(variant) == [ReplicaState.READY] * count, f"{count} ready")

    def engine_pids(self) -> list[int]:
        """Processes of engines that this platform started."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                arguments = (folder / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"--parent-pid" in arguments and arguments[arguments.index(b"--parent-pid") + 1] == (
                str(self.process.pid).encode()
            ):
                found.append(int(folder.name))
        return found


def _answers(platform: Platform) -> bool:
    try:
        return httpx.get(platform.url + "/healthz").status_code == 200
    except httpx.TransportError:
        return False


@contextmanager
def _running(folder: Path, *options: str, fleet: str = FLEET, ready: str = "h100") -> Iterator[Platform]:
    config = folder / "fleet.yaml"
    config.write_text(fleet, encoding="utf-8")
    running = Platform(config, folder / "log.txt", *options)
    try:
        running.until(lambda: _answers(running), "answers")
        running.ready(1, ready)
        yield running
    finally:
        running.process.terminate()
        running.process.wait(ENDS_WITHIN_S)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    with _running(tmp_path_factory.mktemp("platform")) as running:
        yield running


@pytest.fixture
def platform(shared: Platform) -> Platform:
    """The shared platform with one replica of h100 ready."""
    shared.client.scale("h100", 1)
    shared.ready(1)
    return shared


@pytest.fixture
def doomed(tmp_path: Path) -> Iterator[Platform]:
    """A platform of its own, for a test that ends it."""
    with _running(tmp_path) as running:
        yield running


def test_replicas_start_scale_up_and_drain_away(platform: Platform) -> None:
    (old,) = platform.replicas()
    assert httpx.get(old.url + "/v1/models").json()["data"][0]["id"] == "m"

    platform.client.scale("h100", 2)
    assert platform.states() == [ReplicaState.READY, ReplicaState.STARTING]
    platform.ready(2)
    young = platform.replicas()[1]
    with ThreadPoolExecutor(1) as pool:
        body = {"prompt": "x", "max_tokens": 500, "ignore_eos": True}
        answer = pool.submit(httpx.post, young.url + "/v1/completions", json=body, timeout=60)
        platform.until(lambda: httpx.get(young.url + "/load").json() == {"server_load": 1}, "busy")
        platform.client.scale("h100", 1)
        states = {replica.name: replica.state for replica in platform.replicas()}
        assert states == {old.name: ReplicaState.READY, young.name: ReplicaState.STOPPING}
        assert answer.result(60).json()["usage"]["completion_tokens"] == 500
    platform.until(lambda: [replica.name for replica in platform.replicas()] == [old.name], "gone")


def test_a_variant_may_go_to_no_replica_and_come_back_under_a_new_name(platform: Platform) -> None:
    (before,) = platform.replicas()
    platform.client.scale("h100", 0)
    platform.until(lambda: platform.replicas() == [], "none left")
    platform.client.scale("h100", 1)
    platform.ready(1)
    (after,) = platform.replicas()
    assert after.name != before.name
    assert after.url != before.url


def test_what_cannot_be_scaled_is_refused_with_the_limit(platform: Platform) -> None:
    for path, body, status, said in (
        ("/variants/h100/scale", {"replicas": 4}, 422, "limit: 0..3"),
        ("/variants/h100/scale", {"replicas": -1}, 422, "limit: 0..3"),
        ("/variants/h100/scale", {"replica": 1}, 422, "replicas"),
        ("/variants/h100/scale", {"replicas": "2"}, 422, "integer"),
        ("/variants/none/scale", {"replicas": 1}, 404, "unknown variant 'none'"),
    ):
        response = httpx.put(platform.url + path, json=body)
        assert response.status_code == status
        assert said in response.text
    with pytest.raises(SourceError):
        platform.client.scale("h100", 9)
    assert platform.client.variants()[0].requested == 1


def test_a_killed_engine_comes_back_and_is_counted(platform: Platform) -> None:
    (pid,) = platform.engine_pids()
    (before,) = platform.replicas()
    os.kill(pid, signal.SIGKILL)
    platform.until(lambda: "ended with code -9" in platform.said(), "noticed")
    platform.ready(1)
    (after,) = platform.replicas()
    assert (after.name, after.url) == (before.name, before.url)
    assert after.since_s > before.since_s
    page = httpx.get(platform.url + "/metrics").text
    assert 'sim_engine_restarts_total{variant="h100"} 1.0' in page
    assert 'sim_replicas{state="ready",variant="h100"} 1.0' in page


def test_sigterm_ends_the_platform_and_its_engines_cleanly(doomed: Platform) -> None:
    doomed.process.terminate()
    assert doomed.process.wait(ENDS_WITHIN_S) == 0
    assert doomed.engine_pids() == []


@pytest.mark.skipif(sys.platform != "linux", reason="death signals are Linux's")
def test_killing_the_platform_leaves_no_orphan(doomed: Platform) -> None:
    assert len(doomed.engine_pids()) == 1
    doomed.process.kill()
    doomed.process.wait(ENDS_WITHIN_S)
    doomed.until(lambda: doomed.engine_pids() == [], "engines ended")


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Platform]:
    """A platform whose engines are in its own process."""
    with _running(tmp_path, "--in-process") as running:
        yield running


def test_engines_of_the_same_process_scale_crash_and_drain_alike(local: Platform) -> None:
    (old,) = local.replicas()
    assert local.engine_pids() == []
    local.client.scale("h100", 2)
    local.ready(2)
    young = local.replicas()[1]
    with pytest.raises(httpx.TransportError):
        httpx.post(young.url + "/sim/fault", json={"kind": "crash"})
    local.until(lambda: "ended with code 139" in local.said(), "crashed")
    assert httpx.get(old.url + "/health").status_code == 200
    local.ready(2)
    with ThreadPoolExecutor(1) as pool:
        body = {"prompt": "x", "max_tokens": 500, "ignore_eos": True}
        answer = pool.submit(httpx.post, young.url + "/v1/completions", json=body, timeout=60)
        local.until(lambda: httpx.get(young.url + "/load").json() == {"server_load": 1}, "busy")
        local.client.scale("h100", 1)
        assert answer.result(60).json()["usage"]["completion_tokens"] == 500
    local.until(lambda: len(local.replicas()) == 1, "gone")
    local.process.terminate()
    assert local.process.wait(ENDS_WITHIN_S) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere 127.0.0.1 is the only address")
def test_mooncake_engines_scale_each_with_its_bootstrap_server(tmp_path: Path) -> None:
    port = free_ports()
    shared = f"kv_connector: mooncake, kv_bootstrap_port: {port}, shape: Llama-3.1-8B, accelerator: h100_sxm"
    fleet = f"model: m\nvariants:\n  - {{name: p, role: prefill, startup_s: 0, {shared}}}\n"
    fleet += f"  - {{name: d, role: decode, startup_s: 0, {shared}}}\n"
    with _running(tmp_path, "--in-process", fleet=fleet, ready="p") as running:
        running.client.scale("p", 2)
        running.ready(2, "p")
        running.ready(1, "d")
        engines = []
        for number, prefill in enumerate(running.replicas("p")):
            bootstrap = f"http://{httpx.URL(prefill.url).host}:{port}"  # where a router asks
            engines.append(httpx.get(bootstrap + "/query").json()["0"]["engine_id"])
            assert fetched(running.replicas("d")[0].url, prefill.url, bootstrap, engines[-1], f"t{number}") == 199
        assert len(set(engines)) == 2


def fetched(decode: str, prefill: str, bootstrap: str, engine: str, transfer: str) -> int:
    """Prompt tokens that the decode engine had from the prefill engine, of 200."""
    body = {"prompt": f"{transfer:800}", "max_tokens": 1}
    legs = {
        prefill: {"do_remote_decode": True, "do_remote_prefill": False, "transfer_id": transfer},
        decode: {"do_remote_decode": False, "do_remote_prefill": True, "transfer_id": transfer,
                 "remote_engine_id": engine, "remote_bootstrap_addr": bootstrap},
    }  # fmt: skip
    with ThreadPoolExecutor(2) as pool:
        sent = [pool.submit(httpx.post, url + "/v1/completions", json=body | {"kv_transfer_params": leg}, timeout=60,
                            headers={"X-data-parallel-rank": "0"}) for url, leg in legs.items()]  # fmt: skip
        answers = [one.result() for one in sent]
    assert [one.status_code for one in answers] == [200, 200], [one.text for one in answers]
    return int(answers[1].json()["usage"]["prompt_tokens_details"]["cached_tokens"])


def test_a_bad_file_ends_serve_with_one_line(tmp_path: Path) -> None:
    config = tmp_path / "fleet.yaml"
    config.write_text("model: m\nvariants: [{name: a}]\n", encoding="utf-8")
    command = [sys.executable, "-m", "fleet.cli", "sim", "serve", "--config", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert done.stderr.strip().startswith(f"fleet: {config} variants.0.shape: Field required")
    assert len(done.stderr.strip().splitlines()) == 1
