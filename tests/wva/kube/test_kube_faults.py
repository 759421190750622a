"""An API server that fails in every way: never a scale-down on doubt, never two writers, recovery within two passes."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tests.fake_kubernetes import FakeKubernetes, Fault
from tests.waiting import until
from tests.wva.kube.kube_cluster import BUSY, FULL, IDLE, Controller, add_deployment, add_pod, add_variant
from wva.types import Policy

Make = Callable[..., Controller]


@pytest.fixture
def idle(fake: FakeKubernetes, controller: Make) -> Controller:
    """Three idle replicas: every pass wants to scale down."""
    add_deployment(fake, "a", 3)
    add_variant(fake, "a")
    return controller().ready()


def replicas(fake: FakeKubernetes) -> int:
    return int(fake.get("deployments", "a")["spec"]["replicas"])


def watching(method: str, path: str) -> bool:
    return method == "GET" and "watch=true" in path


def listing(method: str, path: str) -> bool:
    return method == "GET" and "limit=" in path


def scaling(method: str, path: str) -> bool:
    return method == "PATCH" and path.endswith("/scale")


def test_without_a_fault_it_scales_down(fake: FakeKubernetes, idle: Controller) -> None:
    idle.loop.run_once()
    assert replicas(fake) == 2


@pytest.mark.parametrize("status", [429, 500, 503])
def test_while_the_cluster_cannot_be_followed_nothing_is_decided(
    fake: FakeKubernetes, idle: Controller, status: int
) -> None:
    fake.faults.append(Fault(status=status))
    fake.drop_watches()
    until(lambda: not idle.platform.synced())
    assert idle.loop.run_once() is None
    assert replicas(fake) == 3
    assert idle.metric("wva_errors_total", component="platform", error_type="KubeError") == 1
    fake.faults.clear()
    until(idle.platform.synced)
    idle.loop.run_once()
    assert replicas(fake) == 2


def test_dropped_watches_are_opened_again_without_a_list(fake: FakeKubernetes, idle: Controller) -> None:
    lists = sum(listing(*request) for request in fake.requests)
    for _ in range(3):
        opened = sum(watching(*request) for request in fake.requests)
        fake.drop_watches()
        until(lambda opened=opened: sum(watching(*request) for request in fake.requests) >= opened + 7)
    until(idle.platform.synced)
    assert sum(listing(*request) for request in fake.requests) == lists
    idle.loop.run_once()
    assert replicas(fake) == 2


def test_what_happened_while_a_watch_was_down_is_seen_after_it(fake: FakeKubernetes, idle: Controller) -> None:
    fake.faults.append(Fault(status=500, matches=watching))
    fake.drop_watches()
    until(lambda: not idle.platform.synced())
    add_pod(fake, "new", {"app": "a"}, fake.get("replicasets", "a-abc"), ready=False)
    fake.change("deployments", "a", spec={"replicas": 4})
    fake.faults.clear()
    until(lambda: idle.platform.synced() and len(idle.platform.variants()[0].replicas) == 4)
    idle.loop.run_once()
    assert replicas(fake) == 4  # one starts: nothing is taken away meanwhile


def test_an_expired_version_leads_to_a_new_list(fake: FakeKubernetes, idle: Controller) -> None:
    lists = sum(listing(*request) for request in fake.requests)
    with fake.store.lock:
        fake.remove("pods", "a-abc-2")
        fake.store.compact()
        fake.drop_watches()
    until(lambda: sum(listing(*request) for request in fake.requests) >= lists + 7 and idle.platform.synced())
    assert [replica.name for replica in idle.platform.variants()[0].replicas] == ["a-abc-0", "a-abc-1"]


def test_a_410_answer_instead_of_an_event_leads_to_a_new_list_too(fake: FakeKubernetes, idle: Controller) -> None:
    lists = sum(listing(*request) for request in fake.requests)
    fake.faults.append(Fault(status=410, count=7, matches=watching))
    fake.drop_watches()
    until(lambda: sum(listing(*request) for request in fake.requests) >= lists + 7 and idle.platform.synced())
    idle.loop.run_once()
    assert replicas(fake) == 2


def test_a_watch_that_says_nothing_for_ever_does_not_count_as_alive(fake: FakeKubernetes, controller: Make) -> None:
    add_deployment(fake, "a", 3)
    add_variant(fake, "a")
    made = controller()
    for each in made.platform._read.values():
        each._watch_s = 1.0
    fake.mute = True
    made.ready()
    opened = sum(watching(*request) for request in fake.requests)
    until(lambda: sum(watching(*request) for request in fake.requests) > opened + 7)  # opened anew by itself
    assert [one.spec.name for one in made.platform.variants()] == ["a"]


@pytest.mark.parametrize("status", [409, 429, 500])
def test_a_refused_scaling_is_reported_and_tried_again(fake: FakeKubernetes, idle: Controller, status: int) -> None:
    fake.faults.append(Fault(status=status, count=3, matches=scaling))
    tried = 1 if status == 409 else 3  # a conflict is tried again in the same pass
    for _ in range(tried):
        idle.loop.run_once()
        assert any(f"answered {status}" in line for line in idle.problems())
        assert replicas(fake) == 3
    idle.loop.run_once()
    assert replicas(fake) == 2


def test_a_scaling_whose_answer_was_lost_is_not_done_twice(fake: FakeKubernetes, idle: Controller) -> None:
    fake.faults.append(Fault(status=500, count=1, after=True, matches=scaling))
    idle.loop.run_once()
    assert replicas(fake) == 2
    until(lambda: idle.platform.variants()[0].requested == 2)
    fake.change("pods", "a-abc-2", metadata={"deletionTimestamp": "2026-01-01T00:00:00Z"})
    until(lambda: sum(each.state == "stopping" for each in idle.platform.variants()[0].replicas) == 1)
    idle.load.load = BUSY
    idle.loop.run_once()
    assert replicas(fake) == 2


def test_conflicts_on_a_status_are_retried_on_the_newest_object(fake: FakeKubernetes, idle: Controller) -> None:
    idle.load.load = BUSY
    touched = []

    def touch(method: str, path: str) -> bool:
        if method == "PATCH" and path.endswith("/status") and len(touched) < 2:
            touched.append(fake.change("variantautoscalings", "a", metadata={"labels": {"n": str(len(touched))}}))
        return False

    fake.faults.append(Fault(matches=touch))
    idle.loop.run_once()
    assert idle.problems() == []
    assert fake.get("variantautoscalings", "a")["status"]["desiredOptimizedAlloc"]["numReplicas"] == 3
    assert fake.get("variantautoscalings", "a")["metadata"]["labels"] == {"n": "1"}
    assert fake.count("PATCH", "/status") == 3


@pytest.mark.parametrize("status", [429, 500])
def test_a_status_that_could_not_be_written_is_written_by_the_next_pass(
    fake: FakeKubernetes, idle: Controller, status: int
) -> None:
    idle.load.load = BUSY
    fake.faults.append(Fault(status=status, matches=lambda method, path: path.endswith("/status")))
    idle.loop.run_once()
    assert any(f"answered {status}" in line for line in idle.problems())
    assert "status" not in fake.get("variantautoscalings", "a")
    fake.faults.clear()
    idle.loop.run_once()
    assert fake.get("variantautoscalings", "a")["status"]["currentReplicas"] == 3


def test_a_slow_server_delays_but_does_not_mislead(fake: FakeKubernetes, idle: Controller) -> None:
    slow = Fault(status=0, delay_s=3.0, matches=lambda method, path: path.endswith("/scale"))
    fake.faults.append(slow)
    idle.loop.run_once()
    assert any("failed: " in line and "Timeout" in line for line in idle.problems())
    assert replicas(fake) == 3
    fake.faults.clear()
    idle.loop.run_once()
    assert replicas(fake) == 2


def test_of_two_controllers_one_decides_and_the_other_takes_over(fake: FakeKubernetes, controller: Make) -> None:
    add_deployment(fake, "a", 1)
    add_variant(fake, "a")
    lease = (2.0, 1.5, 0.2)
    one, two = controller(identity="one", lease=lease).ready(), controller(identity="two", lease=lease).ready()
    for each in (one, two):
        each.load.load = FULL
    assert one.loop.run_once() is not None
    assert two.loop.run_once() is None
    assert (two.loop.follows, two.metric("fleet_wva_leader"), one.metric("fleet_wva_leader")) == (True, 0.0, 1.0)
    assert b"wva_desired_replicas{" not in two.loop.metrics.page()
    assert (two.metric("fleet_wva_last_pass_timestamp_seconds") or 0) > time.time() - 60  # standing by is not stalled
    assert fake.count("PATCH", "/scale") == 1
    one.loop.stop()
    one.elector.stop()
    assert two.elector.step()
    assert two.loop.run_once() is not None
    assert two.metric("fleet_wva_leader") == 1.0
    assert not one.elector.leads()


def test_a_leader_that_was_asleep_writes_nothing_when_it_wakes(fake: FakeKubernetes, controller: Make) -> None:
    add_deployment(fake, "a", 3)
    add_variant(fake, "a")
    made = controller(lease=(6.0, 1.5, 0.2)).ready()
    read = made.load.read

    def sleepy(*args: object, **options: object) -> object:
        time.sleep(2.0)  # in mid-pass, longer than it leads
        return read(*args, **options)  # type: ignore[arg-type]  # handed on as it came

    made.load.read = sleepy  # type: ignore[method-assign,assignment]  # stands in
    made.loop.run_once()
    assert replicas(fake) == 3
    assert any("does not lead any more" in line for line in made.problems())
    assert fake.count("PATCH", "/status") == 0


@pytest.mark.parametrize("jump_s", [40.0, 3600.0, -3600.0])
def test_when_the_clock_jumps_windows_begin_anew(fake: FakeKubernetes, controller: Make, jump_s: float) -> None:
    add_deployment(fake, "a", 3)
    add_variant(fake, "a")
    now = [2_000_000_000.0, 0.0]
    made = controller(policy=Policy(scale_down_stabilisation_s=60.0), clock=lambda: now[0], steady=lambda: now[1],
                      lease=(1500, 1000, 2)).ready()  # fmt: skip

    def later(seconds: float, jump_s: float = 0.0) -> None:
        now[0] += seconds + jump_s
        now[1] += seconds
        made.loop.run_once()

    later(0)
    later(15)
    later(15)
    later(15, jump_s)
    assert replicas(fake) == 3
    assert made.metric("wva_errors_total", component="clock", error_type="jump") == 1
    for _ in range(4):
        later(15)
        assert replicas(fake) == 3
    later(15)
    assert replicas(fake) == 2


def test_when_the_clock_jumps_back_silent_engines_do_not_look_fresh(fake: FakeKubernetes, controller: Make) -> None:
    add_deployment(fake, "a", 3)
    add_variant(fake, "a")
    now = [2_000_000_000.0, 0.0]
    made = controller(clock=lambda: now[0], steady=lambda: now[1]).ready()
    made.load.load = BUSY
    made.loop.run_once()
    made.load.load = None
    now[0] -= 3600.0
    now[1] += 15.0
    made.loop.run_once()
    assert made.loop.last is not None
    assert made.loop.last.decisions[0].reason == "no_signal"
    assert replicas(fake) == 3


def test_idle_means_down_only_with_the_whole_cluster_in_sight(fake: FakeKubernetes, idle: Controller) -> None:
    """One collection of seven that cannot be followed is doubt enough."""
    idle.load.load = IDLE
    fake.faults.append(Fault(status=403, matches=lambda method, path: "/replicasets" in path))
    fake.drop_watches()
    until(lambda: not idle.platform.synced())
    assert idle.loop.run_once() is None
    assert replicas(fake) == 3
