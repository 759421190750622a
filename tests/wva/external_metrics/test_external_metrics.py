"""The external metrics API over real TLS, as kube-apiserver, an HPA and strangers ask it."""

from __future__ import annotations

import shutil
import socket
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kubernetes.utils.quantity import parse_quantity

from fleet.types import Decision, Direction, FleetSnapshot, Reason
from tests.fake_kubernetes import Fault, serving
from tests.wva.external_metrics.tls import authority, client_of, get
from tests.wva.kube.kube_cluster import api_of
from wva.external_metrics import answers, selector
from wva.external_metrics.auth import FrontProxy, Gate, Reviewer, User, parse_config_map, user_of
from wva.external_metrics.server import Api, serve
from wva.loop import Pass

ROOT = "/apis/external.metrics.k8s.io/v1beta1"
NOW = 1_800_000_000.0
PROTOBUF = "application/vnd.kubernetes.protobuf, */*"


def decision(variant: str, desired: int = 3, namespace: str = "default") -> Decision:
    return Decision(at_s=NOW, variant=variant, namespace=namespace, model="m", accelerator="h100_sxm", current=2,
                    desired=desired, direction=Direction.UP, reason=Reason.SATURATED, detail="")  # fmt: skip


@pytest.mark.parametrize(
    ("text", "chosen"),
    [
        pytest.param("", "ab", id="an absent selector is everything"),
        pytest.param("variant_name=a", "a", id="equality"),
        pytest.param("variant_name==a", "a", id="double equality"),
        pytest.param("variant_name!=a", "b", id="inequality"),
        pytest.param("variant_name in (a,c)", "a", id="in a set"),
        pytest.param("variant_name notin (a)", "b", id="not in a set"),
        pytest.param("tier", "b", id="exists"),
        pytest.param("!tier", "a", id="does not exist"),
        pytest.param("tier notin (x),variant_name in (a, b)", "ab", id="notin holds where the key is missing"),
        pytest.param("variant_name=a,tier=x", "", id="every term must hold"),
    ],
)
def test_a_selector_chooses(text: str, chosen: str) -> None:
    labels = {"a": {"variant_name": "a"}, "b": {"variant_name": "b", "tier": "y"}}
    terms = selector.parse(text)
    assert "".join(name for name in labels if selector.select(terms, labels[name])) == chosen


@pytest.mark.parametrize("text", ["a in b", "=x", "a=b=c", "a in (b", "a,,b", "-a=b", "a=" + "x" * 64, "a b"])
def test_a_malformed_selector_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="unable to parse"):
        selector.parse(text)
    query = answers.Query(namespace="default", metric="wva_desired_replicas")
    assert answers.values(query, text, [], time="").status == 400


@given(st.floats(0, 1e9))
def test_a_quantity_is_what_it_says_rounded_up_to_a_thousandth(value: float) -> None:
    read = float(parse_quantity(answers.quantity(value)))
    assert value - 1e-6 * max(value, 1) <= read <= value + 0.001 + 1e-6 * max(value, 1)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_what_is_no_quantity_is_never_sent(value: float) -> None:
    with pytest.raises(ValueError, match="no quantity"):
        answers.quantity(value)


def test_only_the_namespace_that_was_asked_for_is_answered() -> None:
    query = answers.Query(namespace="x", metric="wva_desired_replicas")
    found = answers.values(query, "", [decision("a", namespace="x"), decision("a", namespace="y")], time="t")
    assert [item["metricLabels"]["namespace"] for item in found.body["items"]] == ["x"]


class Loop:
    """Stands for the controller: it has a last pass."""

    def __init__(self) -> None:
        self.last: Pass | None = None
        self.decided(NOW)

    def decided(self, at_s: float) -> None:
        both = (decision("a"), decision("b", 5))
        self.last = Pass(snapshot=FleetSnapshot(at_s=at_s, variants=()), decisions=both, problems=())


@dataclass
class Rig:
    """A server with its certificates."""

    folder: Path
    port: int
    loop: Loop
    denied: set[str]

    def get(self, path: str, **options: Any) -> tuple[int, Any]:
        return get(self.folder, self.port, path, **options)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("tls")
    for name in ("server", "front-ca", "client-ca"):
        authority(folder, name)
    client_of(folder, "proxy", "front-ca", "front-proxy-client")
    client_of(folder, "other", "front-ca", "somebody")
    client_of(folder, "forged", "client-ca", "front-proxy-client")
    return folder


@pytest.fixture
def rig(certificates: Path) -> Iterator[Rig]:
    proxy = FrontProxy(ca=(certificates / "front-ca.crt").read_text(), names=frozenset({"front-proxy-client"}))
    gate = Gate(str(certificates / "server.crt"), str(certificates / "server.key"), lambda: proxy)
    loop, denied = Loop(), set[str]()

    def allows(user: User, _query: answers.Query) -> bool:
        return user.name not in denied

    api = Api(loop=loop, gate=gate, allows=allows, clock=lambda: NOW, fresh_s=60.0)  # type: ignore[arg-type]  # stand-in
    sock = socket.create_server(("127.0.0.1", 0))
    server = serve(api, sock)
    yield Rig(folder=certificates, port=sock.getsockname()[1], loop=loop, denied=denied)
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("accept", [PROTOBUF, "application/json", "application/json;g=apidiscovery.k8s.io;v=v2"])
def test_discovery_is_plain_json_whatever_is_accepted(rig: Rig, accept: str) -> None:
    for path, kind in (("/apis", "APIGroupList"), ("/apis/external.metrics.k8s.io", "APIGroup"),
                       (ROOT, "APIResourceList")):  # fmt: skip
        status, body = rig.get(path, accept=accept)
        assert (status, body["kind"], body["apiVersion"]) == (200, kind, "v1")
    resources = {each["name"]: each for each in body["resources"]}
    assert resources["wva_desired_replicas"]["kind"] == "ExternalMetricValueList"
    assert resources["wva_desired_replicas"] | {"singularName": "", "namespaced": True, "verbs": ["get"]} \
        == resources["wva_desired_replicas"]  # fmt: skip


def test_an_hpa_gets_the_value_of_its_variant_alone(rig: Rig) -> None:
    path = f"{ROOT}/namespaces/default/wva_desired_replicas?labelSelector={quote('variant_name=a')}"
    status, body = rig.get(path, accept=PROTOBUF)
    assert status == 200
    assert (body["kind"], body["apiVersion"]) == ("ExternalMetricValueList", "external.metrics.k8s.io/v1beta1")
    (item,) = body["items"]
    assert (item["value"], item["metricLabels"]["variant_name"]) == ("3", "a")
    assert item["timestamp"] == "2027-01-15T08:00:00Z"
    assert rig.get(f"{ROOT}/namespaces/default/wva_desired_ratio?labelSelector=variant_name%3Db")[1]["items"][0][
        "value"] == "2500m"  # fmt: skip


@pytest.mark.parametrize(
    ("path", "status", "reason"),
    [
        pytest.param(f"{ROOT}/namespaces/default/nonsense", 404, "NotFound", id="unknown metric"),
        pytest.param("/apis/other.group/v1", 404, "NotFound", id="unknown group"),
        pytest.param("/openapi/v3", 404, "NotFound", id="no OpenAPI v3"),
        pytest.param("/openapi/v2", 404, "NotFound", id="no OpenAPI v2"),
        pytest.param(f"{ROOT}/namespaces/default/wva_desired_replicas?labelSelector=a%3D%3D%3Db", 400, "BadRequest",
                     id="malformed selector"),
    ],
)  # fmt: skip
def test_what_is_not_served_is_a_status(rig: Rig, path: str, status: int, reason: str) -> None:
    answered, body = rig.get(path)
    assert (answered, body["kind"], body["reason"], body["code"]) == (status, "Status", reason, status)


@pytest.mark.parametrize(
    ("who", "user"),
    [
        pytest.param(None, "system:admin", id="a header without a certificate"),
        pytest.param("proxy", None, id="a certificate without a header"),
        pytest.param("other", "system:admin", id="a certificate with another common name"),
    ],
)
def test_nobody_is_believed_without_the_front_proxy(rig: Rig, who: str | None, user: str | None) -> None:
    status, body = rig.get(f"{ROOT}/namespaces/default/wva_desired_replicas", who=who, user=user)
    assert (status, body["reason"]) == (401, "Unauthorized")


def test_a_certificate_of_another_ca_with_the_proxys_name_gets_nowhere(rig: Rig) -> None:
    with pytest.raises((ssl.SSLError, OSError)):
        rig.get(ROOT, who="forged", user="system:admin")


def test_health_needs_nobody(rig: Rig) -> None:
    assert rig.get("/healthz", who=None, user=None, raw=True) == (200, "ok")
    assert rig.get("/readyz", who=None, user=None, raw=True) == (200, "ok")
    rig.loop.last = None
    assert rig.get("/readyz", who=None, user=None, raw=True)[0] == 503


def test_a_user_without_the_right_is_forbidden(rig: Rig) -> None:
    rig.denied.add("mallory")
    status, body = rig.get(f"{ROOT}/namespaces/default/wva_desired_replicas", user="mallory")
    assert (status, body["reason"]) == (403, "Forbidden")


def test_old_decisions_and_a_follower_give_503_so_that_the_hpa_holds(rig: Rig) -> None:
    path = f"{ROOT}/namespaces/default/wva_desired_replicas"
    rig.loop.decided(NOW - 61)
    assert rig.get(path)[0] == 503
    rig.loop.decided(NOW)
    assert rig.get(path)[0] == 200
    rig.loop.last = None
    assert rig.get(path)[1]["reason"] == "ServiceUnavailable"


def test_a_peer_that_never_speaks_keeps_nobody_waiting(rig: Rig) -> None:
    with socket.create_connection(("127.0.0.1", rig.port)):
        time.sleep(0.1)
        assert rig.get(ROOT)[0] == 200


def test_the_config_map_names_headers_and_names() -> None:
    proxy = parse_config_map({
        "requestheader-client-ca-file": "PEM", "requestheader-allowed-names": '["a"]',
        "requestheader-username-headers": '["X-User"]', "requestheader-group-headers": '["X-Group"]',
    })  # fmt: skip
    headers = Message()
    for name, value in (("X-Remote-User", "fool"), ("x-user", "alice"), ("X-Group", "g1"), ("X-Group", "g2")):
        headers[name] = value
    certificate = {"subject": ((("commonName", "a"),),)}
    assert user_of(proxy, certificate, headers) == User(name="alice", groups=("g1", "g2"))
    assert user_of(proxy, {"subject": ((("commonName", "b"),),)}, headers) is None
    with pytest.raises(ValueError, match="is missing"):
        parse_config_map({})


def test_access_is_asked_for_once_and_denied_when_the_server_does_not_answer() -> None:
    with serving() as fake:
        reviewer = Reviewer(api_of(fake))
        query = answers.Query(namespace="x", metric="wva_desired_replicas")
        fake.allow = lambda spec: spec["user"] == "alice" and spec["resourceAttributes"]["verb"] == "list"
        assert [reviewer.allows(User(name=name), query) for name in ("alice", "alice", "bob")] == [True, True, False]
        assert fake.count("POST", "/subjectaccessreviews") == 2
        fake.faults.append(Fault(status=500))
        assert not reviewer.allows(User(name="carol"), query)
        assert reviewer.allows(User(name="root", groups=("system:masters",)), query)
        fake.faults.clear()
        fake.allow = lambda _: True
        assert reviewer.allows(User(name="carol"), query)
