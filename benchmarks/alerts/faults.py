"""The injected faults, each with what it must be told as, of whom, and how soon. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.alerts.world import World

SICK, WELL = "llama", "qwen"
"""The model that faults hit, and the one that must stay quiet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One fault. ``alerts``: any of them is the right one; ``within_s`` from the injection to the notification."""

    name: str
    inject: Callable[[World], None]
    alerts: tuple[str, ...]
    layer: int
    cause: str
    """The leaf of the tree that names what was injected."""
    within_s: float
    about: tuple[tuple[str, str], ...] = (("model_name", SICK),)
    """Labels that the right alert carries."""

    def subject(self, world: World) -> dict[str, str]:
        """Labels that the right alert carries in this world."""
        return {label: value.replace("<hit>", str(world.shape.pod)) for label, value in self.about}


def _kv(world: World) -> None:
    for pod in world.pods:
        if pod.model == SICK:
            pod.kv, pod.held_back = world.shape.between(0.965, 0.995), world.shape.between(10.0, 20.0)


def _queue(world: World) -> None:
    world.surge[SICK] = world.shape.between(3.0, 4.0) * 0.45 / world.load_now


def _slow(world: World) -> None:
    world.hit().speed = world.shape.between(0.3, 0.2)


def _hung(world: World) -> None:
    world.hit().speed = 0.0


def _crash(world: World) -> None:
    world.hit().crashing = True


def _weights(world: World) -> None:
    world.hit_ratio[SICK] = world.shape.between(0.15, 0.05)


def _router(world: World) -> None:
    world.router_up = False


def _picker(world: World) -> None:
    world.prompt_tokens = world.shape.between(1_500.0, 1_700.0)
    world.scheduling_s = world.shape.between(0.039, 0.041)  # P95 60 ms: too slow, TTFT still as promised


def _predictor(world: World) -> None:
    world.fit_fails = True


def _stale(world: World) -> None:
    world.hit().answers = False


def _xid(world: World) -> None:
    world.hit().xid = world.shape.between(79.0, 109.0) // 1


def _network(world: World) -> None:
    world.link_share = world.shape.between(0.95, 0.99)


def _at_max(world: World) -> None:
    world.at_max = SICK


def _vanished(world: World) -> None:
    for pod in world.pods:
        pod.exists = pod.exists and pod.model != SICK


def _errors(world: World) -> None:
    world.hit().failing = world.shape.between(0.35, 0.65)


POD = (("pod", f"{SICK}-<hit>"),)
"""The pod that is hit; :meth:`Fault.subject` names it."""
FAULTS = (
    Fault(name="KV cache exhausted", inject=_kv, alerts=("KVMemoryPressure", "PreemptionsUnderKVPressure"), layer=2,
          cause="more context than the cache holds", within_s=360),
    Fault(name="queue grows", inject=_queue, alerts=("HighTTFT", "TTFTErrorBudgetBurn"), layer=1,
          cause="more arrives than the replicas take", within_s=600),
    Fault(name="slow GPU", inject=_slow, alerts=("HighTTFT", "TTFTErrorBudgetBurn", "HighTPOT", "TPOTErrorBudgetBurn"),
          layer=1, cause="one engine is slow", within_s=600),
    Fault(name="hung engine", inject=_hung, alerts=("EngineStalled",), layer=2,
          cause="one worker or one engine is lost", within_s=420),
    Fault(name="crash loop", inject=_crash, alerts=("PodCrashLooping",), layer=4, about=POD,
          cause="a container crashes at start", within_s=420),
    Fault(name="bad prefix weights", inject=_weights, alerts=("LowCacheHitRate",), layer=2,
          cause="something emptied or bypassed the caches", within_s=1_200),
    Fault(name="router down", inject=_router, alerts=("EPPPodDown",), layer=4, about=(("job", "fleet-router"),),
          cause="a router is down", within_s=180),
    Fault(name="picker slow", inject=_picker, alerts=("EPPHighLatency",), layer=2, about=(),
          cause="longer prompts to hash", within_s=720),
    Fault(name="predictor failing", inject=_predictor, alerts=("PredictorFitFailing",), layer=2, about=(),
          cause="fits fail", within_s=720),
    Fault(name="stale scrape", inject=_stale, alerts=("TargetDown",), layer=4, about=POD,
          cause="a part does not answer its scrape", within_s=240),
    Fault(name="XID error", inject=_xid, alerts=("GPUXidError",), layer=3, about=POD,
          cause="a GPU reported an error (XID)", within_s=120),
    Fault(name="network saturated", inject=_network, alerts=("InfiniBandSaturated",), layer=3, about=(),
          cause="prefill and decode contend for the network", within_s=1_080),
    Fault(name="at maximum", inject=_at_max, alerts=("WVAAtMax",), layer=4,
          about=(("variant_name", f"{SICK}-h100"),), cause="max_replicas is reached", within_s=420),
    Fault(name="vanished model", inject=_vanished, alerts=("ModelVanished",), layer=4,
          cause="all replicas are gone or still loading", within_s=480),
    Fault(name="error burst", inject=_errors, alerts=("SuccessErrorBudgetBurn",), layer=1,
          cause="one engine fails", within_s=720),  # 1.44/16.7 of an hour, then the rate's window, then the wait
)  # fmt: skip
