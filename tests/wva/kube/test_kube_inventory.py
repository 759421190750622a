"""GPUs from nodes and ResourceQuotas: what is counted, and that it limits what is decided."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.errors import ConfigError
from fleet.types import GpuInventory, Reason
from tests.fake_kubernetes import FakeKubernetes, Fault
from tests.waiting import until
from tests.wva.kube.kube_cluster import FULL, Controller, add_deployment, add_pod, add_variant, template
from wva.build import build_cluster
from wva.inventory import Wish, granted
from wva.kube.inventory import inventory, slim_node, slim_quota
from wva.kube.objects import slim_pod
from wva.settings import WvaSettings

H100 = "NVIDIA-H100-80GB-HBM3"
Make = Callable[..., Controller]


def node(name: str, gpus: int, *, product: str = H100, cordoned: bool = False, ready: str = "True") -> dict[str, Any]:
    return {"metadata": {"name": name, "labels": {"nvidia.com/gpu.product": product}},
            "spec": {"unschedulable": True} if cordoned else {},
            "status": {"allocatable": {"nvidia.com/gpu": str(gpus), "cpu": "63500m"},
                       "conditions": [{"type": "Ready", "status": ready}]}}  # fmt: skip


def pod(name: str, where: str, *, phase: str = "Running", deleting: bool = False) -> dict[str, Any]:
    """Two GPUs."""
    meta = {"name": name, "namespace": "n", **({"deletionTimestamp": "2026-01-01T00:00:00Z"} if deleting else {})}
    return slim_pod({"metadata": meta, "spec": {**template({})["spec"], "nodeName": where}, "status": {"phase": phase}})


def quota(gpus: str | None, **spec: Any) -> dict[str, Any]:
    hard = {"pods": "9", **({} if gpus is None else {"requests.nvidia.com/gpu": gpus})}
    return slim_quota({"metadata": {"name": "q", "namespace": "n"}, "spec": {"hard": hard, **spec}})


@pytest.mark.parametrize(("nodes", "pods", "gpus"), [
    pytest.param([node("a", 8), node("b", 8)], [], {"h100_sxm": 16}, id="nodes-of-one-product-add-up"),
    pytest.param([node("a", 8), node("b", 4, product="NVIDIA-L4")], [], {"h100_sxm": 8, "l4": 4}, id="by-product"),
    pytest.param([node("a", 8)], [pod("x", "a"), pod("own", "a")], {"h100_sxm": 6}, id="others-pods-hold-theirs"),
    pytest.param([node("a", 8)], [pod("x", "a", phase="Succeeded")], {"h100_sxm": 8}, id="finished-pods-hold-nothing"),
    pytest.param([node("a", 8)], [pod("own", "a", deleting=True)], {"h100_sxm": 6}, id="ours-until-it-is-gone"),
    pytest.param([node("a", 8, cordoned=True)], [pod("own", "a")], {"h100_sxm": 2}, id="cordoned-keeps-what-is-ours"),
    pytest.param([node("a", 8, ready="Unknown")], [], {"h100_sxm": 0}, id="a-node-that-is-gone-has-nothing"),
    pytest.param([node("a", 0)], [], {}, id="no-gpus-no-limit"),
    pytest.param([node("a", 2)], [pod("x", "a"), pod("y", "a")], {"h100_sxm": 0}, id="never-negative"),
])  # fmt: skip
def test_gpus_of_nodes(nodes: list[dict[str, Any]], pods: list[dict[str, Any]], gpus: dict[str, int]) -> None:
    found = inventory([slim_node(one) for one in nodes], [], pods, frozenset({("n", "own")}))
    assert found == GpuInventory(gpus=gpus)


@pytest.mark.parametrize(("quotas", "pods", "limits"), [
    pytest.param([quota("8")], [], {"n": {"*": 8}}, id="what-it-says"),
    pytest.param([quota("8"), quota("4")], [], {"n": {"*": 4}}, id="the-tightest"),
    pytest.param([quota("8")], [pod("x", ""), pod("own", "")], {"n": {"*": 6}}, id="less-what-others-hold"),
    pytest.param([quota("0")], [], {"n": {"*": 0}}, id="none-allowed"),
    pytest.param([quota(None)], [], {}, id="a-quota-of-other-things"),
    pytest.param([quota("8", scopes=["BestEffort"])], [], {}, id="a-scope-that-no-engine-falls-into"),
    pytest.param([quota("8", scopeSelector={"matchExpressions": []})], [], {}, id="a-scope-that-is-not-looked-into"),
    pytest.param([quota("8", scopes=["NotTerminating"])], [], {"n": {"*": 8}}, id="a-scope-of-every-engine"),
])  # fmt: skip
def test_gpus_of_quotas(
    quotas: list[dict[str, Any]], pods: list[dict[str, Any]], limits: dict[str, dict[str, int]]
) -> None:
    assert inventory(None, quotas, pods, frozenset({("n", "own")})) == GpuInventory(quotas=limits)


def overloaded(fake: FakeKubernetes, make: Make, **options: Any) -> Controller:
    """Three replicas of two GPUs, overloaded: six are wanted."""
    add_deployment(fake, "a", 3)
    add_variant(fake, "a", saturationThreshold=0.4)
    made = make(scale=False, **options).ready()
    made.load.load = FULL
    return made


def decided(made: Controller) -> tuple[int, Reason]:
    found = made.loop.run_once()
    assert found is not None
    return found.decisions[0].desired, found.decisions[0].reason


def test_without_a_limit_it_grows_as_it_needs(fake: FakeKubernetes, controller: Make) -> None:
    wanted, reason = decided(overloaded(fake, controller, gpu_limit="quota"))
    assert wanted > 4
    assert reason is Reason.SATURATED


def test_nodes_limit_a_variant_to_the_gpus_that_others_leave(fake: FakeKubernetes, controller: Make) -> None:
    fake.add("nodes", node("big", 10))
    other = add_pod(fake, "training", {"app": "other"}, None)
    fake.change("pods", other["metadata"]["name"], spec={"nodeName": "big"})
    made = overloaded(fake, controller, gpu_limit="nodes")
    assert decided(made) == (4, Reason.NO_GPU)
    detail = made.loop.last.decisions[0].detail if made.loop.last else ""
    assert "GPUs, quota or the model's share allow 4 of" in detail
    fake.add("nodes", node("second", 2))
    until(lambda: made.platform.inventory() == GpuInventory(gpus={"h100_sxm": 10}))
    assert decided(made) == (5, Reason.NO_GPU)


def test_a_quota_limits_its_namespace(fake: FakeKubernetes, controller: Make) -> None:
    fake.add("resourcequotas", {"metadata": {"name": "gpus"}, "spec": {"hard": {"requests.nvidia.com/gpu": "8"}}})
    fake.add("resourcequotas", {"metadata": {"name": "x"}, "spec": {"hard": {"requests.nvidia.com/gpu": "0"}}}, "else")
    assert decided(overloaded(fake, controller, gpu_limit="quota")) == (4, Reason.NO_GPU)


def test_limits_that_cannot_be_read_any_more_stay_and_are_reported(fake: FakeKubernetes, controller: Make) -> None:
    fake.add("nodes", node("big", 8))
    made = overloaded(fake, controller, gpu_limit="nodes")
    assert decided(made) == (4, Reason.NO_GPU)
    fake.faults.append(Fault(status=403, matches=lambda _, path: "/nodes" in path))
    fake.drop_watches()
    until(lambda: not made.platform._limits["nodes"].followed())
    until(lambda: all(each.followed() for each in made.platform._read.values()))
    assert decided(made) == (4, Reason.NO_GPU)
    assert any("nodes answered 403" in line for line in made.problems())
    assert made.metric("wva_errors_total", component="inventory", error_type="KubeError") == 1
    fake.faults.clear()


def test_a_limit_below_what_runs_takes_nothing_away(fake: FakeKubernetes, controller: Make) -> None:
    fake.add("nodes", node("small", 2))
    assert decided(overloaded(fake, controller, gpu_limit="nodes")) == (3, Reason.NO_GPU)


def test_nodes_need_all_namespaces() -> None:
    with pytest.raises(ConfigError, match="hold the same nodes' GPUs"):
        build_cluster(WvaSettings(kube=True, namespace="models", gpu_limit="nodes"))


WISHES = st.lists(st.builds(
    lambda key, model, accelerator, gpus, requested, more, priority: Wish(
        key=f"{model}{key}", namespace="n", model=model, accelerator=accelerator, gpus=gpus, requested=requested,
        wanted=max(requested + more, 0), priority=priority),
    st.integers(0, 99), st.sampled_from("abc"), st.sampled_from(["h100", "l4", "other"]), st.integers(1, 4),
    st.integers(0, 4), st.integers(-2, 6), st.sampled_from([0.5, 1.0, 3.0])), max_size=8,
    unique_by=lambda one: one.key)  # fmt: skip


def in_turns(wishes: list[Wish], limits: GpuInventory) -> dict[str, int]:
    """The rule in its plainest form: one replica a turn to whoever has least for its priority."""
    found = {one.key: min(one.requested, one.wanted) for one in wishes}
    left = {**limits.gpus, **{f"quota {space}": some["*"] for space, some in limits.quotas.items()}}

    def touched(one: Wish) -> list[str]:
        return [name for name in (one.accelerator, f"quota {one.namespace}") if name in left]

    for one in wishes:
        for name in touched(one):
            left[name] -= one.requested * one.gpus
    growing = [one for one in wishes if one.wanted > one.requested]
    while growing:
        whole = {one.key: sum(found[each.key] * each.gpus for each in wishes if each.model == one.model)
                 for one in growing}  # fmt: skip
        one = min(growing, key=lambda w: (whole[w.key] / w.priority, found[w.key] / max(w.wanted, 1), w.key))
        if found[one.key] >= one.wanted or any(left[name] < one.gpus for name in touched(one)):
            growing.remove(one)
            continue
        found[one.key] += 1
        for name in touched(one):
            left[name] -= one.gpus
    return found


@given(WISHES, st.integers(0, 30), st.integers(0, 30), st.none() | st.integers(0, 40))
def test_shares_are_those_of_the_plain_rule(wishes: list[Wish], big: int, small: int, most: int | None) -> None:
    limits = GpuInventory(gpus={"h100": big, "l4": small}, quotas={} if most is None else {"n": {"*": most}})
    assert granted(wishes, limits) == in_turns(wishes, limits)


def test_a_thousand_variants_that_grow_at_once_get_the_same() -> None:
    wishes = [Wish(key=f"v{i}", namespace="n", model=f"m{i}", accelerator="h100", gpus=1, requested=1, wanted=6)
              for i in range(1000)]  # fmt: skip
    assert set(granted(wishes, GpuInventory(gpus={"h100": 4000})).values()) == {4}
