"""A fake cluster with variants in it, and controllers in front of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kubernetes import client

from fleet.history import History
from fleet.kube.api import KubeApi
from fleet.sources import EngineReading
from fleet.types import EngineSample, Replica
from tests.fake_kubernetes import FakeKubernetes
from tests.waiting import until
from wva.collect import Collector
from wva.kube.kept import LeaseKeeper
from wva.kube.lease import Elector
from wva.kube.platform import KubePlatform
from wva.kube.report import Reporter
from wva.loop import ControlLoop
from wva.types import Policy

IDLE = {"kv": 0.01, "waiting": 0.0}
FULL = {"kv": 1.0, "waiting": 20.0}
BUSY = {"kv": 0.6, "waiting": 1.0}
AGES_AGO = "2020-01-01T00:00:00Z"


def api_of(fake: FakeKubernetes, *, timeout_s: float = 5.0) -> KubeApi:
    configuration = client.Configuration(host=fake.url)
    return KubeApi(configuration, timeout_s=timeout_s)


def template(labels: dict[str, str], port: int = 8000) -> dict[str, Any]:
    container = {"name": "vllm", "image": "vllm", "ports": [{"name": "http", "containerPort": port}],
                 "resources": {"limits": {"nvidia.com/gpu": "2"}}}  # fmt: skip
    spec = {"containers": [container], "nodeSelector": {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"}}
    return {"metadata": {"labels": labels}, "spec": spec}


def owned_by(owner: dict[str, Any]) -> list[dict[str, Any]]:
    meta = owner["metadata"]
    return [{"apiVersion": owner["apiVersion"], "kind": owner["kind"], "name": meta["name"], "uid": meta["uid"],
             "controller": True}]  # fmt: skip


def add_deployment(fake: FakeKubernetes, name: str, replicas: int, *, namespace: str = "default",
                   role: str = "") -> dict[str, Any]:  # fmt: skip
    """A Deployment, its ReplicaSet and as many ready pods."""
    labels = {"app": name, **({"llm-d.ai/role": role} if role else {})}
    spec = {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": template(labels)}
    deployment = fake.add("deployments", {"metadata": {"name": name}, "spec": spec}, namespace)
    meta = {"name": f"{name}-abc", "ownerReferences": owned_by(deployment)}
    owner = fake.add("replicasets", {"metadata": meta, "spec": spec}, namespace)
    for index in range(replicas):
        add_pod(fake, f"{name}-abc-{index}", labels, owner, namespace=namespace, ip=f"10.0.0.{index + 1}")
    return deployment


def add_pod(fake: FakeKubernetes, name: str, labels: dict[str, str], owner: dict[str, Any] | None, *,
            namespace: str = "default", ip: str = "10.0.0.9", ready: bool = True) -> dict[str, Any]:  # fmt: skip
    meta = {"name": name, "labels": labels, "ownerReferences": owned_by(owner) if owner else []}
    condition = {"type": "Ready", "status": "True" if ready else "False", "lastTransitionTime": AGES_AGO}
    status = {"phase": "Running", "podIP": ip, "conditions": [condition]}
    return fake.add("pods", {"metadata": meta, "spec": template(labels)["spec"], "status": status}, namespace)


def add_variant(fake: FakeKubernetes, name: str, *, namespace: str = "default", kind: str = "Deployment",
                **spec: Any) -> dict[str, Any]:  # fmt: skip
    body = {"metadata": {"name": name}, "spec": {"modelID": "toy", "scaleTargetRef": {"kind": kind, "name": name},
            "maxReplicas": 6, "saturationThreshold": 0.7, **spec}}  # fmt: skip
    return fake.add("variantautoscalings", body, namespace)


class Load:
    """A metric source whose engines all say the same."""

    name = "test"

    def __init__(self) -> None:
        self.load: Mapping[str, float] | None = IDLE

    def check(self) -> None:
        """Always there."""

    def read(self, replicas: Sequence[Replica], *, now_s: float) -> Mapping[str, EngineReading]:
        if self.load is None:
            return {}
        sample = EngineSample(at_s=now_s, kv_utilisation=self.load["kv"], waiting=self.load["waiting"], running=4.0)
        return {replica.url: EngineReading(sample=sample, generation_tps=100.0) for replica in replicas}


class Controller:
    """One wva in front of a cluster; passes are made by hand, or ``start`` runs them."""

    def __init__(self, fake: FakeKubernetes, folder: Path, *, identity: str = "one", scale: bool = True,
                 policy: Policy | None = None, timeout_s: float = 2.0, lease: tuple[float, float, float] = (15, 10, 2),
                 clock: Callable[[], float] = time.time,
                 steady: Callable[[], float] | None = None, gpu_limit: str = "none",
                 overrides: bool = False) -> None:  # fmt: skip
        self.api = api_of(fake, timeout_s=timeout_s)
        duration_s, lead_s, retry_s = lease
        self.elector = Elector(self.api, namespace="default", name="wva", identity=identity, duration_s=duration_s,
                               lead_s=lead_s, retry_s=retry_s)  # fmt: skip
        self.platform = KubePlatform(self.api, scale_directly=scale, may_write=self.elector.leads,
                                     gpu_limit=gpu_limit)  # fmt: skip
        self.load = Load()
        folder.mkdir(exist_ok=True)
        self.loop = ControlLoop(
            Collector(self.platform, self.load, inventory=self.platform.inventory), self.platform, History(f"sqlite:///{folder}/{identity}.sqlite3"),
            policy=policy or Policy(scale_down_stabilisation_s=0.0), state_file=folder / f"{identity}.json",
            leads=self.elector.leads, clock=clock, steady=steady,
            keeper=LeaseKeeper(self.api, namespace="default", name="wva") if overrides else None,
        )  # fmt: skip
        self.loop.report_to(
            Reporter(self.api, self.platform, self.loop.metrics, instance=identity, may_write=self.elector.leads)
        )

    def ready(self) -> Controller:
        """Lead, with the cluster read."""
        self.platform.start()
        until(self.platform.synced)
        self.elector.step()
        return self

    def metric(self, name: str, **labels: str) -> float | None:
        return self.loop.metrics.registry.get_sample_value(name, labels or None)

    def problems(self) -> list[str]:
        return [problem.line for problem in self.loop.last.problems] if self.loop.last else ["no pass"]

    def stop(self) -> None:
        self.loop.stop()
        self.platform.stop()
        self.elector.stop()
