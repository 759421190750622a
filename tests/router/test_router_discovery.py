"""Where the engines are: what each source says, what it refuses, and that nothing is lost when they come and go."""

from __future__ import annotations

import asyncio
import json
import os
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.errors import ConfigError, SourceError
from fleet.types import ReplicaState, Role
from router.discovery.choose import source
from router.discovery.dns import DnsSource, resolved
from router.discovery.file import FileSource
from router.discovery.follow import Follower, HttpPlatform
from router.discovery.kube import PoolSource, ServiceSource
from router.discovery.listed import parse_endpoints
from router.discovery.pods import from_pods, from_slices, pool_of
from router.endpoints import EndpointSet
from router.profile import DEFAULT
from router.service import RouterService
from router.settings import RouterSettings
from tests.fake_kubernetes import serving
from tests.router.dataplane_stubs import Client, Engine, completion, on_loop, until
from tests.router.test_router_app import engine_script
from tests.wva.kube.kube_cluster import api_of

LISTED = """
endpoints:
- http://gpu1:8000/
- {url: "http://gpu2:8000", model: llama, variant: l4, role: decode, state: stopping, labels: {zone: a}}
"""


def flat(variants):
    return [(replica, variant.spec) for variant in variants for replica in variant.replicas]


def test_a_file_names_engines_shortly_or_in_full():
    (one, spec_one), (two, spec_two) = flat(parse_endpoints(LISTED))
    assert (one.url, one.state, spec_one.name, spec_one.model, spec_one.role) == (
        "http://gpu1:8000", ReplicaState.READY, "file", "", Role.BOTH,
    )  # fmt: skip
    assert (two.url, two.state, dict(two.labels)) == ("http://gpu2:8000", ReplicaState.STOPPING, {"zone": "a"})
    assert (spec_two.name, spec_two.model, spec_two.role) == ("l4", "llama", Role.DECODE)
    assert parse_endpoints("[]") == ()


@pytest.mark.parametrize(
    ("text", "error"),
    [
        pytest.param("", "the document is empty", id="empty"),
        pytest.param("endpoint: []", "line 1: .*Did you mean 'endpoints'", id="a misspelt section"),
        pytest.param("endpoints:\n- gpu1:8000", "line 2: 'gpu1:8000' is no engine URL", id="no scheme"),
        pytest.param("[http://gpu1:0]", "is no engine URL", id="port 0"),
        pytest.param("[http://gpu1:99999999]", "is no engine URL", id="a port too large"),
        pytest.param("[{model: m}]", "an endpoint has no url", id="no url"),
        pytest.param("- {url: http://a:1, rol: decode}", "line 1: .*Did you mean 'role'", id="a misspelt key"),
        pytest.param("- {url: http://a:1, role: decod}", "Did you mean 'decode'", id="a misspelt role"),
        pytest.param("- {url: http://a:1, state: draining}", "unknown state 'draining'", id="an unknown state"),
        pytest.param("- {url: http://a:1, labels: {zone: 3}}", "label zone must be a name", id="a label that is none"),
        pytest.param("- http://a:1\n- http://a:1/", "line 2: http://a:1 is listed twice", id="twice"),
    ],
)
def test_a_file_is_refused_with_its_line(text, error):
    with pytest.raises(ConfigError, match=error):
        parse_endpoints(text, "engines.yaml")


@given(st.text(max_size=40), st.integers(0, len(LISTED)))
def test_garbage_gives_engines_or_one_clear_line(noise, place):
    try:
        parse_endpoints(LISTED[:place] + noise + LISTED[place:])
    except ConfigError as error:
        assert "\n" not in str(error)


@on_loop
async def test_a_file_is_read_again_when_it_changes_and_a_bad_one_keeps_what_was_known(tmp_path, caplog):
    path, endpoints = tmp_path / "engines.yaml", EndpointSet(clock=time.monotonic)
    path.write_text("[http://a:1]")
    watcher = Follower(FileSource(path), endpoints, every_s=0.01)
    await watcher.look()
    assert [one.url for one in endpoints.ready] == ["http://a:1"]
    replacement = tmp_path / "next.yaml"
    replacement.write_text("[http://a:1, http://b:1]")
    replacement.replace(path)
    await watcher.look()
    assert {one.url for one in endpoints.ready} == {"http://a:1", "http://b:1"}
    path.write_text("[a:1, http://b:1, ]")
    for _ in range(3):
        await watcher.look()
        assert len(endpoints.ready) == 2
    assert "no engine URL" in watcher.error
    path.unlink()
    await watcher.look()
    assert len(endpoints.ready) == 2
    assert "cannot be read" in watcher.error
    path.write_text("[]")
    await watcher.look()
    assert (list(endpoints.ready), watcher.error) == ([], "")
    assert len([record for record in caplog.records if "does not say" in record.message]) == 1


@on_loop
async def test_every_address_behind_a_name_is_an_engine():
    answers = [["10.0.0.1", "fd00::1"], OSError("no such host"), ["10.0.0.2"]]

    async def resolve(host, port):
        assert (host, port) == ("vllm", 8000)
        answer = answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer

    endpoints = EndpointSet(clock=time.monotonic)
    watcher = Follower(DnsSource("vllm", 8000, resolve=resolve), endpoints, every_s=0.01)
    await watcher.look()
    assert {one.url for one in endpoints.ready} == {"http://10.0.0.1:8000", "http://[fd00::1]:8000"}
    await watcher.look()
    assert len(endpoints.ready) == 2, "a name that does not resolve for a moment empties nothing"
    assert "does not resolve" in watcher.error
    await watcher.look()
    assert [one.url for one in endpoints.ready] == ["http://10.0.0.2:8000"]


@on_loop
async def test_the_systems_resolver_is_asked():
    assert "127.0.0.1" in await resolved("localhost", 80)
    with pytest.raises(SourceError, match="does not resolve"):
        await DnsSource("no-such-host.invalid", 80).variants()


def pod(name, *, ip="10.0.0.1", ready=True, labels=None, port_labels=None, **meta):
    return {
        "metadata": {"name": name, "labels": {"app": "vllm", **(labels or {})}, **meta},
        "spec": {"nodeName": "n1"},
        "status": {
            "phase": "Running", "podIP": ip,
            "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
            "containerStatuses": [{"state": {"running": {"startedAt": "2026-11-28T00:00:00Z"}}}],
        },
    }  # fmt: skip


def test_pods_become_engines_by_their_labels_ports_and_state():
    owner = [{"controller": True, "kind": "ReplicaSet", "name": "qwen-6f7c"}]
    pods = [
        pod("a", labels={"llm-d.ai/role": "prefill", "pod-template-hash": "6f7c"}, ownerReferences=owner),
        pod("b", ip="fd00::2", ready=False, labels={"llm-d.ai/model": "qwen"}),
        pod("c", deletionTimestamp="2026-11-28T00:00:00Z"),
        pod("d", ip=""),
        {**pod("e"), "status": {"phase": "Failed", "podIP": "10.0.0.9"}},
        pod("stranger", labels={"app": "other"}),
    ]
    found = {one.name: one for one in from_pods(pods, {"app": "vllm"}, (8000,))}
    assert sorted(found) == ["a", "b", "c", "e"]
    assert (found["a"].variant, found["a"].role, found["a"].since_s) == ("qwen", Role.PREFILL, 1795824000.0)
    assert (found["b"].url, found["b"].model, found["b"].state) == ("http://[fd00::2]:8000", "qwen", "starting")
    assert (found["c"].state, found["e"].state) == (ReplicaState.STOPPING, ReplicaState.FAILED)
    assert found["a"].labels["kubernetes.io/hostname"] == "n1"
    assert list(from_pods(pods, {}, (8000,))) == [], "no selector selects nothing"


def test_every_target_port_of_a_pod_is_an_engine_of_its_own():
    found = list(from_pods([pod("a")], {"app": "vllm"}, (8000, 8001)))
    assert [(one.name, one.url[-4:]) for one in found] == [("a:8000", "8000"), ("a:8001", "8001")]


@pytest.mark.parametrize(
    ("spec", "ports"),
    [
        pytest.param({"selector": {"matchLabels": {"app": "x"}}, "targetPorts": [{"number": 1}, {"number": 2}]}, (1, 2),
                     id="v1"),
        pytest.param({"selector": {"app": "x"}, "targetPortNumber": 8000}, (8000,), id="v1alpha2"),
    ],
)  # fmt: skip
def test_pools(spec, ports):
    assert pool_of({"spec": spec}, "pool") == ({"app": "x"}, ports)


@pytest.mark.parametrize("spec", [{}, {"selector": {"matchLabels": {"a": "b"}}}, {"targetPorts": [{"number": 1}]}])
def test_a_pool_without_selector_or_port_is_an_error(spec):
    with pytest.raises(SourceError, match="no selector or no target port"):
        pool_of({"spec": spec}, "pool")


def piece(name, *endpoints, service="vllm", ports=({"name": "http", "port": 8000}, {"name": "metrics", "port": 9})):
    return {"metadata": {"name": name, "labels": {"kubernetes.io/service-name": service}}, "addressType": "IPv4",
            "endpoints": list(endpoints), "ports": list(ports)}  # fmt: skip


def at(ip, **conditions):
    return {"addresses": [ip], "conditions": conditions, "zone": "z1", "nodeName": "n1",
            "targetRef": {"kind": "Pod", "name": f"pod-{ip}"}}  # fmt: skip


def test_slices_become_engines_by_their_conditions():
    slices = [
        piece("one", at("10.0.0.1", ready=True), at("10.0.0.2", ready=False), at("10.0.0.3")),
        piece("two", at("10.0.0.4", ready=False, serving=True, terminating=True), at("10.0.0.1", ready=True)),
        piece("other", at("10.0.0.9", ready=True), service="x"),
    ]
    found = {one.url: one for one in from_slices(slices, "vllm")}
    assert [(url, one.state) for url, one in found.items()] == [
        ("http://10.0.0.1:8000", "ready"), ("http://10.0.0.2:8000", "starting"),
        ("http://10.0.0.3:8000", "ready"), ("http://10.0.0.4:8000", "stopping"),
    ]  # fmt: skip
    assert found["http://10.0.0.1:8000"].labels == {"topology.kubernetes.io/zone": "z1", "kubernetes.io/hostname": "n1"}


@pytest.mark.parametrize(("port", "number"), [("", 8000), ("metrics", 9), ("8000", 8000)])
def test_the_port_by_name_or_number(port, number):
    (one,) = from_slices([piece("one", at("10.0.0.1"))], "vllm", port)
    assert one.url.endswith(f":{number}")
    assert list(from_slices([piece("one", at("10.0.0.1"))], "vllm", "grpc")) == []


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        pytest.param("file:/x/y.yaml", FileSource, id="a file"),
        pytest.param("dns://vllm.default:8000", DnsSource, id="a name"),
        pytest.param("http://127.0.0.1:8060/", HttpPlatform, id="a platform"),
    ],
)
def test_sources_by_their_form(text, kind):
    assert isinstance(source(text), kind)


@pytest.mark.parametrize("text", ["", "x", "dns://vllm", "dns://:8000", "kube-pool://ns", "ftp://a/b", "dns://a:x"])
def test_what_names_no_source_is_refused_with_the_forms(text):
    with pytest.raises(ConfigError, match="kube-pool://NAMESPACE/NAME"):
        source(text)


POOL = {"metadata": {"name": "qwen"}, "spec": {"selector": {"matchLabels": {"app": "vllm"}},
        "targetPorts": [{"number": 8000}], "endpointPickerRef": {"name": "epp"}}}  # fmt: skip


def cluster_pod(fake, name, ip, *, ready=True):
    fake.add(
        "pods", {"metadata": {"name": name, "labels": {"app": "vllm"}}, "spec": {"containers": [{"name": "vllm"}]}}
    )
    fake.change("pods", name, part="status", status=pod(name, ip=ip, ready=ready)["status"])


@on_loop
async def test_the_pods_of_an_inference_pool_are_followed():
    with serving() as fake:
        fake.add("inferencepools", POOL)
        cluster_pod(fake, "a", "10.0.0.1")
        endpoints = EndpointSet(clock=time.monotonic)
        watcher = Follower(PoolSource(api_of(fake), namespace="default", pool="qwen"), endpoints, every_s=0.02)
        task = asyncio.ensure_future(watcher.run())
        await until(lambda: [one.url for one in endpoints.ready] == ["http://10.0.0.1:8000"])
        cluster_pod(fake, "b", "10.0.0.2", ready=False)
        await until(lambda: endpoints.get("http://10.0.0.2:8000"))
        assert len(endpoints.ready) == 1
        fake.change("pods", "b", part="status", status=pod("b", ip="10.0.0.2")["status"])
        await until(lambda: len(endpoints.ready) == 2)
        fake.drop_watches()
        fake.remove("pods", "a")
        await until(lambda: [one.url for one in endpoints.ready] == ["http://10.0.0.2:8000"])
        assert watcher.error == ""
        task.cancel()
        await watcher.source.close()


@on_loop
async def test_a_pool_that_is_not_there_is_said_and_then_found():
    with serving() as fake:
        endpoints = EndpointSet(clock=time.monotonic)
        watcher = Follower(PoolSource(api_of(fake), namespace="default", pool="qwen"), endpoints, every_s=0.02)
        await watcher.look()
        assert "InferencePool default/qwen" in watcher.error
        cluster_pod(fake, "a", "10.0.0.1")
        fake.add("inferencepools", POOL)

        async def looked():
            await watcher.look()
            return watcher.error == ""

        while not await looked():  # noqa: ASYNC110 - what it waits for has no event
            await asyncio.sleep(0.02)
        await watcher.source.close()


@on_loop
async def test_the_endpoints_of_a_service_are_followed():
    with serving() as fake:
        fake.add("endpointslices", piece("vllm-1", at("10.0.0.1", ready=True)))
        endpoints = EndpointSet(clock=time.monotonic)
        watcher = Follower(ServiceSource(api_of(fake), namespace="default", service="vllm"), endpoints, every_s=0.02)
        task = asyncio.ensure_future(watcher.run())
        await until(lambda: [one.url for one in endpoints.ready] == ["http://10.0.0.1:8000"])
        fake.change("endpointslices", "vllm-1", endpoints=[at("10.0.0.1", terminating=True), at("10.0.0.2")])
        await until(lambda: [one.url for one in endpoints.ready] == ["http://10.0.0.2:8000"])
        stopping = endpoints.get("http://10.0.0.1:8000")
        assert stopping is not None
        assert stopping.state is ReplicaState.STOPPING
        task.cancel()
        await watcher.source.close()


@on_loop
async def test_engines_come_and_go_without_a_lost_request(tmp_path):
    """A hundred requests while the list changes under them: all answered, and by engines that were listed."""
    path = tmp_path / "engines.yaml"
    async with Engine(engine_script()) as one, Engine(engine_script()) as two, Engine(engine_script()) as three:
        path.write_text(json.dumps([one.url, two.url]))
        settings = RouterSettings(discover=f"file:{path}", port=0, admin_port=0, poll_s=0.01, scrape_s=0.02)
        service = RouterService(settings, DEFAULT, home=tmp_path)
        await service.start()
        lists = [[two.url], [two.url, three.url], [three.url], [one.url, three.url]]
        statuses = []
        for turn in range(100):
            if turn % 25 == 10:
                staged = tmp_path / "staged"
                staged.write_text(json.dumps(lists[turn // 25]))
                os.replace(staged, path)  # noqa: PTH105 - as a mounted ConfigMap changes
            client = Client(*await asyncio.open_connection("127.0.0.1", service.port))
            client.send(completion())
            statuses.append((await client.answer()).status)
            client.close()
            await asyncio.sleep(0.005)
        assert statuses == [200] * 100
        assert {one.url for one in service.endpoints.ready} == set(lists[-1])
        assert len(service.director.ledger) == 0
        await service.stop()
