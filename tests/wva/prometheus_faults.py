"""A proxy in front of a real Prometheus whose answers go wrong in one way at a time."""

from __future__ import annotations

import copy
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import requests

Series = list[dict[str, Any]]
"""Entries of an instant vector: ``{"metric": labels, "value": [time, text]}``."""
Change = Callable[[str, Series], Series]
"""Another answer for a query."""


@dataclass
class Fault:
    """What happens to an answer; nothing by default."""

    status: int = 200
    """Other than 200: refused with it. 0: the connection is cut."""
    change: Change | None = None
    held: threading.Event | None = None
    """No answer until it is set."""


@dataclass
class Proxy:
    """The proxy: its fault, and what was asked through it."""

    upstream: str
    fault: Fault = field(default_factory=Fault)
    asked: list[str] = field(default_factory=list)
    clock: Callable[[], float] = time.time
    """What Prometheus takes for now, whatever the machine does."""
    url: str = ""

    def answer(self, path: str) -> tuple[int, bytes]:
        """Status and body for a path; 0: cut the connection."""
        fault = self.fault
        query = parse_qs(urlsplit(path).query)["query"][0]
        self.asked.append(query)
        if fault.held is not None:
            fault.held.wait(60)
        if fault.status != 200:
            return fault.status, b'{"status":"error","errorType":"unavailable","error":"no"}'
        found = requests.get(self.upstream + path, timeout=30)
        if found.status_code != 200:
            return found.status_code, found.content
        body = found.json()
        series = shifted(self.clock() - time.time())(query, body["data"]["result"])
        body["data"]["result"] = fault.change(query, series) if fault.change else series
        return 200, json.dumps(body).encode()


@contextmanager
def proxied(upstream: str) -> Iterator[Proxy]:
    """A proxy in front of the Prometheus at ``upstream``."""
    proxy = Proxy(upstream)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = proxy.answer(self.path)
            if not status:
                self.close_connection = True
                return
            try:
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.end_headers()
                self.wfile.write(body)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True  # who asked did not wait so long

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    proxy.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield proxy
    finally:
        if proxy.fault.held is not None:
            proxy.fault.held.set()
        server.shutdown()
        server.server_close()


def without(*instances: str) -> Change:
    """Partial: the series of some engines are missing from every answer."""
    return lambda _, found: [one for one in found if one["metric"].get("instance") not in instances]


def without_answers_to(*words: str) -> Change:
    """Partial: whole answers are empty."""
    return lambda query, found: [] if any(word in query for word in words) else found


def valued(text: str) -> Change:
    """Every value is ``text``: NaN, +Inf."""
    return lambda _, found: [{**one, "value": [one["value"][0], text]} for one in found]


def aged(seconds: float) -> Change:
    """Old timestamps: samples are so much older than they were."""

    def change(query: str, found: Series) -> Series:
        if "timestamp(" not in query:
            return found
        return [{**one, "value": [one["value"][0], str(float(one["value"][1]) - seconds)]} for one in found]

    return change


def shifted(seconds: float) -> Change:
    """Prometheus's own clock is wrong: query time and sample times alike."""

    def change(query: str, found: Series) -> Series:
        stamped = "timestamp(" in query
        return [{**one, "value": [one["value"][0] + seconds,
                                  str(float(one["value"][1]) + seconds) if stamped else one["value"][1]]}
                for one in found]  # fmt: skip

    return change


def doubled(query: str, found: Series) -> Series:
    """Duplicated series: each comes twice, the second time as of an empty, idle engine an hour ago."""
    second = copy.deepcopy(found)
    for one in second:
        value = float(one["value"][1])
        one["value"][1] = str(value - 3600.0 if "timestamp(" in query else 0.0)
    return [*found, *second]
