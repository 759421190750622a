"""A small HTTP server with several engines' metrics pages, in the shape of vLLM's."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Page = Callable[[], str | None]
"""Text of ``/metrics`` now; ``None``: 500."""


@contextmanager
def serve(page: Page) -> Iterator[str]:
    """One engine at its own address; gives its base URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            text = page()
            self.send_response(200 if text is not None and self.path == "/metrics" else 500)
            self.send_header("content-type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write((text or "").encode())

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


class Engine:
    """Counters that grow steadily with real time, gauges that the test sets; two data-parallel ranks."""

    def __init__(self, speed: float, *, prefix: str = "vllm:", ranks: int = 2) -> None:
        self.speed, self.prefix, self.ranks = speed, prefix, ranks
        self.waiting, self.running, self.kv = 3.0, 8.0, 0.4
        self.began = time.time()

    def page(self) -> str:
        elapsed = time.time() - self.began
        ranks = [self._rank(rank, elapsed / self.ranks) for rank in range(self.ranks)]
        return "\n".join(line for rank in ranks for line in rank) + "\n"

    def _rank(self, rank: int, elapsed: float) -> Iterator[str]:
        labels = f'{{engine="{rank}",model_name="toy"}}'
        gauges = {
            "num_requests_waiting": self.waiting / self.ranks, "num_requests_running": self.running / self.ranks,
            "kv_cache_usage_perc": self.kv if rank == 0 else self.kv / 2,
        }  # fmt: skip
        counters = {
            "prompt_tokens_total": 5 * self.speed, "generation_tokens_total": self.speed,
            "prefix_cache_hits_total": 2 * self.speed, "prefix_cache_queries_total": 5 * self.speed,
            "num_preemptions_total": 0.0,
        }  # fmt: skip
        for name, value in gauges.items():
            yield f"{self.prefix}{name}{labels} {value}"
        for name, per_second in counters.items():
            yield f"{self.prefix}{name}{labels} {elapsed * per_second}"
        for reason, share in (("stop", 0.75), ("length", 0.25)):
            finished = elapsed * self.speed / 100 * share
            yield f'vllm:request_success_total{labels[:-1]},finished_reason="{reason}"}} {finished}'
        yield f'vllm:cache_config_info{{engine="{rank}",block_size="16",num_gpu_blocks="1000"}} 1'
