"""``fleet router indexer``: the KV-cache index as a service of its own, asked over HTTP."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import FastAPI, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from pydantic import BaseModel, ConfigDict, Field

from fleet import __version__
from router.kvevents.report import IndexCollector
from router.kvevents.subscriber import Subscriber
from router.kvindex.keys import pack, prompt_keys

Key = Annotated[int, Field(ge=0, lt=1 << 64)]
TokenId = Annotated[int, Field(ge=0, lt=1 << 32)]


class Query(BaseModel):
    """``POST /query``: keys, or the token ids that they come from."""

    model_config = ConfigDict(extra="forbid")

    prompt_hash: list[Key] | None = Field(default=None, max_length=65_536)
    """Keys of the prompt's blocks, first block first (``router.kvindex.keys``)."""
    token_ids: list[TokenId] | None = Field(default=None, max_length=2_097_152)
    lora: str | None = None
    cache_salt: str | None = None
    pods: list[str] | None = None
    """Answer for these only; unset: for all that hold anything of it."""


def make_app(subscriber: Subscriber) -> FastAPI:
    """The application, on the subscriber's event loop."""
    app = FastAPI(title="llm-fleet KV-cache index", version=__version__, docs_url=None, redoc_url=None)
    index = subscriber.index

    @app.post("/query", responses={400: {"description": "Neither keys nor token ids, or both; no text."}})
    async def query(asked: Query, response: Response) -> dict[str, Any]:
        """Longest consecutive prefix by pod."""
        if (asked.prompt_hash is None) == (asked.token_ids is None):
            response.status_code = 400
            return {"error": "give prompt_hash or token_ids"}
        return answer(subscriber, asked)

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """The process serves."""
        return {"status": "ok"}

    registry = CollectorRegistry()
    registry.register(IndexCollector(subscriber))

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Prometheus text."""
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    @app.get("/pods")
    async def pods() -> dict[str, int]:
        """Blocks of each pod."""
        return dict(index.sizes())

    return app


def answer(subscriber: Subscriber, asked: Query) -> dict[str, Any]:
    """What the index knows of a prompt."""
    index, found = subscriber.index, {}
    if asked.prompt_hash is not None:
        found = index.match(asked.prompt_hash)
    else:
        packed = pack(asked.token_ids or [])
        for size in index.block_sizes:
            keys = prompt_keys(packed, block_tokens=size, lora=asked.lora, salt=asked.cache_salt)
            found |= {pod: held for pod, held in index.match(keys).items() if index.block_tokens(pod) == size}
    wanted = found if asked.pods is None else asked.pods
    return {
        "scores": {pod: found[pod].weighted if pod in found else 0.0 for pod in wanted},
        "blocks": {pod: found[pod].blocks if pod in found else 0 for pod in wanted},
        "matched_tokens": {pod: found[pod].blocks * index.block_tokens(pod) if pod in found else 0 for pod in wanted},
        "tokens": "hashes" if asked.prompt_hash is not None else "exact",
        "index_size": len(index),
    }
