"""Puts a controller together from its settings."""

from __future__ import annotations

import gc
import logging
import time
from typing import TYPE_CHECKING

from fleet.errors import ConfigError, SourceError
from fleet.history import History
from fleet.platform import HttpPlatform, LimitedPlatform, StaticPlatform
from fleet.settings import FleetSettings, load_slos
from fleet.shell import bind
from fleet.slo import SloBook
from fleet.sources.prometheus import PrometheusSource
from fleet.sources.scrape import RouterPage, ScrapeSource
from fleet.sources.traffic import preferred
from predictor import artifact
from predictor.fetch import checked_url
from wva.collect import Collector, LawReader, QueueReader, TrafficReader
from wva.laws import FETCHED_NAME, PredictorLaws
from wva.loop import ControlLoop
from wva.operator import FileKeeper, Keeper
from wva.settings import WvaSettings
from wva.wake import Waker

if TYPE_CHECKING:
    from wva.external_metrics.server import Server
    from wva.kube.parts import KubeParts

log = logging.getLogger(__name__)


def build_cluster(settings: WvaSettings) -> KubeParts | None:
    """What Kubernetes adds, where it is the platform.

    Raises: ConfigError when the client library or a cluster is missing, or another platform is given as well.
    """
    if not settings.kube:
        return None
    if settings.platform or settings.engines:
        raise ConfigError("give one platform, not several", where="fleet wva run", limit="--kube alone",
                          next_step="Leave out --platform and --engines.")  # fmt: skip
    if settings.gpu_limit == "nodes" and settings.namespace:
        raise ConfigError("pods of other namespaces hold the same nodes' GPUs", where="--gpu-limit nodes",
                          limit="all namespaces",
                          next_step="Leave out --namespace, or write --gpu-limit quota.")  # fmt: skip
    try:
        from wva.kube.parts import build_kube  # noqa: PLC0415  # the client is an extra
    except ModuleNotFoundError as error:
        raise ConfigError(f"the module {error.name} is missing", where="--kube",
                          next_step="Install llm-fleet[kube].") from None  # fmt: skip
    return build_kube(settings)


def serve_external_metrics(settings: WvaSettings, loop: ControlLoop, cluster: KubeParts | None) -> Server | None:
    """The external metrics API, serving, where it is asked for.

    Raises: FleetError (one line) when its port, certificate or CA cannot be used, or without a cluster.
    """
    if settings.external_metrics_port is None:
        return None
    if cluster is None:
        raise ConfigError("needs a cluster, which says who may ask", where="--external-metrics-port",
                          next_step="Add --kube.")  # fmt: skip
    port = settings.external_metrics_port
    sock = bind(settings.host, port, what="wva external metrics", setting="--external-metrics-port")
    server = cluster.serve_metrics(settings, loop, sock)
    log.info("external metrics on https://%s:%d", settings.host, sock.getsockname()[1])
    return server


def build_loop(settings: WvaSettings, fleet: FleetSettings, cluster: KubeParts | None = None) -> ControlLoop:
    """A controller, not yet started.

    Raises: FleetError (one line) when a setting or the history cannot be used, or the source not be reached.
    """
    policy, targets = settings.policy(), settings.targets(named_slos(fleet))
    platform: LimitedPlatform = cluster.platform if cluster else build_platform(settings)
    source = build_source(settings)
    if not settings.wait:
        check_source(source)
    router = RouterPage(settings.router_url) if settings.router_url else None
    collector = Collector(
        platform,
        source,
        build_queue(router, source),
        build_traffic(router, source),
        platform.inventory,
        laws=build_laws(settings, fleet),
    )
    return ControlLoop(
        collector, platform, History(fleet.resolved_history_url()), policy=policy,
        state_file=settings.state_file or fleet.home / "wva-state.json", dry_run=settings.dry_run,
        decision_every_s=settings.decision_every_s, keep_s=fleet.history_keep_s, steady=time.monotonic,
        leads=cluster.elector.leads if cluster else lambda: True,
        keeper=build_keeper(fleet, cluster) if settings.may_override() else None, targets=targets,
        silent_after_s=silent_after_s(settings),
    )  # fmt: skip


def silent_after_s(settings: WvaSettings) -> float:
    """How long without an answer an engine counts as silent in the console: sooner where we ask it ourselves."""
    own_s = max(4 * settings.interval_s, 10.0)
    return min(settings.stale_after_s, own_s) if settings.source == "scrape" else settings.stale_after_s


def build_keeper(fleet: FleetSettings, cluster: KubeParts | None) -> Keeper:
    """Where overrides are kept: with the lease where controllers take turns, else in a file."""
    return cluster.keeper if cluster else FileKeeper(fleet.home / "wva-overrides.json")


def named_slos(fleet: FleetSettings) -> SloBook | None:
    """The SLO file, where one is named.

    Raises: ConfigError when it is bad.
    """
    return load_slos(fleet.slo_file) if fleet.slo_file else None


def build_platform(settings: WvaSettings) -> LimitedPlatform:
    """The platform API, or a fixed list of engines.

    Raises: ConfigError unless exactly one of the two is given.
    """
    if bool(settings.platform) == bool(settings.engines):
        raise ConfigError("give either a platform or a list of engines", where="fleet wva run",
                          next_step="Add --platform http://127.0.0.1:8060, --engines URL,... or --kube.")  # fmt: skip
    if settings.engines:
        return StaticPlatform(settings.engines.split(","), model=settings.model)
    if not settings.platform.startswith(("http://", "https://")):
        raise ConfigError(f"{settings.platform!r} is no URL", where="--platform", limit="http:// or https://",
                          next_step="Write for example http://127.0.0.1:8060.")  # fmt: skip
    return HttpPlatform(settings.platform)


def build_source(settings: WvaSettings) -> ScrapeSource | PrometheusSource:
    """The metric source.

    Raises: ConfigError when Prometheus is asked for without a usable URL.
    """
    if settings.source == "scrape":
        # an engine that takes a connection and never answers must not hold up the pass beyond its interval
        return ScrapeSource(window_s=settings.window_s, timeout_s=min(2.0, max(0.5, settings.interval_s / 2)))
    return PrometheusSource(settings.prometheus_url, window_s=settings.window_s)


def build_queue(router: RouterPage | None, source: ScrapeSource | PrometheusSource) -> QueueReader | None:
    """The reader of the router's queue: its own page where a URL is given, else Prometheus, else nobody."""
    if router is not None:
        return router.queue
    return source.router_queue if isinstance(source, PrometheusSource) else None


def build_traffic(router: RouterPage | None, source: ScrapeSource | PrometheusSource) -> TrafficReader:
    """The reader of each model's requests: the router's page where it tells, else what the source tells."""
    return lambda: preferred(router.traffic() if router else {}, source.traffic())


def build_laws(settings: WvaSettings, fleet: FleetSettings) -> LawReader | None:
    """The reader of the predictor's model, for the one analyzer that starts from it.

    Raises: ConfigError for a URL that cannot be used.
    """
    if settings.analyzer != "slo":
        return None
    if not settings.predictor_url:
        return PredictorLaws(fleet.home / artifact.FILE_NAME)
    url = checked_url(settings.predictor_url, where="--predictor-url or WVA_PREDICTOR_URL")
    return PredictorLaws(fleet.home / FETCHED_NAME, url=url)


def build_waker(settings: WvaSettings, loop: ControlLoop) -> Waker | None:
    """Looks at the router between passes, where there is one to look at; it has a page of its own to read."""
    if not settings.router_url:
        return None
    return Waker(RouterPage(settings.router_url, timeout_s=1.0).queue,
                 lambda: loop.last.snapshot if loop.last else None, loop.hurry)  # fmt: skip


def tune_memory() -> None:
    """Collect garbage rarely: a pass over ten thousand engines makes half a million objects, none in a cycle."""
    gc.freeze()
    gc.set_threshold(200_000, 20, 50)


def check_source(source: ScrapeSource | PrometheusSource) -> None:
    """End with one line when the source cannot be reached at start-up.

    Raises: SourceError.
    """
    try:
        source.check()
    except SourceError as error:
        step = f"{error.next_step} Or start with --wait to keep trying."
        raise SourceError(error.what, where=error.where, next_step=step) from None
