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


def _kv(world: World) -> None:
    for pod in world.pods:
        if pod.model == SICK:
            pod.kv, pod.held_back = 0.98, 15.0


def _queue(world: World) -> None:
    world.surge[SICK] = 3.5


def _slow(world: World) -> None:
    world.pod(SICK).speed = 0.25


def _hung(world: World) -> None:
    world.pod(SICK).speed = 0.0


def _crash(world: World) -> None:
    world.pod(SICK).crashing = True


def _weights(world: World) -> None:
    world.hit_ratio[SICK] = 0.1


def _router(world: World) -> None:
    world.router_up = False


def _picker(world: World) -> None:
    world.prompt_tokens, world.scheduling_s = 1_600.0, 0.04  # P95 60 ms: too slow, TTFT still as promised


def _predictor(world: World) -> None:
    world.fit_fails = True


def _stale(world: World) -> None:
    world.pod(SICK).answers = False


def _xid(world: World) -> None:
    world.pod(SICK).xid = 94.0


def _network(world: World) -> None:
    world.link_share = 0.97


def _at_max(world: World) -> None:
    world.at_max = SICK


def _vanished(world: World) -> None:
    for pod in world.pods:
        pod.exists = pod.exists and pod.model != SICK


def _errors(world: World) -> None:
    world.pod(SICK).failing = 0.5


POD = (("pod", f"{SICK}-0"),)
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
