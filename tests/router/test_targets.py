"""Latency targets of requests: their own, else their model's in the SLO file, and what they change."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time

import httpx
import pytest

from fleet.discovery import static_fleet
from fleet.slo import DEFAULT_SLOS, parse_slos
from predictor import artifact
from router import explain
from router.dataplane.body import parse
from router.director import Director
from router.endpoints import EndpointSet
from router.hints import HEADERS, NO_HINTS, with_hint
from router.metrics import RouterMetrics
from router.models import Models
from router.parts import Parts
from router.picker_server.service import PickerService
from router.picker_server.settings import PickerSettings
from router.profile import DEFAULT, Scheduler
from router.settings import RouterSettings
from router.targets import BY_FILE, BY_REQUEST, BY_TENANT, NO_TARGETS, Targets, named, of_model, of_request
from router.tenants import hashed, parse_tenants
from router.types import Pick, Predictions
from tests.router.dataplane_stubs import Engine, completion, on_loop, until
from tests.router.test_admission import LONG
from tests.router.test_router_app import ask, engine_script, started
from tests.router.test_router_predict import model

BOOK = parse_slos({"default": {"ttft": {"threshold_s": 2.0}, "tpot": {"threshold_s": 0.08}},
                   "models": {"free": {"ttft": None, "tpot": None}, "deaf": {"ttft": None}}})  # fmt: skip
FILE = "models: {m: {ttft: {threshold_s: %g}, tpot: {threshold_s: %g}}}\n"


@pytest.mark.parametrize(
    ("book", "name", "found"),
    [
        pytest.param(BOOK, "m", Targets(2.0, 0.08, BY_FILE, BY_FILE), id="the file's default"),
        pytest.param(BOOK, "free", NO_TARGETS, id="a model that is promised nothing"),
        pytest.param(BOOK, "deaf", Targets(None, 0.08, "", BY_FILE), id="one promise withdrawn"),
        pytest.param(DEFAULT_SLOS, "m", Targets(0.2, 0.1, BY_FILE, BY_FILE), id="an empty file: what is built in"),
        pytest.param(None, "m", NO_TARGETS, id="no file"),
    ],
)
def test_a_models_targets_are_those_of_the_file(book, name, found):
    assert of_model(book, name) == found
    assert Models(book).of(name).targets == found


def hints(*headers):
    found = NO_HINTS
    for name, value in headers:
        found = with_hint(found, HEADERS[name], value)
    return found


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        pytest.param([(b"x-session-id", b"s")], Targets(2.0, 0.08, BY_FILE, BY_FILE), id="nothing named"),
        pytest.param([(b"x-slo-tpot-ms", b"50")], Targets(2.0, 0.05, BY_FILE, BY_REQUEST), id="one named"),
        pytest.param([(b"x-llm-d-slo-ttft-ms", b"500"), (b"x-slo-tpot-ms", b"500")],
                     Targets(0.5, 0.5, BY_REQUEST, BY_REQUEST), id="both named, wider ones too"),
        pytest.param([(b"x-llm-d-slo-tpot-ms", b"None")], Targets(2.0, None, BY_FILE, BY_REQUEST), id="one declined"),
        pytest.param([(b"x-llm-d-slo-tpot-ms", b"soon")], Targets(2.0, 0.08, BY_FILE, BY_FILE), id="a word"),
        pytest.param([(b"x-llm-d-slo-tpot-ms", b"inf")], Targets(2.0, 0.08, BY_FILE, BY_FILE), id="endless"),
    ],
)  # fmt: skip
def test_a_requests_headers_win_and_may_decline(headers, found):
    assert of_request(hints(*headers), of_model(BOOK, "m")) == found


@pytest.mark.parametrize(
    ("slo", "headers", "found"),
    [
        pytest.param("none", [], Targets(None, None, BY_TENANT, BY_TENANT), id="it wants none"),
        pytest.param("{ttftMs: 500}", [], Targets(0.5, 0.08, BY_TENANT, BY_FILE), id="one of its own"),
        pytest.param("{ttftMs: none, tpotMs: 40}", [], Targets(None, 0.04, BY_TENANT, BY_TENANT), id="one declined"),
        pytest.param("{}", [], Targets(2.0, 0.08, BY_FILE, BY_FILE), id="nothing said"),
        pytest.param("none", [(b"x-slo-tpot-ms", b"50")], Targets(None, 0.05, BY_TENANT, BY_REQUEST), id="headers win"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("defaults", ["place", "admit", "off"])
def test_a_tenant_has_targets_of_its_own_or_none(slo, headers, found, defaults):
    tenants = parse_tenants(f"tenants: [{{name: t, slo: {slo}, keys: ['{hashed(b'k')}']}}, {{name: other}}]")
    settings = RouterSettings(slo_defaults=defaults)
    endpoints = EndpointSet(clock=time.monotonic)
    director = Director(Parts(settings=settings, scheduler=Scheduler(DEFAULT), endpoints=endpoints,
                              metrics=RouterMetrics(), rng=random.Random(1), slos=None if defaults == "off" else BOOK,
                              tenants=tenants))  # fmt: skip

    def targets(client):
        asked = hints(*headers)
        ticket = director.open(parse(b'{"model": "m", "prompt": "x"}'), request_id="r", client=client, hints=asked)
        return ticket.targets

    if defaults == "off":
        assert targets(director.identify(b"Bearer k")) == of_request(hints(*headers), NO_TARGETS)
        return
    assert targets(director.identify(b"Bearer k")) == found
    assert targets(tenants.all[1]) == of_request(hints(*headers), of_model(BOOK, "m"))
    assert named(found) == Targets(None, 0.05 if headers else None), "a tenant's hold nobody unless that is asked for"


@pytest.mark.parametrize(("slo", "status"), [("none", 200), ("{ttftMs: 60000}", 200), ("{ttftMs: 100}", 429)])
@on_loop
async def test_admission_goes_by_the_tenants_targets(tmp_path, slo, status):
    (tmp_path / "slos.yaml").write_text(FILE % (0.1 if status == 200 else 60.0, 10.0))
    tenants = tmp_path / "tenants.yaml"
    tenants.write_text(f"tenants: [{{name: t, slo: {slo}, keys: ['{hashed(b'k')}']}}]")
    artifact.write(model(), tmp_path / artifact.FILE_NAME)
    async with Engine(engine_script()) as engine:
        service = await started(engine.url, tmp_path, slo_file=tmp_path / "slos.yaml", slo_admission=0.1,
                                slo_defaults="admit", tenants=tenants)  # fmt: skip
        await until(lambda: service.endpoints.ready[0].sample and service.endpoints.ready[0].models)
        answer = await ask(service.port, completion(b"authorization: Bearer k", prompt=LONG))
        assert answer.status == status
        (decision,), _ = await decisions_of(service)
        assert decision["targets"]["ttft"]["by"] == "tenant"
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{service.admin_port}") as admin:
            (told,) = (await admin.get("/debug/tenants")).json()
        assert told["slo"] == {"none": {"ttft_s": None, "tpot_s": None}, "{ttftMs: 60000}": {"ttft_s": 60.0},
                               "{ttftMs: 100}": {"ttft_s": 0.1}}[slo]  # fmt: skip
        await service.stop()


def test_what_a_client_named_itself():
    assert named(Targets(2.0, 0.05, BY_FILE, BY_REQUEST)) == Targets(None, 0.05)
    assert named(of_model(BOOK, "m")) == NO_TARGETS


def test_models_without_end_do_not_fill_the_memory():
    models = Models(BOOK)
    for number in range(3000):
        models.of(str(number))
    assert len(models._found) <= 1024


# ---- what they change


class _Late:
    """Predicts 53 ms at the first engine and 150 ms at the second."""

    def __call__(self, request, endpoints, level=0.5):
        tpots = [0.053 if one.url == "http://e1" else 0.15 for one in endpoints]
        return Predictions([0.1] * len(tpots), tpots, [1.0] * len(tpots))


def picked(slos, headers=()):
    """Where a request goes, of two engines with 400 others each: at the first these are on the edge of 50 ms, at the
    second they are lost."""
    endpoints = EndpointSet(clock=time.monotonic)
    endpoints.update(static_fleet(["http://e1", "http://e2"], model="m"))
    director = Director(Parts(settings=RouterSettings(), scheduler=Scheduler(DEFAULT), endpoints=endpoints,
                              metrics=RouterMetrics(), rng=random.Random(1), predict=_Late(), slos=slos))  # fmt: skip
    for url, others in (("http://e1", 400), ("http://e2", 401)):
        for number in range(others):
            director.ledger.dispatch(url, (url, number), 0, 1000)
    ticket = director.open(parse(json.dumps({"model": "m", "prompt": "word " * 800}).encode()), request_id="r",
                           hints=hints(*headers))  # fmt: skip
    director.route(ticket, lambda _url: None)
    return ticket.url, ticket.targets


FIFTY = parse_slos({"models": {"m": {"tpot": {"threshold_s": 0.05}}}})


@pytest.mark.parametrize(
    ("slos", "headers", "url"),
    [
        pytest.param(None, [], "http://e1", id="no target: where the delay is least"),
        pytest.param(FIFTY, [], "http://e2", id="the model's target: where it makes fewest others late"),
        pytest.param(None, [(b"x-llm-d-slo-tpot-ms", b"50")], "http://e2", id="as one that names it"),
        pytest.param(FIFTY, [(b"x-llm-d-slo-tpot-ms", b"none")], "http://e1", id="unless it declines"),
        pytest.param(FIFTY, [(b"x-llm-d-slo-tpot-ms", b"200")], "http://e1", id="or has more time"),
    ],
)
def test_a_request_is_placed_by_its_models_target_as_if_it_named_it(slos, headers, url):
    assert picked(slos, headers)[0] == url


def test_an_explanation_says_who_named_which_target():
    targets = Targets(2.0, None, BY_FILE, BY_REQUEST)
    told = {"ttft": {"limit_s": 2.0, "by": "slo_file"}, "tpot": {"limit_s": None, "by": "request"}}
    assert json.loads(explain.header(Pick(None, "no_model"), None, targets))["targets"] == told
    assert explain.as_json(Pick(None, "no_model"), None, targets)["targets"] == told
    assert "targets" not in json.loads(explain.header(Pick(None, "no_model")))


@pytest.mark.parametrize(("limit_s", "late"), [(0.04, True), (0.06, False)])
def test_an_explanation_says_whether_it_would_be_late_wherever_it_went(limit_s, late):
    pick = Pick(None, "picked", predicted=Predictions([0.1, 0.1], [0.05, 0.15], [1.0, 1.0]))
    told = explain.as_json(pick, None, Targets(None, limit_s, "", BY_FILE))["targets"]["tpot"]
    assert told == {"limit_s": limit_s, "by": "slo_file", "late_everywhere": late}


# ---- a router with a file


async def decisions_of(service):
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{service.admin_port}") as admin:
        return (await admin.get("/debug/decisions")).json(), (await admin.get("/metrics")).text


@on_loop
async def test_a_changed_file_counts_and_a_wrong_one_changes_nothing(tmp_path):
    path = tmp_path / "slos.yaml"
    path.write_text(FILE % (1.0, 0.05))
    async with Engine(engine_script()) as engine:
        service = await started(engine.url, tmp_path, slo_file=path, explain=True)
        await until(lambda: service.endpoints.ready[0].models)
        answer = await ask(service.port, completion(b"x-fleet-explain: 1", b"x-slo-ttft-ms: 300"))
        told = json.loads(answer.headers["x-fleet-decision"])["targets"]
        assert told == {"ttft": {"limit_s": 0.3, "by": "request"}, "tpot": {"limit_s": 0.05, "by": "slo_file"}}
        path.write_text("models: {m: {tpot: {threshold_s: soon}}}\n")
        await until(lambda: service.director.config_error)
        assert "soon" in service.director.config_error
        assert service.director.models.of("m").targets.tpot_s == 0.05
        path.write_text(FILE % (1.0, 0.0625))
        await until(lambda: service.director.models.of("m").targets.tpot_s == 0.0625)
        assert not service.director.config_error
        await ask(service.port, completion())
        found, metrics = await decisions_of(service)
        assert [one["targets"]["tpot"]["limit_s"] for one in found] == [0.0625, 0.05]
        assert 'fleet_router_slo_target_seconds{latency="tpot",model_name="m"} 0.0625' in metrics
        await service.stop()


@on_loop
async def test_switched_off_the_file_is_not_even_read(tmp_path):
    async with Engine(engine_script()) as engine:
        service = await started(engine.url, tmp_path, slo_file=tmp_path / "none.yaml", slo_defaults="off")
        await ask(service.port, completion())
        (decision,), _ = await decisions_of(service)
        assert decision["targets"] == {}
        await service.stop()


@pytest.mark.parametrize(("defaults", "statuses"), [("place", [200, 429, 200]), ("admit", [429, 429, 200])])
@on_loop
async def test_admission_refuses_for_the_files_targets_only_where_that_is_asked_for(tmp_path, defaults, statuses):
    path = tmp_path / "slos.yaml"
    path.write_text(FILE % (0.1, 10.0))
    artifact.write(model(), tmp_path / artifact.FILE_NAME)
    async with Engine(engine_script()) as engine:
        service = await started(engine.url, tmp_path, slo_file=path, slo_admission=0.1, slo_defaults=defaults)
        await until(lambda: service.endpoints.ready[0].sample and service.endpoints.ready[0].models)
        requests = [completion(prompt=LONG), completion(b"x-slo-ttft-ms: 90", prompt=LONG),
                    completion(b"x-slo-ttft-ms: none", prompt=LONG)]  # fmt: skip
        assert [(await ask(service.port, one)).status for one in requests] == statuses
        await service.stop()


def test_the_picker_has_the_same_targets(tmp_path):
    path = tmp_path / "slos.yaml"
    path.write_text(FILE % (1.0, 0.05))
    settings = RouterSettings(port=0, admin_port=0, engines="http://127.0.0.1:9")
    service = PickerService(settings, DEFAULT, picker=PickerSettings(), home=tmp_path, slo_file=path)
    ticket = service.director.open(parse(b'{"model": "m", "prompt": "x"}'), request_id="r")
    assert ticket.targets == Targets(1.0, 0.05, BY_FILE, BY_FILE)


@pytest.mark.integration
@pytest.mark.parametrize("by", ["option", "environment"])
def test_the_command_holds_requests_to_the_file(tmp_path, free_port, by):
    told, code, log = asyncio.run(asyncio.wait_for(_served(tmp_path, free_port, by), 170))
    assert told["targets"] == {"ttft": {"limit_s": 1.5, "by": "slo_file"}, "tpot": {"limit_s": 0.04, "by": "slo_file"}}
    assert code == 0
    assert "Traceback" not in log


async def _served(tmp_path, port, by):
    """What it says of one request, its exit code and its log."""
    path, log = tmp_path / "slos.yaml", tmp_path / "log"
    path.write_text(FILE % (1.5, 0.04))
    words, environment = ["--slo", str(path)], dict(os.environ)
    if by == "environment":
        words, environment = [], environment | {"FLEET_SLO_FILE": str(path)}
    async with Engine(engine_script()) as engine:
        with log.open("w") as errors, subprocess.Popen(  # noqa: ASYNC220 - it serves meanwhile
            [sys.executable, "-m", "fleet.cli", "router", "serve", "--engines", engine.url, "--home", str(tmp_path),
             "--port", str(port), "--admin-port", "0", "--explain", *words], stderr=errors, env=environment,
        ) as process:  # fmt: skip
            try:
                told = await _decision(port)
            finally:
                process.send_signal(signal.SIGTERM)
                await asyncio.to_thread(process.wait, 60)
    return told, process.returncode, log.read_text()


async def _decision(port):
    """What the router says of a request, once it serves."""
    for _ in range(600):
        try:
            answer = await ask(port, completion(b"x-fleet-explain: 1"))
        except OSError:
            await asyncio.sleep(0.1)
            continue
        if answer.status == 200:
            return json.loads(answer.headers["x-fleet-decision"])
        await asyncio.sleep(0.1)
    raise AssertionError("it does not serve")
