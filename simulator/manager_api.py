"""The platform API (:mod:`fleet.discovery`) over :class:`simulator.manager.Manager`."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, HTTPException, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector
from pydantic import BaseModel, ConfigDict

from fleet.discovery import variant_to_json
from fleet.errors import ConfigError
from fleet.signals import SIM_REPLICAS, SIM_RESTARTS
from fleet.types import ReplicaState
from simulator.manager import Manager, ScaleError


class ScaleBody(BaseModel):
    """``PUT /variants/NAME/scale``."""

    model_config = ConfigDict(extra="forbid", strict=True)

    replicas: int


class ManagerCollector(Collector):
    """The platform's own metrics, read when the page is."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        """Restarts and replicas by variant."""
        restarts = CounterMetricFamily(SIM_RESTARTS.name, SIM_RESTARTS.meaning, labels=SIM_RESTARTS.labels)
        for name, count in self._manager.restarts.items():
            restarts.add_metric([name], count)
        yield restarts
        replicas = GaugeMetricFamily(SIM_REPLICAS.name, SIM_REPLICAS.meaning, labels=SIM_REPLICAS.labels)
        for variant in self._manager.variants():
            states = Counter(replica.state for replica in variant.replicas)
            for state in ReplicaState:
                replicas.add_metric([variant.spec.name, state.value], states[state])
        yield replicas


def make_app(manager: Manager) -> FastAPI:
    """The application; its lifespan starts and stops the manager's replicas."""

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        await manager.start()
        try:
            yield
        finally:
            await manager.stop()

    app = FastAPI(title="llm-fleet simulator", lifespan=lifespan)
    registry = CollectorRegistry()
    registry.register(ManagerCollector(manager))

    @app.get("/fleet")
    async def fleet() -> dict[str, Any]:
        """Variants with their replicas, now; GPUs where they are limited."""
        limits = {} if manager.gpus is None else {"gpus": manager.gpus}
        return {"variants": [variant_to_json(variant) for variant in manager.variants()], **limits}

    @app.put("/variants/{name}/scale")
    async def scale(name: str, body: ScaleBody) -> dict[str, Any]:
        """Ask for a number of replicas; 404 for an unknown variant, 422 outside 0..max_replicas."""
        try:
            manager.scale(name, body.replicas)
        except KeyError:
            raise HTTPException(404, f"unknown variant {name!r}") from None
        except ScaleError as error:
            raise HTTPException(422, str(error)) from None
        except ConfigError as error:  # no port left for another engine
            raise HTTPException(503, str(error)) from None
        return {"variant": name, "requested": body.replicas}

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """200 once the API answers."""
        return {"status": "ok"}

    @app.get("/metrics")
    async def metrics() -> Response:
        """Prometheus text."""
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return app
