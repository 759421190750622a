"""Requests made up from an HTTP interface's own OpenAPI document: right ones, wrong ones, always the same ones."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Container, Iterator
from typing import Any

import requests
import schemathesis
import uvicorn
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

EXAMPLES = 10


@contextlib.contextmanager
def served(app: Any) -> Iterator[str]:
    """The application on a port of this machine, in a thread; its URL."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        config = uvicorn.Config(app, log_level="critical", access_log=False, lifespan="off")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{sock.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def walk(
    document: dict[str, Any], url: str, *, headers: dict[str, str] | None = None, picky: Container[str] = ()
) -> dict[str, set[int]]:
    """Call every operation of ``document`` at ``url``; statuses seen, by operation.

    Every answer must have a documented status, content type and shape, a wrong request must be refused and a right one
    must not, unless its operation is ``picky``: it demands what a schema cannot say. No answer is a server error, but a
    documented 503.
    """
    seen: dict[str, set[int]] = {}
    with requests.Session() as session:
        for result in schemathesis.openapi.from_dict(document).get_all_operations():
            operation = result.ok()
            statuses = seen.setdefault(operation.label, set())
            for mode in GenerationMode:
                with contextlib.suppress(Unsatisfiable):  # what takes no input has no wrong input
                    _call(operation, mode, session=session, url=url, headers=headers, statuses=statuses,
                          picky=operation.label in picky)  # fmt: skip
    return seen


def _call(
    operation: Any, mode: GenerationMode, *, session: requests.Session, url: str, headers: dict[str, str] | None,
    statuses: set[int], picky: bool,
) -> None:  # fmt: skip
    @settings(max_examples=EXAMPLES, derandomize=True, database=None, deadline=None,
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(case=operation.as_strategy(generation_mode=mode))
    def check(case: Any) -> None:
        answer = case.call(base_url=url, session=session, headers=headers)
        statuses.add(answer.status_code)
        excluded = [not_a_server_error] if answer.status_code == 503 else []
        excluded += [positive_data_acceptance] if picky else []
        case.validate_response(answer, excluded_checks=excluded)

    check()
