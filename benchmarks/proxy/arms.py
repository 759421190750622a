"""The proxies that are compared, each with its authors' settings, and how each is started."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from router import compiled

PEER_HOME = Path(os.environ.get("BENCH_PEERS", ".venvs"))
"""Where ``make bench-peers`` puts them."""
OURS: Final = "ours"
COMPILED: Final = "ours-compiled"
_PACKAGES: Final = ("fleet", "predictor", "router")
"""What our proxy is made of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """What an arm is told."""

    port: int
    spare: int
    """Another free port."""
    engines: Sequence[int]
    folder: Path
    """Its own, empty."""

    @property
    def urls(self) -> list[str]:
        """The engines' URLs."""
        return [f"http://127.0.0.1:{port}" for port in self.engines]


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One proxy."""

    name: str
    program: Path
    """What must be there."""
    command: Callable[[Start, Path], list[str]]
    env: dict[str, str] = field(default_factory=dict)
    ready_s: float = 30.0
    rival: bool = True
    """It counts for ``rps_ratio_vs_best_peer``."""
    seconds: float = 1.2
    """One run of the load; an arm that answers some tens of requests a second needs more of them."""
    lacks: str = ""
    """Why it cannot run although its program is there."""

    @property
    def missing(self) -> str:
        """What to say where it cannot run; empty: it can."""
        if not self.program.exists():
            return self.name
        return f"{self.name} ({self.lacks})" if self.lacks else ""


def _ours(start: Start, program: Path) -> list[str]:
    return [
        str(program), "-m", "fleet.cli", "router", "serve", "--port", str(start.port), "--admin-port",
        str(start.spare), "--home", str(start.folder), "--engines", ",".join(start.urls), "--workers",
        str(os.cpu_count() or 1),
    ]  # fmt: skip


def our_arms(here: Path = compiled.ROOT, home: Path = PEER_HOME / "compiled") -> list[Arm]:
    """Our own proxy as plain Python and as native code: one of them is ``here``, the other in an environment.

    Where that environment is good, both run on its Python and with its packages. Native code of another source than
    the one beside it refuses to start by itself.

    Args:
        here: where this very program is.
        home: the environment that ``make bench-compiled`` makes, with our wheel with native code in it.
    """
    this = Path(sys.executable)
    if compiled.built(here):
        return [_own(OURS, here, this, "what is installed here is native code"), _own(COMPILED, here, this)]
    python = home / "bin/python"
    built = next(iter(sorted(home.glob("lib/python3*/site-packages"))), home)
    lacks = ""
    if _sources(here) != _sources(built):
        lacks = "built from another source"
    elif not compiled.built(built):
        lacks = "built as plain Python"
    return [_own(OURS, here, this if lacks else python), _own(COMPILED, built, python, lacks)]


def _own(name: str, folder: Path, python: Path, lacks: str = "") -> Arm:
    env = {"PYTHONPATH": str(folder.resolve()), "PYTHONSAFEPATH": "1"}  # else Python looks in this folder first
    return Arm(name=name, program=python.absolute(), command=_ours, env=env, rival=False, lacks=lacks)


def _sources(folder: Path) -> dict[str, bytes]:
    paths = (path for package in _PACKAGES for path in (folder / package).rglob("*.py"))
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


_FILTERS = "type.googleapis.com/envoy.extensions.filters"


def _envoy(start: Start, program: Path) -> list[str]:
    endpoints = [
        {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}}
        for port in start.engines
    ]
    route = {
        "@type": f"{_FILTERS}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "in", "codec_type": "HTTP1",
        "route_config": {"virtual_hosts": [
            {"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "engines"}}]}
        ]},
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {
            "@type": f"{_FILTERS}.http.router.v3.Router"}}],
    }  # fmt: skip
    config = {"static_resources": {
        "listeners": [{
            "name": "in",
            "address": {"socket_address": {"address": "127.0.0.1", "port_value": start.port}},
            "filter_chains": [{"filters": [
                {"name": "envoy.filters.network.http_connection_manager", "typed_config": route}]}],
        }],
        "clusters": [{
            "name": "engines", "connect_timeout": "1s", "type": "STATIC", "lb_policy": "ROUND_ROBIN",
            "load_assignment": {"cluster_name": "engines", "endpoints": [{"lb_endpoints": endpoints}]},
        }],
    }}  # fmt: skip
    path = start.folder / "envoy.json"
    path.write_text(json.dumps(config))
    return [str(program), "-c", str(path), "--disable-hot-restart", "-l", "warning"]


def _sglang(start: Start, program: Path) -> list[str]:
    return [
        str(program), "-m", "sglang_router.launch_router", "--host", "127.0.0.1", "--port", str(start.port),
        "--prometheus-port", str(start.spare), "--policy", "cache_aware", "--worker-urls", *start.urls,
    ]  # fmt: skip


def _vllm(policy: str) -> Callable[[Start, Path], list[str]]:
    def command(start: Start, program: Path) -> list[str]:
        return [
            str(program), "--host", "127.0.0.1", "--port", str(start.port), "--prometheus-port", str(start.spare),
            "--policy", policy, "--worker-urls", *start.urls,
        ]  # fmt: skip

    return command


def _litellm(start: Start, program: Path) -> list[str]:
    models = [
        {"model_name": "m",
         "litellm_params": {"model": "text-completion-openai/m", "api_base": f"{url}/v1", "api_key": "x"}}
        for url in start.urls
    ]  # fmt: skip
    path = start.folder / "litellm.json"
    open_to_all = {"dangerously_permit_weak_or_unset_master_key": True}  # else it does not start without a key
    path.write_text(json.dumps({"model_list": models, "general_settings": open_to_all}))
    return [str(program), "--config", str(path), "--host", "127.0.0.1", "--port", str(start.port)]


def _envoy_program() -> Path:
    found = sorted((PEER_HOME / "envoy/lib").glob("python3*/site-packages/envoy/_bin/envoy"))
    return found[0] if found else PEER_HOME / "envoy/_bin/envoy"


def arms() -> list[Arm]:
    """All of them; which cannot run, :attr:`Arm.missing` tells."""
    vllm = PEER_HOME / "vllm-router/bin/vllm-router"
    return [
        *our_arms(),
        Arm(name="envoy", program=_envoy_program(), command=_envoy),
        Arm(name="sglang-router cache_aware", program=PEER_HOME / "sglang/bin/python", command=_sglang),
        Arm(name="vllm-router round_robin", program=vllm, command=_vllm("round_robin")),
        Arm(name="vllm-router cache_aware", program=vllm, command=_vllm("cache_aware")),
        Arm(name="litellm", program=PEER_HOME / "litellm/bin/litellm", command=_litellm, rival=False, ready_s=90.0,
            seconds=4.0, env={"LITELLM_LOCAL_MODEL_COST_MAP": "True"}),
    ]  # fmt: skip
