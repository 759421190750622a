"""Settings of the autoscaler; environment prefix ``WVA_``, command-line options win."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal

from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict

from fleet.errors import ConfigError
from fleet.settings import Settings
from fleet.slo import SloBook
from wva.targets import Targets
from wva.types import Policy

REACT_AT_LEAST_S: Final = 10.0
"""A rate of arrivals needs so long, whatever the interval."""


class WvaSettings(Settings):
    """What ``fleet wva run`` reads."""

    model_config = SettingsConfigDict(env_prefix="WVA_", frozen=True, extra="forbid")

    host: str = "127.0.0.1"
    """Address of /healthz, /metrics, /fleet and /state."""
    port: int = Field(default=8070, ge=0, le=65535)
    """Its port; 0: any free one."""
    platform: str = ""
    """URL of the platform API (``GET /fleet``, ``PUT /variants/NAME/scale``)."""
    engines: str = ""
    """Fixed engine URLs, comma-separated, in place of a platform: scaling is then only recommended."""
    model: str = ""
    """Model that the fixed engines serve, for messages and metrics; unset: unnamed."""
    kube: bool = False
    """Kubernetes is the platform: variants come from VariantAutoscaling objects and annotated HPAs or ScaledObjects."""
    kubeconfig: str = ""
    """Its kubeconfig file; empty: the pod's service account, else KUBECONFIG, else ~/.kube/config."""
    context: str = ""
    """Context of the kubeconfig; empty: the current one."""
    namespace: str = ""
    """Namespace that is looked at; empty: all."""
    write_status: bool = True
    """Write statuses and events to the cluster; off: it reads and publishes only, as a trial beside another one."""
    scale_directly: bool = False
    """Patch /scale ourselves; the default leaves that to an HPA or KEDA."""
    gpu_limit: Literal["none", "quota", "nodes"] = "quota"
    """With Kubernetes: GPUs are limited by ResourceQuotas, or by those and the nodes that there are (no autoscaler)."""
    lease_name: str = Field(default="llm-fleet-wva", min_length=1, max_length=253)
    """Lease that the deciding controller holds; one for each set of variants."""
    lease_namespace: str = ""
    """Its namespace; empty: that of the pod, else ``namespace``, else ``default``."""
    external_metrics_port: int | None = Field(default=None, ge=0, le=65535)
    """Port of the external.metrics.k8s.io server; unset: not served."""
    tls_cert: str = ""
    """Its certificate (PEM), for SERVICE.NAMESPACE.svc."""
    tls_key: str = ""
    """Its key (PEM)."""
    requestheader_ca: str = ""
    """CA (PEM) of the API server's proxy certificate; empty: as the cluster publishes it in kube-system."""
    source: Literal["scrape", "prometheus"] = "scrape"
    """Where engine metrics come from: each engine's own page (default: needs nothing else), or a Prometheus."""
    prometheus_url: str = ""
    """Base URL of the Prometheus API, for ``source=prometheus``."""
    router_url: str = ""
    """Admin URL of the router, whose queue counts as waiting; empty: not read (a Prometheus is asked for it anyway)."""
    predictor_url: str = ""
    """Analyzer slo: URL of ``fleet predictor serve``, to fetch its model from; empty: its file in ``FLEET_HOME``."""
    interval_s: float = Field(default=15.0, ge=0.1, le=3600)
    """Time between passes (default: upstream's 15 s)."""
    window_s: float = Field(default=30.0, gt=0, le=3600)
    """Rates are over this long; with Prometheus at least two, better four, of its scrape intervals."""
    stale_after_s: float = Field(default=60.0, gt=0)
    """Hold replicas when a sample is older than this (about four scrapes)."""
    stuck_after_s: float = Field(default=30.0, gt=0)
    """An engine hangs when requests are under way and it computed no token for this long (a chunk of a prompt counts;
    one that never computed any gets ``stale_after_s`` more: it may still compile); nothing shrinks then."""
    queue_full: float = Field(default=5.0, gt=0)
    """Waiting requests per replica that count as a full queue (default: upstream's V1 queueLengthThreshold)."""
    scale_up_stabilisation_s: float = Field(default=0.0, ge=0, le=3600)
    """An increase must be wanted this long; 0 (default, as the HPA): at once."""
    scale_down_stabilisation_s: float = Field(default=60.0, ge=0, le=86400)
    """A decrease must be wanted this long; 0: at once. The default outlasts a burst; the HPA's 300 s costs GPU time."""
    startup_timeout_s: float = Field(default=300.0, gt=0)
    """A replica that is not ready after this counts as failed (about twice the 130 s published for 32B models)."""
    max_up_fraction: float = Field(default=1.0, gt=0)
    """Capacity added at once, at most, as a share of what is ready (default: doubling, as the HPA)."""
    max_down_step: int = Field(default=1, ge=1)
    """Replicas removed at once, at most (from ten on two, or the HPA's tolerance would swallow the step)."""
    hpa_tolerance: float = Field(default=0.1, ge=0, lt=1)
    """Steps are made larger than this share of the replicas, or an HPA ignores them; 0 switches that off."""
    forget_half_life_s: float = Field(default=6 * 3600.0, gt=0)
    """Learned best speed and capacity halve over this long, so that they are learned again."""
    analyzer: Literal["saturation", "v1", "v2", "slo"] = "saturation"
    """What turns observations into wanted replicas: docs/wva.md; ``fleet up`` chooses ``slo``."""
    slo_ttft_s: float | None = Field(default=None, gt=0)
    """Analyzer slo: TTFT target where neither the variant nor the SLO file has one; unset: built in (0.2 s)."""
    slo_tpot_s: float | None = Field(default=None, gt=0)
    """Analyzer slo: the same for the time per output token; unset: built in (0.1 s)."""
    slo_objective: float | None = Field(default=None, gt=0, lt=1)
    """Analyzer slo: the same for the share of requests that meet both targets; unset: built in (0.95)."""
    miss_cost: float = Field(default=10.0, gt=0)
    """Analyzer slo: a missed request costs as much as serving so many; higher buys more headroom."""
    forecast: bool = True
    """Analyzer slo: plan for the demand by the time that a replica could be ready; off: for the present."""
    lead_time_s: float = Field(default=120.0, gt=0)
    """Start-up time assumed where the platform tells none (published for 32B models on H100: 98 to 139 s)."""
    react_s: float | None = Field(default=None, ge=0)
    """Time from a change of demand to its decision; unset: two intervals (a scrape and a pass), at least 10 s."""
    drain_s: float = Field(default=60.0, gt=0)
    """A backlog is to be worked off in this long."""
    retention_s: float = Field(default=600.0, gt=0)
    """Without a request for this long a model whose minimum is 0 goes to zero (default: upstream's 10 minutes)."""
    flap_window_s: float = Field(default=1800.0, gt=0)
    """Changes of direction are counted over this long."""
    flap_limit: int = Field(default=8, ge=1)
    """With more changes of direction than this in the window, decreases must be wanted up to four times as long."""
    decision_every_s: float = Field(default=30.0, ge=0)
    """An unchanged decision is written to history this often; a changed one always."""
    dry_run: bool = False
    """Decide and publish, but scale nothing."""
    allow_overrides: bool = False
    """Let an operator pause a variant, narrow its bounds or switch to a dry run over HTTP (the console's actions)."""
    overrides_token: SecretStr = SecretStr("")
    """Bearer token that such requests must carry; needed where ``host`` is not loopback."""
    wait: bool = False
    """Start although Prometheus cannot be reached, and hold until it can, instead of ending."""
    state_file: Path | None = None
    """Where windows and learned values survive a restart; unset: ``wva-state.json`` in FLEET_HOME."""

    def may_override(self) -> bool:
        """Whether overrides are taken.

        Raises: ConfigError when anyone in the network could lay them.
        """
        local = self.host in {"127.0.0.1", "::1", "localhost"}
        if self.allow_overrides and not local and not self.overrides_token.get_secret_value():
            raise ConfigError(f"{self.host} can be reached from elsewhere", where="WVA_ALLOW_OVERRIDES",
                              limit="a token, or a loopback address",
                              next_step="Set WVA_OVERRIDES_TOKEN, here and for the console.")  # fmt: skip
        return self.allow_overrides

    def policy(self) -> Policy:
        """The part that the pure decision reads.

        Raises: ConfigError when a stabilisation window is shorter than two intervals: nothing could be compared in it.
        """
        for name in ("scale_up_stabilisation_s", "scale_down_stabilisation_s"):
            window_s = getattr(self, name)
            if 0 < window_s < 2 * self.interval_s:
                raise ConfigError(f"{window_s:g} s is under two intervals of {self.interval_s:g} s",
                                  where=f"WVA_{name.upper()}", limit=f"0, or at least {2 * self.interval_s:g}",
                                  next_step="Lengthen it, or shorten --interval-s.")  # fmt: skip
        told = {name: getattr(self, name) for name in Policy.__dataclass_fields__}
        told["react_s"] = max(2 * self.interval_s, REACT_AT_LEAST_S) if self.react_s is None else self.react_s
        return Policy(**{name: value for name, value in told.items() if value is not None})

    def targets(self, slos: SloBook | None) -> Targets:
        """Where latency targets come from, beside the SLO file ``slos``."""
        return Targets(book=slos, ttft_s=self.slo_ttft_s, tpot_s=self.slo_tpot_s, objective=self.slo_objective)
