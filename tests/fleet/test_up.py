"""``fleet up``: the plan, the ports, the supervisor and the report."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from sqlalchemy.exc import DatabaseError

from fleet.errors import FleetError
from fleet.history import Event, History
from fleet.up import report, vllm
from fleet.up.cli import up
from fleet.up.plan import Part, Ports, UpOptions, parts
from fleet.up.ports import PortBook, choose
from fleet.up.run import Up
from fleet.up.supervisor import Supervisor
from tests.ports import free_ports
from tests.waiting import until


def _options(**changes: object) -> UpOptions:
    return UpOptions(**{"home": Path("/h"), "history_url": "sqlite:///h", "model": "m", **changes})


def test_the_whole_loop_is_planned_and_traffic_waits_for_the_router() -> None:
    plan = {part.name: part for part in parts(_options(), Ports())}
    assert set(plan) == {"simulator", "predictor", "router", "wva", "alerts", "console", "traffic"}
    assert "router" in plan["traffic"].after
    assert all("--die-with-parent" in part.argv for part in plan.values())


def test_the_controller_decides_by_latency_targets_unless_told_otherwise() -> None:
    """The targets are those that alerts and console show: one SLO file for all."""
    plan = {part.name: part for part in parts(_options(slo_file=Path("/s.yaml")), Ports())}
    assert plan["wva"].argv[plan["wva"].argv.index("--analyzer") + 1] == "slo"
    assert all(
        plan[name].argv[plan[name].argv.index("--slo") + 1] == "/s.yaml"
        for name in ("router", "wva", "alerts", "console")
    )
    other = {part.name: part for part in parts(_options(analyzer="saturation"), Ports())}["wva"]
    assert other.argv[other.argv.index("--analyzer") + 1] == "saturation"


def test_real_engines_need_no_simulator() -> None:
    plan = {part.name: part for part in parts(_options(engines="http://a:1,http://b:2", traffic=False), Ports())}
    assert "simulator" not in plan
    assert "traffic" not in plan
    assert "http://a:1,http://b:2" in plan["router"].argv


@pytest.mark.parametrize("actions", [True, False])
def test_the_operators_panel_is_asked_for_at_both_ends(actions: bool) -> None:
    plan = {part.name: part for part in parts(_options(actions=actions), Ports())}
    assert ("--actions" in plan["console"].argv) is actions
    assert ("--allow-overrides" in plan["wva"].argv) is actions


def test_two_runs_that_start_at_once_never_choose_the_same_port(tmp_path: Path) -> None:
    first, second = PortBook(tmp_path), PortBook(tmp_path)
    ours, _ = choose("127.0.0.1", Ports(), first)
    theirs, notes = choose("127.0.0.1", Ports(), second)
    names = Ports.__dataclass_fields__
    assert not {getattr(ours, name) for name in names} & {getattr(theirs, name) for name in names}
    assert abs(ours.engine_base - theirs.engine_base) >= 32
    assert len(notes) == len(names)
    first.release()
    assert choose("127.0.0.1", ours, PortBook(tmp_path))[0] == ours


def test_a_taken_port_is_replaced_and_said(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ports, notes = choose("127.0.0.1", Ports(router=port), PortBook(tmp_path))
    assert ports.router != port
    assert f"router {port} -> {ports.router}" in notes
    values = [getattr(ports, name) for name in Ports.__dataclass_fields__]
    assert len(set(values)) == len(values)


def _supervise(tmp_path: Path, *parts_: Part) -> tuple[Supervisor, list[str]]:
    lines: list[str] = []
    return Supervisor(parts_, logs=tmp_path, report=lambda _part, line: lines.append(line)), lines


def _until(supervisor: Supervisor, condition: Callable[[], object]) -> None:
    until(lambda: (supervisor.tick(), condition())[1])


def _python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code)


def test_a_killed_part_is_reported_and_restarted(tmp_path: Path) -> None:
    supervisor, lines = _supervise(
        tmp_path, Part(name="p", argv=_python("import time; print('hello', flush=True); time.sleep(60)"))
    )
    supervisor.tick()
    first = supervisor.running["p"].process
    assert first
    _until(supervisor, lambda: "hello" in supervisor.log_of("p").read_text())
    os.kill(first.pid, signal.SIGKILL)
    _until(supervisor, lambda: supervisor.running["p"].process not in (None, first))
    second = supervisor.running["p"].process
    assert second and second.poll() is None
    assert "signal SIGKILL" in lines[0] and "hello" in lines[0]
    assert "restarted" in lines[1]
    supervisor.stop()
    assert second.poll() is not None
    assert len(supervisor.died()) == 1


def test_a_part_that_ends_well_is_done_and_not_restarted(tmp_path: Path) -> None:
    supervisor, lines = _supervise(tmp_path, Part(name="p", argv=_python("pass")))
    _until(supervisor, lambda: supervisor.running["p"].done)
    assert (supervisor.running["p"].state, lines, supervisor.died()) == ("done", [], [])


def test_a_part_that_refuses_its_arguments_is_not_tried_again(tmp_path: Path) -> None:
    code = "import sys; print('fleet: no such file', file=sys.stderr); sys.exit(2)"
    supervisor, _lines = _supervise(tmp_path, Part(name="p", argv=_python(code), health_url="http://127.0.0.1:9/x"))
    _until(supervisor, supervisor.refusal)
    assert supervisor.refusal() == "fleet: no such file"


def test_a_part_that_hangs_is_ended_and_started_anew(tmp_path: Path) -> None:
    server = (
        "import http.server, os, sys\n"
        "class H(http.server.BaseHTTPRequestHandler):\n"
        "    def do_GET(self):\n"
        "        self.send_response(503 if os.path.exists(sys.argv[1]) else 200); self.end_headers()\n"
        "http.server.HTTPServer(('127.0.0.1', int(sys.argv[2])), H).serve_forever()\n"
    )
    port = free_ports()
    now, sick = [1000.0], tmp_path / "sick"
    part = Part(name="p", argv=(*_python(server), str(sick), str(port)), health_url=f"http://127.0.0.1:{port}/")
    lines: list[str] = []
    supervisor = Supervisor(
        [part], logs=tmp_path / "logs", report=lambda _p, line: lines.append(line), clock=lambda: now[0]
    )
    _until(supervisor, lambda: supervisor.running["p"].healthy)
    first = supervisor.running["p"].process
    sick.touch()
    for _ in range(14):
        now[0] += 5.0
        supervisor.tick()
    assert any("has not been well" in line for line in lines)
    sick.unlink()

    def started_anew() -> bool:
        now[0] += 1.0  # the back-off passes
        return supervisor.running["p"].process not in (None, first)

    _until(supervisor, started_anew)
    _until(supervisor, lambda: supervisor.running["p"].healthy)
    assert supervisor.running["p"].healthy
    supervisor.stop()


def test_a_part_waits_for_what_it_needs(tmp_path: Path) -> None:
    supervisor, _lines = _supervise(
        tmp_path,
        Part(name="base", argv=_python("import time; time.sleep(60)"), health_url="http://127.0.0.1:9/none"),
        Part(name="top", argv=_python("pass"), after=("base",)),
    )
    for _ in range(5):
        supervisor.tick()
    assert supervisor.running["top"].state == "waiting"
    supervisor.stop()


def test_what_ignores_a_stop_is_killed(tmp_path: Path) -> None:
    code = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
    )
    supervisor, _lines = _supervise(tmp_path, Part(name="p", argv=_python(code)))
    supervisor.tick()
    _until(supervisor, lambda: "deaf" in supervisor.log_of("p").read_text())
    supervisor.stop(grace_s=0.2)
    process = supervisor.running["p"].process
    assert process and process.returncode == -signal.SIGKILL


def _row(at_s: float, outcome: str = "ok", **changes: object) -> dict[str, object]:
    return {
        "at_s": at_s,
        "outcome": outcome,
        "ttft_s": 0.1,
        "tpot_s": 0.01,
        "e2e_s": 1.0,
        "output_tokens": 100,
    } | changes


def test_the_summary_counts_what_the_client_waited_for() -> None:
    rows = [_row(1.0), _row(2.0, ttft_s=0.3), _row(3.0, "error", ttft_s=None), _row(4.0, "aborted", ttft_s=None)]
    figures = report.summary(requests=rows, events=[], samples=[], started_at=0.0, ended_at=10.0)
    assert figures["requests"] == 4
    assert figures["success_rate"] == pytest.approx(2 / 3, abs=1e-6)
    assert figures["ttft_p50_s"] == pytest.approx(0.2)
    assert figures["tokens_per_s"] == pytest.approx(400 / 4.0)
    assert figures["outcomes"] == {"ok": 2, "error": 1, "aborted": 1}


def test_the_summary_of_nothing_says_unknown_not_zero() -> None:
    figures = report.summary(requests=[], events=[], samples=[], started_at=0.0, ended_at=10.0)
    assert (figures["success_rate"], figures["ttft_p95_s"], figures["scale_events"]) == (None, None, [])
    json.dumps(figures)


def _event(at_s: float, kind: str, subject: str, **data: object) -> dict[str, object]:
    return {"at_s": at_s, "kind": kind, "subject": subject, "message": "why", "severity": "critical", "data": data}


def test_scale_events_and_alerts_are_told_apart() -> None:
    change = {"variant": "v", "direction": "up", "from": 1, "to": 2, "reason": "saturated"}
    events = [
        _event(5.0, "scale", "v", **change),
        _event(6.0, "alert", "HighTTFT", state="firing"),
        _event(7.0, "alert", "HighTTFT", state="resolved"),
    ]
    (scale,) = report.scale_events(events, 1.0)
    assert scale == {"time": "1970-01-01T00:00:05.000Z", "at_s": 4.0, "detail": "why", **change}
    (alert,) = report.fired_alerts(events, 1.0)
    assert (alert["alert"], alert["first_at_s"], alert["firing"], alert["times"]) == ("HighTTFT", 5.0, False, 1)


def test_the_replica_timeline_keeps_changes_only() -> None:
    desired, ready = report.REPLICA_SIGNALS
    changes = [(1, desired, 1), (1, ready, 1), (2, desired, 1), (3, desired, 2), (5, ready, 2)]
    samples = [{"at_s": at, "variant": "v", "signal": name, "value": value} for at, name, value in changes]
    assert report.replica_timeline(samples, 0.0) == {
        "v": [
            {"at_s": 1, "desired": 1, "ready": 1},
            {"at_s": 3, "desired": 2, "ready": 1},
            {"at_s": 5, "desired": 2, "ready": 2},
        ]
    }


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        pytest.param(["--prometheus", "http://127.0.0.1:9"], "Prometheus does not answer", id="unreachable-prometheus"),
        pytest.param(["--engines", "http://127.0.0.1:9"], "GET /v1/models", id="engine-that-is-down"),
        pytest.param(["--engines", "gpu1:8000"], "no engine URL", id="engine-without-scheme"),
        pytest.param(["--config", "/nonexistent.yaml"], "no such file", id="missing-fleet-file"),
        pytest.param(["--slo", "/nonexistent.yaml"], "no such file", id="missing-slo-file"),
        pytest.param(["--history-url", "sqlite:////proc/x/h"], "folder cannot be made", id="unwritable-history"),
        pytest.param(["--mean-rps", "-3"], "UP_MEAN_RPS", id="negative-rate"),
    ],
)
def test_bad_input_is_refused_before_anything_starts(arguments: list[str], words: str) -> None:
    result = CliRunner().invoke(up, ["--headless", "--duration", "5", *arguments])
    assert isinstance(result.exception, FleetError)
    assert words in str(result.exception)
    assert "\n" not in str(result.exception)


def test_the_command_line_exits_with_2_and_one_line() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fleet.cli", "up", "--slo", "/nonexistent.yaml"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.strip().splitlines() == ["fleet: /nonexistent.yaml: no such file. Check the path."]


@pytest.mark.parametrize(("arguments", "config", "context"), [
    ("--dtype float32 --max-model-len 4096", '{"max_position_embeddings": 8192}', 4096),
    ("--max-model-len=4096", "{}", 4096),
    ("--max-model-len auto", '{"max_position_embeddings": 8192}', None),
    ("", '{"max_position_embeddings": 8192}', 8192),
    ("", "{}", None),
    ("", "not JSON", None),
])  # fmt: skip
def test_traffic_for_real_engines_fits_their_context(
    tmp_path: Path, arguments: str, config: str, context: int | None
) -> None:
    (tmp_path / "config.json").write_text(config, encoding="utf-8")
    found = vllm.context(vllm.RealEngines(model=str(tmp_path), arguments=arguments))
    assert found == context
    traffic = next(
        part for part in parts(_options(vllm="vllm", max_model_len=found), Ports()) if part.name == "traffic"
    )
    assert ("--max-model-len" in traffic.argv) == (context is not None)
    assert context is None or traffic.argv[traffic.argv.index("--max-model-len") + 1] == str(context)


def test_the_demo_s_gpus_are_enough_for_every_maximum() -> None:
    fleet = yaml.safe_load((Path(report.__file__).parent / "demo.yaml").read_text(encoding="utf-8"))
    needed: Counter[str] = Counter()
    for one in fleet["variants"]:
        needed[one["accelerator"]] += one["accelerator_count"] * one["max_replicas"]
    assert fleet["gpus"] == needed


def test_what_happens_to_engines_is_told_once_and_only_of_this_run(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/h.sqlite3"
    history, said = History(url), list[str]()
    run = Up(_options(home=tmp_path, history_url=url), Ports(), history, said.append)
    history.add([
        Event(at_s=run.started_at - 60, kind="engine", subject="a-0", message="of an earlier run"),
        Event(at_s=run.started_at + 1, kind="engine", subject="a-1", message="http://a is down; 1 of 2 replicas serve"),
        Event(at_s=run.started_at + 2, kind="model", subject="predictor", message="first fit"),
    ])  # fmt: skip
    assert run.collector.engine_news(run.started_at) == ["a-1: http://a is down; 1 of 2 replicas serve"]
    assert run.collector.engine_news(run.started_at) == []
    history.add([Event(at_s=run.started_at + 9, kind="engine", subject="a-1", message="http://a is ready again")])
    assert run.collector.engine_news(run.started_at) == ["a-1: http://a is ready again"]


def test_a_history_that_breaks_on_the_way_ends_nothing_and_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{tmp_path}/h.sqlite3"
    history, said = History(url), list[str]()
    run = Up(_options(home=tmp_path, history_url=url, engines="http://127.0.0.1:1"), Ports(), history, said.append)

    def broken(*_: object, **__: object) -> None:
        raise DatabaseError("SELECT", {}, sqlite3.DatabaseError("database disk image is malformed"))

    with monkeypatch.context() as patched:
        patched.setattr(history, "read", broken)
        patched.setattr(history, "add", broken)
        run._report("router", "router died (exit code 1) after 3 s")
        assert [line.variant for line in run.collector.lines(run.started_at)] == ["static"], (
            "what the platform tells stays"
        )
        run.collector.engine_news(run.started_at)
        run._watch_history()
        run._watch_history()
        summary = run.summary()
    line = f"the history cannot be read, figures are missing: {url}: database disk image is malformed"
    assert said == ["router died (exit code 1) after 3 s", "not recorded: database disk image is malformed", line]
    assert (summary["requests"], summary["died"], run.failed()) == (0, [line], True)
    run.collector.engine_news(run.started_at)
    run._watch_history()
    assert said[-1] == "the history can be read again"
