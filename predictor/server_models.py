"""The model's own endpoints: artifact, versions, roll-back, figures."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, Final

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse

from fleet.errors import FleetError
from predictor import artifact
from predictor.fetch import tag_of
from predictor.learner import Learner
from predictor.model import TARGETS, LatencyModel

COLD: Final[dict[int | str, dict[str, Any]]] = {503: {"description": "There is no model yet."}}
"""What an interface that takes a model may answer besides."""
_UNKNOWN: Final[dict[int | str, dict[str, Any]]] = {404: {"description": "There is no such model."}}
_ENDPOINTS = ("/predict", "/predict/bulk", "/predict/bulk/strict", "/add_training_data_bulk", "/status",
              "/data/status", "/evaluation", "/lengths", "/models/list", "/model/download", "/metrics",
              "/healthz", "/readyz")  # fmt: skip


def add_models(app: FastAPI, learner: Learner) -> None:
    """Upstream's ``/model``, ``/models``, ``/reload`` and ``/flush``, and ours beside them."""
    _add_artifacts(app, learner)
    _add_versions(app, learner)

    @app.get("/")
    async def root() -> dict[str, Any]:
        """What this is, and where to go on."""
        return {"message": "llm-fleet latency predictor", "endpoints": list(_ENDPOINTS)}

    @app.get("/evaluation", responses={503: {"description": "Nothing was measured yet."}})
    async def evaluation() -> dict[str, Any]:
        """The newest measurement on the samples held, as ``fleet predictor evaluate --json`` prints it."""
        if learner.evaluation is None:
            raise HTTPException(503, "nothing was measured yet: it takes a model and a few minutes")
        return dict(learner.evaluation)

    @app.get("/lengths")
    async def lengths() -> dict[str, Any]:
        """How long answers are, by model."""
        return dict(learner.lengths.summary())

    @app.post("/flush")
    async def flush() -> dict[str, Any]:
        """Forget the samples held (the history keeps its own); the model stays."""
        return {"success": True, "training_samples_flushed": learner.forget(), "message": "flushed"}


def _served(learner: Learner) -> LatencyModel:
    if learner.model is None:
        raise HTTPException(503, f"Models are not ready: {learner.progress()}")
    return learner.model


def _info(learner: Learner, target: str) -> dict[str, Any]:
    model = learner.model
    law = getattr(model, target) if model else None
    loaded = datetime.fromtimestamp(model.fitted_at_s, UTC) if model else None
    return {
        "model_type": "physics_nnls", "exists": model is not None, "last_modified": loaded, "version": learner.version,
        "rung": law.rung.value if law else None, "samples_count": law.samples if law else 0,
        "score": asdict(law.score) if law else None,
    }  # fmt: skip


def _add_artifacts(app: FastAPI, learner: Learner) -> None:
    @app.get("/model/download", response_model=None,
             responses={**COLD, 304: {"description": "It is the one with this entity tag."}})  # fmt: skip
    async def download(request: Request) -> Response:
        """The served model's artifact; its entity tag is its checksum, so that followers ask only for news."""
        found = artifact.to_dict(_served(learner))
        headers = {"ETag": tag_of(found["checksum"]), "Cache-Control": "no-cache"}
        if headers["ETag"] in _tags(request.headers.get("if-none-match", "")):
            return Response(status_code=304, headers=headers)
        return JSONResponse(found, headers=headers)

    @app.get("/model/download/info")
    async def download_info() -> dict[str, Any]:
        """What can be had."""
        paths = {name: f"/model/{name}/download" for name in TARGETS}
        return {"model_type": "physics_nnls", "available_endpoints": paths, "version": learner.version}

    @app.get("/model/{target}/info", responses=_UNKNOWN)
    async def info(target: str) -> dict[str, Any]:
        """Of one target's law."""
        return _info(learner, _known(target))

    @app.get("/model/{target}/download", responses={**COLD, **_UNKNOWN})
    async def download_one(target: str) -> dict[str, Any]:
        """The artifact; both laws are in one, so that no one serves halves of two."""
        _known(target)
        return artifact.to_dict(_served(learner))

    @app.get("/models/list")
    async def models() -> dict[str, Any]:
        """Upstream's list by target, and the versions kept here."""
        kept = [{"version": one.version, "fitted_at_s": one.fitted_at_s} for one in learner.versions.kept()]
        return {"models": {name: _info(learner, name) for name in TARGETS}, "versions": kept,
                "served": learner.version, "pinned": learner.versions.pinned}  # fmt: skip


def _tags(header: str) -> set[str]:
    """Entity tags of an ``If-None-Match``; weak ones count like strong ones (RFC 9110, 13.1.2)."""
    return {tag.strip().removeprefix("W/") for tag in header.split(",")}


def _known(target: str) -> str:
    if target not in TARGETS:
        raise HTTPException(404, f"no model {target!r}; there are {', '.join(TARGETS)}")
    return target


def _add_versions(app: FastAPI, learner: Learner) -> None:
    @app.post("/reload")
    def reload() -> dict[str, Any]:
        """Read the artifact again."""
        learner.restore()
        return {"status": "success", "version": learner.version, "is_ready": learner.model is not None}

    @app.post("/model/rollback", responses={409: {"description": "There is no such version."}})
    def roll_back(version: str = "") -> dict[str, str]:
        """Serve an older version (the one before, or the one named) until it is released."""
        try:
            return {"version": learner.roll_back(version)}
        except FleetError as error:
            raise HTTPException(409, str(error)) from None

    @app.post("/model/release")
    def release() -> dict[str, str]:
        """Serve new fits again."""
        learner.release()
        return {"version": learner.version}
