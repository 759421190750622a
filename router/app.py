"""The admin port: health, metrics, and why the router did what it did. Never on the hot path, never a prompt."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, is_dataclass
from typing import Any, Protocol

from fastapi import FastAPI, Query, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from fleet import __version__
from router.dataplane.hub import Hub
from router.director import Director
from router.endpoints import Endpoint, EndpointSet
from router.explain import as_json
from router.hints import NO_TARGET_S
from router.merge import merge
from router.profile import Profile
from router.settings import RouterSettings
from router.targets import Own
from router.ticket import Decision
from router.workers import Workers


class Inside(Protocol):
    """What the admin port may see of the router."""

    settings: RouterSettings
    endpoints: EndpointSet
    director: Director
    clock: Callable[[], float]
    workers: Workers | None
    """The other workers; ``None``: there are none, or this is not the first."""

    @property
    def gateway(self) -> Hub:
        """Clients and connections."""
        ...

    @property
    def platform_error(self) -> str:
        """Why the platform's last answer is missing; empty: it is not."""
        ...


_ADD_UP = ("requests_in_flight", "prefill_tokens_in_flight", "context_tokens_in_flight", "ejections", "failures",
           "connections", "idle_connections")  # fmt: skip
"""Of an engine, what several workers have of it."""


def _add_up(found: dict[str, dict[str, Any]], pages: Iterable[Iterable[Mapping[str, Any]]]) -> None:
    """Add what other workers have at each engine."""
    for page in pages:
        for other in page:
            if (one := found.get(other["url"])) is not None:
                one.update({name: one[name] + other[name] for name in _ADD_UP})


def make_app(service: Inside, registry: CollectorRegistry) -> FastAPI:
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

    @app.get("/readyz", responses={503: {"description": "No engine would be found, or the router stops."}})
    async def readyz(response: Response) -> dict[str, Any]:
        """200 when a request would find an engine."""
        ready, draining = len(service.endpoints.ready), service.gateway.draining
        response.status_code = 200 if ready and not draining else 503
        return {
            "ready_endpoints": ready,
            "draining": draining,
            "platform_error": service.platform_error,
            "config_error": service.director.config_error,
        }

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Prometheus text."""
        own = generate_latest(registry)
        if service.workers is not None and (others := await service.workers.ask("/metrics")):
            own = merge([own.decode(), *others])
        return Response(own, media_type=CONTENT_TYPE_LATEST)

    _add_debug(app, service)
    return app


def _add_debug(app: FastAPI, service: Inside) -> None:
    @app.get("/debug/decisions")
    async def decisions(last: int = Query(default=50, ge=1, le=10_000)) -> list[dict[str, Any]]:
        """The newest picks with every score, newest first."""
        recent = list(service.director.decisions)[-last:]
        found = [decision_to_json(decision) for decision in reversed(recent)]
        if service.workers is not None:
            for others in await service.workers.ask_json(f"/debug/decisions?last={last}"):
                found += others
            found = sorted(found, key=lambda one: -one["at_s"])[:last]
        return found

    @app.get("/debug/endpoints")
    async def endpoints() -> list[dict[str, Any]]:
        """Every engine with what is known of it."""
        found = {endpoint.url: _endpoint(service, endpoint) for endpoint in service.endpoints.all}
        if service.workers is not None:
            _add_up(found, await service.workers.ask_json("/debug/endpoints"))
        return list(found.values())

    @app.get("/debug/tenants")
    async def tenants() -> list[dict[str, Any]]:
        """Every tenant with its limits (of this worker's share) and use; no key, nor its hash."""
        return [
            {
                "name": one.spec.name, "priority": one.spec.priority, "models": sorted(one.spec.models),
                "requests_per_minute": one.spec.requests_per_minute, "tokens_per_minute": one.spec.tokens_per_minute,
                "max_in_flight": one.spec.max_in_flight, "in_flight": one.in_flight, "refused": one.refused,
                "slo": _own(one.spec.slo),
            }
            for one in service.director.tenants.all
        ]  # fmt: skip

    @app.get("/config")
    async def config() -> dict[str, Any]:
        """The active profile and settings."""
        return {
            "profile": profile_to_json(service.director.scheduler.profile),
            "settings": service.settings.model_dump(mode="json"),
        }


def _own(slo: Own | None) -> dict[str, float | None] | None:
    """A tenant's latency targets, those that are not its models'; ``None``: it has none of this latency."""
    if slo is None:
        return None
    told = zip(("ttft_s", "tpot_s"), slo, strict=True)
    return {name: None if limit_s == NO_TARGET_S else limit_s for name, limit_s in told if limit_s is not None}


def decision_to_json(decision: Decision) -> dict[str, Any]:
    """One pick, explained."""
    ticket, pick = decision.ticket, decision.pick
    return {
        "at_s": ticket.started_at_s,
        "request_id": ticket.request_id,
        "model": ticket.model,
        "input_tokens": ticket.input_tokens,
        "max_tokens": ticket.max_tokens,
        "streaming": ticket.streaming,
        "took_s": decision.took_s,
        **as_json(pick, decision.matched_tokens, ticket.targets, ticket.held_s),
    }


def _endpoint(service: Inside, endpoint: Endpoint) -> dict[str, Any]:
    now_s, director = service.clock(), service.director
    pool = service.gateway.pools.get(endpoint.url)
    return {
        "url": endpoint.url,
        "name": endpoint.name,
        "variant": endpoint.variant,
        "state": endpoint.state,
        "models": sorted(endpoint.models),
        "sample": asdict(endpoint.sample) if endpoint.sample else None,
        "age_s": now_s - endpoint.sampled_s if endpoint.sample else None,
        **director.ledger.of(endpoint.url)._asdict(),
        "prefix_blocks": director.known.prefix.sizes().get(endpoint.url, 0),
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
