"""Which processes make the loop, with which arguments. Pure."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

TRAFFIC: Final = "traffic.json"
"""In the home folder: what the traffic has done so far."""
TRAFFIC_REPORT: Final = "traffic-report.json"
"""What it did, at its end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpOptions:
    """What was asked of ``fleet up``."""

    home: Path
    history_url: str
    host: str = "127.0.0.1"
    engines: str = ""
    """Comma-separated URLs of real engines; empty: simulated ones."""
    config: Path = Path("demo.yaml")
    """The simulated fleet, or with ``vllm`` the real one."""
    vllm: str = ""
    """vLLM's program, to run real servers as processes; empty: engines are simulated."""
    vllm_model: str = ""
    vllm_args: str = ""
    max_model_len: int | None = None
    """The real engines' context, where it is known: the replayed traffic is kept within it."""
    model: str = ""
    trace: str = "azure2023_conv"
    traces: Path | None = None
    mean_rps: float = 16.0
    period_s: float = 120.0
    """The trace's hour is replayed in so many seconds, over and over."""
    prefix_share: float = 0.8
    """Length of the system prompts that its requests begin with, as a share of the median prompt."""
    duration_s: float | None = None
    seed: int = 1
    traffic: bool = True
    console: bool = True
    actions: bool = False
    """Whether the console's viewers may pause variants, narrow bounds and switch to a dry run."""
    prometheus_url: str = ""
    slo_file: Path | None = None
    router_config: Path | None = None
    wva_interval_s: float = 2.0
    scale_down_stabilisation_s: float = 15.0
    analyzer: str = "slo"
    """What the controller decides with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """Where each part listens."""

    sim: int = 8060
    wva: int = 8070
    router: int = 8080
    router_admin: int = 8081
    predictor: int = 8090
    alerts: int = 8095
    console: int = 8501
    engine_base: int = 9100


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One supervised process."""

    name: str
    argv: tuple[str, ...]
    health_url: str = ""
    """Answers 200 once the part is usable; empty: running is enough."""
    after: tuple[str, ...] = field(default=())
    """Parts that must be healthy before this one starts."""
    gate_url: str = ""
    """Must answer 200 before this part starts (the router's readiness: an endpoint to pick)."""
    role: str = ""
    """What it does, in the terminal's words."""


def _fleet(*arguments: object) -> tuple[str, ...]:
    # "python -m fleet.cli" rather than the script on PATH: the very environment that runs `fleet up`.
    return (sys.executable, "-m", "fleet.cli", *map(str, arguments), "--die-with-parent")


def _engines(options: UpOptions, ports: Ports) -> tuple[object, ...]:
    if options.engines:
        return ("--engines", options.engines)
    return ("--platform", f"http://{options.host}:{ports.sim}")


def parts(options: UpOptions, ports: Ports) -> tuple[Part, ...]:
    """The loop's processes in the order they start."""
    base = f"http://{options.host}"
    engines, first = _engines(options, ports), () if options.engines else ("simulator",)
    slo = ("--slo", options.slo_file) if options.slo_file else ()
    found = [
        Part(name="predictor", role="learns TTFT and TPOT", health_url=f"{base}:{ports.predictor}/healthz",
             argv=_fleet("predictor", "serve", *_listen(options, ports.predictor),
                         "--home", options.home)),
        Part(name="router", role="routes requests", after=first, health_url=f"{base}:{ports.router_admin}/healthz",
             argv=_fleet("router", "serve", *_listen(options, ports.router), "--admin-port", ports.router_admin,
                         *engines, "--home", options.home, "--seed", options.seed,
                         *_optional("--config", options.router_config), *slo)),
        Part(name="wva", role="scales variants", after=first, health_url=f"{base}:{ports.wva}/healthz",
             argv=_fleet("wva", "run", *_listen(options, ports.wva), *engines, *_model(options),
                         *_source(options), "--router-url", f"{base}:{ports.router_admin}",
                         "--interval-s", options.wva_interval_s, "--state-file", options.home / "wva-state.json",
                         "--scale-down-stabilisation-s", options.scale_down_stabilisation_s,
                         "--analyzer", options.analyzer, *slo,
                         *(("--allow-overrides",) if options.actions else ()))),
        Part(name="alerts", role="watches the SLOs", after=first, health_url=f"{base}:{ports.alerts}/healthz",
             argv=_fleet("alerts", "watch", *_listen(options, ports.alerts), *engines,
                         "--router", f"{base}:{ports.router_admin}",
                         "--wva", f"{base}:{ports.wva}", "--predictor", f"{base}:{ports.predictor}",
                         "--for-scale", "0.1", *slo)),
    ]  # fmt: skip
    if not options.engines:
        found.insert(0, _simulator(options, ports, base))
    if options.console:
        found.append(_console(options, ports, base, slo))
    if options.traffic:
        found.append(_traffic(options, ports, base))
    return tuple(found)


def environment(options: UpOptions) -> dict[str, str]:
    """What parts are told by their environment: the history's URL may hold a password, and everybody sees arguments."""
    return {"FLEET_HISTORY_URL": options.history_url, "CONSOLE_HISTORY_URL": options.history_url}


def _listen(options: UpOptions, port: int) -> tuple[object, ...]:
    return ("--host", options.host, "--port", port)


def _model(options: UpOptions) -> tuple[object, ...]:
    return ("--model", options.model) if options.engines else ()


def _optional(flag: str, value: object | None) -> tuple[object, ...]:
    return () if value is None else (flag, value)


def _source(options: UpOptions) -> tuple[object, ...]:
    if options.prometheus_url:
        return ("--source", "prometheus", "--prometheus-url", options.prometheus_url)
    return ()


def _simulator(options: UpOptions, ports: Ports, base: str) -> Part:
    real: tuple[object, ...] = ()
    if options.vllm:
        real = ("--vllm", options.vllm, "--vllm-model", options.vllm_model, f"--vllm-args={options.vllm_args}")
    role = "runs vLLM servers" if options.vllm else "runs simulated engines"
    return Part(name="simulator", role=role, health_url=f"{base}:{ports.sim}/healthz",
                argv=_fleet("sim", "serve", "--host", options.host, "--port", ports.sim, "--config", options.config,
                            "--engine-port-base", ports.engine_base, *real))  # fmt: skip


def _console(options: UpOptions, ports: Ports, base: str, slo: tuple[object, ...]) -> Part:
    urls = {"wva": ports.wva, "router": ports.router_admin, "predictor": ports.predictor, "alerts": ports.alerts}
    sources = [word for name, port in urls.items() for word in (f"--{name}", f"{base}:{port}")]
    return Part(name="console", role="shows it all", health_url=f"{base}:{ports.console}/_stcore/health",
                argv=_fleet("console", *_listen(options, ports.console), *sources, *slo,
                            *(("--actions",) if options.actions else ())))  # fmt: skip


def _traffic(options: UpOptions, ports: Ports, base: str) -> Part:
    argv: list[object] = ["sim", "replay", "--target", f"{base}:{ports.router}", "--model", options.model,
                          "--trace", options.trace, "--period-s", options.period_s, "--mean-rps", options.mean_rps,
                          "--prefix-share", options.prefix_share, "--seed", options.seed,
                          "--status", options.home / TRAFFIC,
                          "--report", options.home / TRAFFIC_REPORT]  # fmt: skip
    if options.max_model_len:
        argv += ["--max-model-len", options.max_model_len]
    if options.traces:
        argv += ["--traces", options.traces]
    if options.duration_s:
        argv += ["--duration", options.duration_s]
    return Part(name="traffic", role="replays traffic", after=("router", "wva", "predictor"), argv=_fleet(*argv),
                gate_url=f"{base}:{ports.router_admin}/readyz")  # fmt: skip
