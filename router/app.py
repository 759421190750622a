"""The admin port: health, metrics, and why the router did what it did. Never on the hot path, never a prompt."""

from __future__ import annotations

from dataclasses import asdict, is_dataclass
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Query, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from fleet import __version__
from router.endpoints import Endpoint

if TYPE_CHECKING:
    from router.dataplane.gateway import Decision
    from router.profile import Profile
    from router.service import RouterService


def make_app(service: RouterService, registry: CollectorRegistry) -> FastAPI:
    """The application.

    Args:
        service: the router it speaks about, on the same event loop.
        registry: what ``/metrics`` shows.
    """
    app = FastAPI(title="llm-fleet router", version=__version__, docs_url=None, redoc_url=None)

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """The process serves."""
        return {"status": "ok"}

    @app.get("/readyz")
    async def readyz(response: Response) -> dict[str, Any]:
        """200 when a request would find an engine."""
        ready, draining = len(service.endpoints.ready), service.gateway.draining
        response.status_code = 200 if ready and not draining else 503
        return {
            "ready_endpoints": ready,
            "draining": draining,
            "platform_error": service.platform_error,
        }

    @app.get("/metrics")
    async def metrics() -> Response:
        """Prometheus text."""
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    _add_debug(app, service)
    return app


def _add_debug(app: FastAPI, service: RouterService) -> None:
    @app.get("/debug/decisions")
    async def decisions(last: int = Query(default=50, ge=1, le=10_000)) -> list[dict[str, Any]]:
        """The newest picks with every score, newest first."""
        recent = list(service.gateway.decisions)[-last:]
        return [decision_to_json(decision) for decision in reversed(recent)]

    @app.get("/debug/endpoints")
    async def endpoints() -> list[dict[str, Any]]:
        """Every engine with what is known of it."""
        return [_endpoint(service, endpoint) for endpoint in service.endpoints.all]

    @app.get("/config")
    async def config() -> dict[str, Any]:
        """The active profile and settings."""
        return {
            "profile": profile_to_json(service.gateway.scheduler.profile),
            "settings": service.settings.model_dump(mode="json"),
        }


def decision_to_json(decision: Decision) -> dict[str, Any]:
    """One pick, explained."""
    pick = decision.pick
    return {
        "at_s": decision.at_s,
        "request_id": decision.request_id,
        "model": decision.model,
        "input_tokens": decision.input_tokens,
        "max_tokens": decision.max_tokens,
        "streaming": decision.streaming,
        "took_s": decision.took_s,
        "endpoint": pick.endpoint.url if pick.endpoint else None,
        "matched_tokens": pick.endpoint.matched_tokens if pick.endpoint else None,
        "reason": pick.reason,
        "probability": pick.probability,
        "scores": pick.scores,
        "dropped": pick.dropped,
        "predictions": {url: prediction._asdict() for url, prediction in pick.predictions.items()},
        "predictor_cold": pick.cold,
    }


def _endpoint(service: RouterService, endpoint: Endpoint) -> dict[str, Any]:
    now_s, gateway = service.clock(), service.gateway
    pool = gateway.pools.get(endpoint.url)
    return {
        "url": endpoint.url,
        "name": endpoint.name,
        "variant": endpoint.variant,
        "state": endpoint.state,
        "models": sorted(endpoint.models),
        "sample": asdict(endpoint.sample) if endpoint.sample else None,
        "age_s": now_s - endpoint.sampled_s if endpoint.sample else None,
        **gateway.ledger.of(endpoint.url)._asdict(),
        "prefix_blocks": gateway.prefix.sizes().get(endpoint.url, 0),
        "ejected": endpoint.ejected(now_s),
        "ejections": endpoint.ejections,
        "failures": endpoint.failures,
        "last_error": endpoint.last_error,
        "connections": len(pool.open) if pool else 0,
        "idle_connections": pool.idle if pool else 0,
    }


def profile_to_json(profile: Profile) -> dict[str, Any]:
    """Filters, scorers with weights, and picker, with their parameters."""
    return {
        "name": profile.name,
        "filters": [{"name": entry.name, "parameters": _parameters(entry.filter)} for entry in profile.filters],
        "scorers": [
            {"name": entry.name, "weight": entry.weight, "parameters": _parameters(entry.scorer)}
            for entry in profile.scorers
        ],
        "picker": {"type": type(profile.picker).__name__, "parameters": _parameters(profile.picker)},
        "stale_after_s": profile.stale_after_s,
        "notes": list(profile.notes),
    }


def _parameters(part: object) -> dict[str, Any]:
    return asdict(part) if is_dataclass(part) and not isinstance(part, type) else {}
