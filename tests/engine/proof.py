"""The platform on real vLLM: ``make test-engine`` runs this and writes ``docs/evidence/real-engines.{json,md}``.

Two vLLM servers with a random two-layer model on the CPU, KV events on; our router as a proxy, and Envoy with our
picker; real Prometheus. What is timed comes first, with one server on a core of its own. It takes about half an
hour and five gigabytes of memory. Exit code 1 when a promise does not hold.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx

from planner.document import parse
from planner.render import engine
from tests.engine import checks, console, loads, predicted, report, simulated
from tests.engine.checks import HITS, QUERIES, Check
from tests.engine.servers import Server, apart, make_model, servers, until
from tests.fleet.test_sources_prometheus import prometheus
from tests.planner.clusters import ALL
from tests.ports import free_ports
from tests.router.picker_world import World

TIMED = ("predictor_error", "simulator_error")
BUSY = (
    "**More ran than there are cores, so these latencies are those of processes that take turns: they say little "
    "about the method. Repeat it on an idle machine.**"
)
"""Said of a timed check that was run on a busy machine."""


def main() -> None:
    """Run all, or what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="folder for the results")
    parser.add_argument("--vllm", type=Path, default=Path(".venvs/vllm/bin/vllm"), help="vLLM's program")
    parser.add_argument("--running", default="", help="ports of two servers that run already, with a comma between")
    parser.add_argument("--only", default="", help="comma-separated names of checks; the results of others are kept")
    options = parser.parse_args()
    only = frozenset(filter(None, options.only.split(",")))
    vllm = options.vllm.absolute()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # as an exception: everything that was started is ended
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        running = tuple(Server(int(port)) for port in filter(None, options.running.split(",")))
        proof = Proof(vllm, folder, options.out, only, running)
        found = proof.run()
    say(report.table(found))
    sys.exit(0 if all(one.ok for one in found) else 1)


def say(text: str) -> None:
    """Progress."""
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stderr.flush()


class Proof:
    """The checks in their order, and what they run on."""

    def __init__(
        self, vllm: Path, folder: Path, out: Path, only: frozenset[str], running: Sequence[Server] = ()
    ) -> None:  # fmt: skip
        self.running = running
        self.vllm, self.folder, self.out, self.only = vllm, folder, out, only
        self.found: list[Check] = []

    def run(self) -> Sequence[Check]:
        """All results."""
        self._check("rendered_flags", lambda: loads.rendered_flags(self.vllm, rendered_lines()))
        if self._wanted(*TIMED):
            with ExitStack() as stack:
                self._on_one_server(stack)
        if self._wanted("same_answers", "prefix_routing", "index_is_the_cache", "cancellation", "metric_names",
                        "predictor_error_busy"):  # fmt: skip
            with ExitStack() as stack:
                self._on_two_servers(stack)
        self._check("console", lambda: console.over_fleet_up(self.vllm, self.folder, self.out))
        return self.found

    def _wanted(self, *names: str) -> bool:
        return not self.only or bool(self.only.intersection(names))

    def _check(self, name: str, run: Callable[[], Check]) -> None:
        if not self._wanted(name):
            return
        began = time.monotonic()
        found = run()
        measured = {"date": time.strftime("%Y-%m-%d", time.gmtime()), "seconds": round(time.monotonic() - began),
                    "load_average_5m": round(os.getloadavg()[1], 1)}  # fmt: skip
        busy = name in TIMED and os.getloadavg()[1] > (os.cpu_count() or 1) + 1
        note = f"{found.note} {BUSY}".strip() if busy else found.note
        self.found.append(replace(found, measured=measured, note=note))
        report.write(self.out, self.found, machine(self.vllm))  # after each: a later one may fail
        say(f"{name}: {'ok' if self.found[-1].ok else 'NOT OK'} ({time.monotonic() - began:.0f} s)")

    def _on_one_server(self, stack: ExitStack) -> None:
        """On a core of its own: router and load are on the others, and nothing else runs."""
        cores = stack.enter_context(apart())
        started = servers(self.vllm, self.folder, count=1, cores=cores, tell=say)
        server = self.running[0] if self.running else stack.enter_context(started)[0]
        self._check("simulator_error", lambda: self._simulator(server))
        if self._wanted("predictor_error"):
            proxy = self._routed(stack, [server], "alone")
            floor = predicted.noise_floor(proxy.url, server)
            self._check("predictor_error", lambda: self._predictor(
                proxy, "predictor_error", "stated: TTFT and TPOT error on one engine with a core of its own",
                "Short and long prompts at three rates in turn, split by time. Constants stand below the methods; the "
                "noise floor is one request repeated alone on an idle engine.", noise_floor=floor))  # fmt: skip

    def _on_two_servers(self, stack: ExitStack) -> None:
        two = self.running or stack.enter_context(servers(self.vllm, self.folder, tell=say))
        proxy, picker = self._routed(stack, two, "proxy"), self._world(stack, two, "picker")
        picker.start_picker("--kv-events", "auto")
        picker.start_envoy()
        ways = {"proxy": proxy.url, "Envoy and picker": picker.url}
        port = free_ports()
        shop = stack.enter_context(prometheus(shutil.which("prometheus") or "prometheus", self.folder, port,
                                              {"vllm": [one.url for one in two]}))  # fmt: skip
        self._check("same_answers", lambda: checks.same_answers(two, ways))
        self._check("prefix_routing", lambda: checks.prefix_routing(two, ways, lambda: counters(shop)))
        self._check("cancellation", lambda: checks.cancellation(two, ways))
        # Started only now: all that went before is played back to it.
        self._check("index_is_the_cache", lambda: checks.index_is_the_cache(
            two, self._indexer(stack, two), probes=100, seed=3))  # fmt: skip
        self._check("metric_names", lambda: checks.metric_names(names(shop)))
        if self._wanted("predictor_error_busy"):
            for one in (proxy, picker):
                one.stop_picker()
            busy = self._routed(stack, two, "busy")  # another: it has seen this load alone
            self._check("predictor_error_busy", lambda: self._predictor(
                busy, "predictor_error_busy", "stated: the same with two engines, router and load on the same cores",
                "**With two cores these latencies are those of processes that take turns.** A stalled answer, whose "
                "tokens come at once, has a TPOT near 0, so look at medians."))  # fmt: skip

    def _routed(self, stack: ExitStack, engines: Sequence[Server], name: str) -> World:
        """A proxy of our own in front of them, with nothing in its history."""
        made = self._world(stack, engines, name)
        made.start_router("--kv-events", "auto")
        return made

    def _world(self, stack: ExitStack, two: Sequence[Server], name: str) -> World:
        home = self.folder / name
        home.mkdir()
        world = World(home)
        stack.callback(world.close)
        world.engines = list(two)  # type: ignore[arg-type]  # they have a url, a port and an end
        return world

    def _indexer(self, stack: ExitStack, two: Sequence[Server]) -> str:
        port = free_ports()
        process = subprocess.Popen([sys.executable, "-m", "fleet.cli", "router", "indexer", "--port", str(port),
                                    "--engines", ",".join(one.url for one in two)])  # fmt: skip
        stack.callback(process.wait)
        stack.callback(process.terminate)
        url = f"http://127.0.0.1:{port}"
        until(lambda: len(answer(f"{url}/pods") or ()) == len(two), "the index has played the past back")
        return url

    def _simulator(self, server: Server) -> Check:
        model, each = make_model(self.vllm, self.folder), (*simulated.CALIBRATION, *simulated.PREDICTION)
        rounds = []
        for number in range(simulated.ROUNDS):
            order = simulated.shuffled(len(each), number)
            run = simulated.with_references([each[index] for index in order])
            done = loads.serve(self.vllm, server.url, model, run, self.folder / "direct" / str(number),
                               first_seed=1 + number * len(run))  # fmt: skip
            rounds.append(simulated.read_round(order, done))
        return simulated.simulator_error(rounds, self.folder)

    def _predictor(self, proxy: World, name: str, promise: str, note: str, **more: Any) -> Check:
        """Judged on this load alone."""
        loads.serve(self.vllm, proxy.url, make_model(self.vllm, self.folder), loads.MIXED, self.folder / name)
        time.sleep(3)  # the history is written every second
        url = f"sqlite:///{proxy.folder}/history.sqlite3"
        return predicted.predictor_error(name, promise, url, note=note, **more)


def answer(url: str) -> Any:
    """A JSON answer; ``None`` while there is none."""
    try:
        reply = httpx.get(url, timeout=5)
    except httpx.TransportError:
        return None
    return reply.json() if reply.status_code == 200 else None


def counters(shop: str) -> Mapping[str, float]:
    """vLLM's prefix counters of all servers, as Prometheus has them once it has scraped what was just done."""
    time.sleep(1.5)
    until(lambda: all(_sum(shop, name) for name in (HITS, QUERIES)), "Prometheus has scraped the engines")
    return {name: float(_sum(shop, name)[0]["value"][1]) for name in (HITS, QUERIES)}


def _sum(shop: str, name: str) -> Sequence[Any]:
    found: Sequence[Any] = httpx.get(f"{shop}/api/v1/query", params={"query": f"sum({name})"}).json()["data"]["result"]
    return found


def names(shop: str) -> Sequence[str]:
    """Every name of a series that Prometheus has."""
    found: Sequence[str] = httpx.get(f"{shop}/api/v1/label/__name__/values").json()["data"]
    return found


def rendered_lines() -> dict[str, list[str]]:
    """``vllm serve`` command lines that the planner renders, by cluster and role, without those two words."""
    found = {}
    for name, text in ALL.items():
        cluster = parse(text, where=name)
        for role, spec in cluster.roles().items():
            if spec.engine == "vllm":
                found[f"{name} {role}"] = engine.command(cluster, role)[2:]
    return found


def machine(vllm: Path) -> dict[str, Any]:
    """Where this ran."""
    cpu = next((line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                if line.startswith("model name")), platform.machine())  # fmt: skip
    code = "import importlib.metadata as m, torch; print(m.version('vllm'), torch.__version__)"
    versions = subprocess.run([str(vllm.parent / "python"), "-c", code], capture_output=True, text=True, check=True)
    engine_version, torch_version = versions.stdout.split()
    return {
        "command": "make test-engine", "cpu": cpu, "cores": os.cpu_count(), "python": platform.python_version(),
        "vllm": engine_version, "torch": torch_version, "llm_fleet": version("llm-fleet"),
    }  # fmt: skip


if __name__ == "__main__":
    main()
