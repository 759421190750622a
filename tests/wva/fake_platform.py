"""A platform and its engines over real HTTP: ``/fleet``, ``PUT scale``, and each replica's ``/metrics``."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from fleet.discovery import variant_to_json
from fleet.types import Replica, Variant, VariantSpec


class FakePlatform:
    """Replicas that are ready at once; the test sets their load and breaks things."""

    def __init__(self, *specs: VariantSpec) -> None:
        self.variants = {each.name: Variant(spec=each, requested=each.min_replicas) for each in specs}
        self.load = {"kv": 0.5, "waiting": 0.0, "running": 8.0}
        self.url = ""
        self.since_s = time.time() - 60.0
        self.broken = False
        self.blind = False
        self.standing = False
        self.scalings: list[tuple[str, int]] = []
        self.tokens = 0.0
        self.gpus: dict[str, int] | None = None

    def scale(self, name: str, replicas: int) -> None:
        """As asked, at once."""
        self.variants[name] = replace(self.variants[name], requested=replicas)

    def fleet(self) -> dict[str, Any]:
        limits = {} if self.gpus is None else {"gpus": self.gpus}
        return {"variants": [variant_to_json(self._running(variant)) for variant in self.variants.values()], **limits}

    def page(self) -> str:
        self.tokens += 0.0 if self.standing else 10.0
        return (
            f"vllm:num_requests_waiting {self.load['waiting']}\nvllm:num_requests_running {self.load['running']}\n"
            f"vllm:kv_cache_usage_perc {self.load['kv']}\nvllm:generation_tokens_total {self.tokens}\n"
        )

    def _running(self, variant: Variant) -> Variant:
        name = variant.spec.name
        replicas = tuple(
            Replica(name=f"{name}-{index}", url=f"{self.url}/{name}/{index}", variant=name, since_s=self.since_s)
            for index in range(variant.requested)
        )
        return replace(variant, replicas=replicas)


@contextmanager
def serving(platform: FakePlatform) -> Iterator[FakePlatform]:
    """``platform`` behind a real server."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/fleet":
                self._answer(500 if platform.broken else 200, json.dumps(platform.fleet()))
            else:
                self._answer(500 if platform.blind else 200, platform.page())

        def do_PUT(self) -> None:
            wanted = json.loads(self.rfile.read(int(self.headers["content-length"])))["replicas"]
            name = self.path.split("/")[2]
            platform.scalings.append((name, wanted))
            platform.scale(name, wanted)
            self._answer(200, "{}")

        def _answer(self, status: int, body: str) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    platform.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield platform
    finally:
        server.shutdown()
        server.server_close()
