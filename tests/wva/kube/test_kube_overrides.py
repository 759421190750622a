"""An operator's overrides outlive the controller that took them: the next leader knows them before it decides."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from fastapi.testclient import TestClient

from fleet.types import Reason
from tests.fake_kubernetes import FakeKubernetes, Fault
from tests.wva.kube.kube_cluster import FULL, Controller, add_deployment, add_variant
from wva.app import make_app
from wva.kube.kept import ANNOTATION
from wva.kube.lease import Elector
from wva.operator import KeptError

Make = Callable[..., Controller]


class Steady:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def lead(made: Controller, steady: Steady, name: str) -> Controller:
    """Read the cluster, and let time for leases stand in the test's hand."""
    elector = Elector(made.api, namespace="default", name="wva", identity=name, steady=steady)
    made.elector, made.loop._leads, made.platform._may_write = elector, elector.leads, elector.leads
    return made


@pytest.fixture
def two(fake: FakeKubernetes, controller: Make) -> tuple[Controller, Controller, Steady]:
    """A leader and a follower, in front of an overloaded variant."""
    add_deployment(fake, "a", 2)
    add_variant(fake, "a", saturationThreshold=0.4)
    steady = Steady()
    made = [lead(controller(identity=name, overrides=True, scale=False), steady, name) for name in ("one", "two")]
    for each in made:
        each.ready().load.load = FULL
    assert [each.elector.leads() for each in made] == [True, False]
    return made[0], made[1], steady


def client(made: Controller) -> TestClient:
    return TestClient(make_app(made.loop, lambda: 0.0))


def test_the_next_leader_knows_what_was_paused(two: tuple[Controller, Controller, Steady]) -> None:
    one, other, _ = two
    one.loop.run_once()
    assert client(one).put("/overrides/default/a", json={"paused": True, "by": "ada"}).status_code == 200
    assert one.loop.run_once().decisions[0].reason is Reason.PAUSED  # type: ignore[union-attr]
    assert other.loop.run_once() is None
    assert client(other).get("/overrides").json()["variants"]["default/a"]["by"] == "ada", "a follower shows it too"
    one.elector.stop()
    other.elector.step()
    (decision,) = other.loop.run_once().decisions  # type: ignore[union-attr]
    assert (decision.reason, decision.desired) == (Reason.PAUSED, 2)
    assert decision.detail.startswith("paused by ada")


def test_renewals_of_the_lease_keep_them(fake: FakeKubernetes, two: tuple[Controller, Controller, Steady]) -> None:
    one, _, steady = two
    one.loop.run_once()
    client(one).put("/overrides/default/a", json={"max_replicas": 3})
    before = fake.get("leases", "wva")["metadata"]["annotations"][ANNOTATION]
    for _ in range(3):
        steady.now_s += 2.0
        assert one.elector.step()
    assert fake.get("leases", "wva")["metadata"]["annotations"][ANNOTATION] == before
    assert one.loop.run_once().decisions[0].desired == 3  # type: ignore[union-attr]


def test_an_action_that_a_follower_took_is_followed_by_the_leader(two: tuple[Controller, Controller, Steady]) -> None:
    one, other, _ = two
    one.loop.run_once()
    other.loop.run_once()
    assert client(other).put("/dry-run", json={"on": True, "by": "ada"}).status_code == 200
    (decision,) = one.loop.run_once().decisions  # type: ignore[union-attr]
    assert decision.detail.startswith("dry run: stays at 2")
    answer = client(other).put("/overrides/default/a", json={"paused": True})
    assert (answer.status_code, answer.json()["detail"]) == (503, "another controller decides: ask that one")


def test_what_one_wrote_is_not_lost_by_what_another_writes(two: tuple[Controller, Controller, Steady]) -> None:
    one, other, _ = two
    one.loop.run_once()
    client(one).put("/overrides/default/a", json={"max_replicas": 3})
    client(other).put("/dry-run", json={"on": True})
    one.loop.run_once()
    laid = client(one).get("/overrides").json()
    assert (laid["dry_run"], laid["variants"]["default/a"]["max_replicas"]) == (True, 3)


def test_until_they_are_known_nothing_is_decided(
    fake: FakeKubernetes, two: tuple[Controller, Controller, Steady]
) -> None:
    one, *_ = two
    fake.faults.append(Fault(status=500, matches=lambda method, path: method == "GET" and "leases" in path))
    assert one.loop.run_once() is None
    assert one.metric("wva_errors_total", component="overrides", error_type="KubeError") == 1
    fake.faults.clear()
    assert one.loop.run_once() is not None
    fake.faults.append(Fault(status=500, matches=lambda method, path: method == "GET" and "leases" in path))
    assert one.loop.run_once() is not None, "what was known still holds"


def test_a_damaged_annotation_decides_nothing_until_it_is_mended(
    fake: FakeKubernetes, two: tuple[Controller, Controller, Steady], caplog: pytest.LogCaptureFixture
) -> None:
    one, *_ = two
    fake.change("leases", "wva", metadata={"annotations": {ANNOTATION: "{"}})
    assert one.loop.run_once() is None
    assert f"Mend the annotation {ANNOTATION}, or remove it" in caplog.text
    fake.change("leases", "wva", metadata={"annotations": {ANNOTATION: None}})
    assert one.loop.run_once() is not None


def test_what_cannot_be_written_does_not_hold(fake: FakeKubernetes, two: tuple[Controller, Controller, Steady]) -> None:
    one, *_ = two
    one.loop.run_once()
    fake.faults.append(Fault(status=403, matches=lambda method, path: method == "PUT" and "leases" in path))
    answer = client(one).put("/overrides/default/a", json={"paused": True})
    assert answer.status_code == 503
    assert "not kept" in answer.json()["detail"]
    assert client(one).get("/overrides").json()["variants"] == {}
    fake.faults.clear()
    fake.faults.append(Fault(status=409, count=2, matches=lambda method, path: method == "PUT" and "leases" in path))
    assert client(one).put("/overrides/default/a", json={"paused": True}).status_code == 200, "a conflict is retried"


def test_without_a_lease_there_is_nothing_and_nothing_to_write_to(fake: FakeKubernetes, controller: Make) -> None:
    made = controller(overrides=True, scale=False)
    assert made.loop.operator is not None
    made.loop.operator.recall()
    assert made.loop.operator.known
    with pytest.raises(KeptError, match="not kept"):
        made.loop.operator.set_dry_run(on=True, by="")
