"""Our arm: the production collector and the production decision over scraped samples, behind an HPA."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal

from benchmarks.autoscaling.case import Case
from benchmarks.autoscaling.hpa import DOUBLE_15S, Behavior, Direction
from benchmarks.autoscaling.pool import TPOT_BOUNDS_S, TTFT_BOUNDS_S, Life, Pool, Sample, Seen
from fleet.errors import SourceError
from fleet.sources import EngineReading
from fleet.sources.rates import reading, within
from fleet.types import EngineSample, Histogram, ModelTraffic, Replica, ReplicaState, Variant, VariantSpec
from simulator.tokens import BLOCK_TOKENS
from wva.collect import Collector, LawReader
from wva.decide import decide
from wva.settings import WvaSettings
from wva.types import WvaState

EPOCH_S: Final = 1.7e9
"""Virtual time 0 as Unix time: production code reads 0 as "never"."""
BEHAVIOR: Final = Behavior(
    up=Direction(window_s=0, rates=(DOUBLE_15S,)), down=Direction(window_s=0, rates=(DOUBLE_15S,))
)
"""The HPA only carries out: stabilisation is the policy's."""
_STATES: Final = {Life.STARTING: ReplicaState.STARTING, Life.READY: ReplicaState.READY}


class PoolPlatform:
    """The pool as the platform API shows it; also the metric source over its scraped samples."""

    name, can_scale = "pool", False

    def __init__(self, spec: VariantSpec, *, kv_tokens: float, window_s: float) -> None:
        self.pool: Pool | None = None
        self._spec, self._kv_tokens, self._window_s = spec, kv_tokens, window_s

    def variants(self) -> tuple[Variant, ...]:
        """See :class:`fleet.platform.Platform`."""
        if self.pool is None:
            raise SourceError("nothing was observed yet", where=self.name)
        replicas = tuple(self._replica(seen) for seen in self.pool.replicas)
        return (Variant(spec=self._spec, requested=self.pool.requested, replicas=replicas),)

    def scale(self, variant: str, replicas: int) -> None:
        """See :class:`fleet.platform.Platform`; the HPA scales."""
        raise SourceError(f"{variant} is scaled to {replicas} by its HPA", where=self.name)

    def check(self) -> None:
        """See :class:`fleet.sources.MetricSource`."""

    def read(self, replicas: Sequence[Replica], *, now_s: float) -> Mapping[str, EngineReading]:
        """Newest scraped readings, with rates over the collection window."""
        wanted = {replica.name for replica in replicas}
        found = {}
        for seen in self.pool.replicas if self.pool else ():
            samples = [self._sample(one) for one in seen.samples if one.at_s + EPOCH_S >= now_s - 2 * self._window_s]
            if seen.name in wanted and samples:
                found[_url(seen.name)] = reading(within(samples, now_s=now_s, window_s=self._window_s))
        return found

    def traffic(self) -> Mapping[str, ModelTraffic]:
        """What the router's newest scraped page counts."""
        if self.pool is None or not self.pool.router:
            return {}
        page = self.pool.router[-1]
        return {self._spec.model: ModelTraffic(
            at_s=EPOCH_S + page.at_s, arrived_total=page.arrived, finished_total=page.finished,
            prompt_tokens_total=page.input_tokens, generation_tokens_total=page.output_tokens, in_flight=page.in_flight,
            ttft=Histogram(bounds=TTFT_BOUNDS_S, counts=page.ttft),
            tpot=Histogram(bounds=TPOT_BOUNDS_S, counts=page.tpot),
        )}  # fmt: skip

    def _replica(self, seen: Seen) -> Replica:
        return Replica(name=seen.name, url=_url(seen.name), variant=self._spec.name, state=_STATES[seen.life],
                       since_s=EPOCH_S + seen.since_s)  # fmt: skip

    def _sample(self, one: Sample) -> EngineSample:
        return EngineSample(
            at_s=EPOCH_S + one.at_s, waiting=one.waiting, running=one.running, kv_utilisation=one.kv_usage,
            kv_capacity_tokens=self._kv_tokens, prompt_tokens_total=one.prompt_tokens,
            generation_tokens_total=one.generation_tokens, prefix_hits_total=one.prefix_hits,
            prefix_queries_total=one.prefix_queries, requests_total=one.finished,
        )  # fmt: skip


def _url(name: str) -> str:
    return f"http://{name}:8000"


class OursWish:
    """``wva.decide.decide`` with the default policy; what it wants becomes the published metric.

    Args:
        told: changes what it is told of the variant.
        laws: what a predictor learned.
    """

    def __init__(
        self, case: Case, analyzer: Literal["saturation", "v1", "v2", "slo"] = "slo", *,
        told: Callable[[VariantSpec], VariantSpec] = lambda spec: spec, laws: LawReader | None = None,
    ) -> None:  # fmt: skip
        fleet, settings = case.fleet, WvaSettings(analyzer=analyzer)
        spec = VariantSpec(
            name="pool", model=fleet.shape, accelerator=fleet.accelerator, accelerator_count=fleet.count,
            cost_per_hour=fleet.cost_per_hour, min_replicas=fleet.bounds.low, max_replicas=fleet.bounds.high,
            slo_ttft_s=case.slo.ttft_s, slo_tpot_s=case.slo.tpot_s,
        )  # fmt: skip
        spec = told(spec)
        self._platform = PoolPlatform(spec, kv_tokens=float(fleet.config.blocks * BLOCK_TOKENS),
                                      window_s=settings.window_s)  # fmt: skip
        self._collector = Collector(self._platform, self._platform, traffic=self._platform.traffic, laws=laws)
        self._policy, self._state, self._specs = settings.policy(), WvaState(), (spec,)

    def __call__(self, pool: Pool) -> int:
        self._platform.pool = pool
        now_s = EPOCH_S + pool.now_s
        snapshot, _problems = self._collector.collect(now_s)
        decisions, self._state = decide(snapshot, self._specs, self._state, now_s, self._policy)
        self.last = decisions[0]
        return self.last.desired
