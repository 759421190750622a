"""Records of a scaling decision: the policy, what is remembered between passes, what is derived in one. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fleet.types import Reason, ReplicaObservation, VariantSpec
from wva.analyzers.peaks import Gauge
from wva.slo.state import GroupMemory


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How decisions are damped; each field is a setting of the same name (:mod:`wva.settings`)."""

    stale_after_s: float = 60.0
    stuck_after_s: float = 30.0
    """An engine with requests under way that computed no token for so long hangs."""
    queue_full: float = 5.0
    scale_up_stabilisation_s: float = 0.0
    scale_down_stabilisation_s: float = 60.0
    startup_timeout_s: float = 300.0
    max_up_fraction: float = 1.0
    max_down_step: int = 1
    hpa_tolerance: float = 0.1
    window_s: float = 30.0
    forget_half_life_s: float = 6 * 3600.0
    analyzer: str = "saturation"
    """Of :data:`wva.analyzers.ANALYZERS`: ``saturation``, ``v1``, ``v2``, ``slo``."""
    slo_ttft_s: float = 3.0
    """Analyzer ``slo``: target for the time to first token where a variant's spec has none."""
    slo_tpot_s: float = 0.1
    """Analyzer ``slo``: target for the time per output token where a variant's spec has none."""
    slo_objective: float = 0.99
    """Analyzer ``slo``: share of requests that meet both targets, where a variant's spec has none."""
    miss_cost: float = 10.0
    """Analyzer ``slo``: a missed request costs as much as serving so many; higher buys more headroom."""
    forecast: bool = True
    """Analyzer ``slo``: plan for the demand when a replica could be ready; off: for the present."""
    lead_time_s: float = 120.0
    """Time from request to ready where the platform tells none; starts that are seen correct either."""
    react_s: float = 30.0
    """Time between a change of demand and its decision: one scrape and one pass."""
    drain_s: float = 60.0
    """A backlog is to be worked off in so long."""
    retention_s: float = 600.0
    """Seconds without a request after which a model whose minimum is 0 goes to zero (upstream's 10 minutes)."""
    flap_window_s: float = 1800.0
    """Reversals (up after down, down after up) are counted over so long."""
    flap_limit: int = 8
    """With more reversals in the window a variant flaps: its decreases must be wanted up to four times as long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """A value at a time."""

    at_s: float
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """What a variant has taught so far (:mod:`wva.capacity`)."""

    at_s: float = 0.0
    running: tuple[Count, ...] = ()
    """Requests running per replica, over the rates' window."""
    best_speed_tps: float | None = None
    """Best tokens per second of one running request."""
    full_since_s: float | None = None
    """Since when requests wait for each of its replicas; ``None`` when they do not."""
    capacity_tps: float | None = None
    """Generated tokens per second of one full replica."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommendation:
    """What was wanted at one time, before stabilisation."""

    at_s: float
    replicas: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What upstream's analyzers remember of a variant (:mod:`wva.analyzers.upstream`)."""

    gauges: Mapping[str, tuple[Gauge, ...]] = field(default_factory=dict)
    """Gauges of the last minute, by replica."""
    full: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Tokens in use while a queue was full, newest last, by class of answers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantState:
    """What is remembered of one variant between passes."""

    requested: int
    requested_at_s: float
    """When ``requested`` was first seen with this value."""
    recommendations: tuple[Recommendation, ...] = ()
    learned: Learned = field(default_factory=Learned)
    upstream: Memory = field(default_factory=Memory)
    turns_s: tuple[float, ...] = ()
    """When the request turned from growing to shrinking or back, in the flap window."""
    rising: bool | None = None
    """Whether the last change of the request was an increase."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WvaState:
    """Everything that one pass hands to the next; JSON through :mod:`wva.snapshot_file`."""

    variants: Mapping[str, VariantState] = field(default_factory=dict)
    """By :func:`key_of`."""
    groups: Mapping[str, GroupMemory] = field(default_factory=dict)
    """Of the analyzer ``slo``, by :func:`group_key`."""
    version: int = 1


def group_key(spec: VariantSpec) -> str:
    """Names the variants that can stand in for each other: namespace, model, role."""
    return f"{spec.namespace}/{spec.model}/{spec.role}"


def key_of(spec: VariantSpec) -> str:
    """Names a variant across namespaces."""
    return f"{spec.namespace}/{spec.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantView:
    """One variant as a decision sees it: its replicas sorted by what can be said of them."""

    spec: VariantSpec
    requested: int
    ready: int
    pending: int
    """Asked for and still within their start-up time."""
    overdue: int
    """Asked for, but not ready after their start-up time."""
    fresh: tuple[ReplicaObservation, ...]
    """Ready replicas with a usable sample."""
    stale: int
    """Ready replicas whose newest sample is too old."""
    missing: int
    """Ready replicas that never reported, or reported nonsense."""
    stuck: int = 0
    """Ready replicas that hang: requests under way, and not a token for too long (:func:`wva.standstill.hangs`)."""
    age_s: float | None
    """Age of the oldest sample seen, fresh or stale."""

    @property
    def unseen(self) -> int:
        """Ready replicas that nothing is known of."""
        return self.stale + self.missing


@dataclass(frozen=True, slots=True, kw_only=True)
class Signals:
    """Saturation and its three terms, over ``replicas`` fresh replicas; all 0..1 but ``waiting``."""

    replicas: int
    kv_utilisation: float
    queue_ratio: float
    throughput_degradation: float
    saturation: float
    waiting: float
    """Requests waiting per replica, those at the router included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupView:
    """The variants that can stand in for each other: one model, namespace and role."""

    variants: tuple[VariantView, ...]
    by_variant: Mapping[str, Signals]
    """Signals of the variants that report."""
    signals: Signals | None
    """Over all fresh replicas of the group; ``None`` when nothing reports."""
    capacity: Mapping[str, float]
    """Capacity of one replica by variant, comparable inside the group (:func:`wva.capacity.comparable`)."""
    queued: float = 0.0
    """Requests that wait at the router for this model."""
    router_stale: bool = False
    """A router is read, but its queue is too old to trust."""
    router_age_s: float | None = None
    """Age of the model's queue at the router."""

    def cost_per_capacity(self, view: VariantView) -> float:
        """What the optimizer orders by; dollars per hour and unit of capacity."""
        return view.spec.cost_per_hour / self.capacity[view.spec.name]


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """What the optimizer wants for one variant, before the policy damps it."""

    replicas: int
    reason: Reason
    detail: str
    patience: float = 1.0
    """Share of the scale-down window that a decrease must be wanted for; less where little speaks against it."""
    start_s: float | None = None
    """What a replica takes to start, where that is known."""
