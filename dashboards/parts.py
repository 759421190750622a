"""The other parts' HTTP endpoints: short waits, and a memory of since when one is silent."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import requests


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a part said, or that it said nothing."""

    part: str
    url: str
    reachable: bool
    since_s: float
    """Unix time since when it is as it is, as far as this console has seen."""
    document: Any = None
    """The parsed JSON; None where it is no JSON."""
    problem: str = ""


class Parts:
    """Asks parts and remembers, across pages and viewers, since when each answers or is silent."""

    def __init__(self, *, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._seen: dict[str, tuple[bool, float]] = {}

    def ask(self, part: str, base_url: str, path: str) -> Answer:
        """GET one path; never raises, never waits longer than the timeout for either connecting or reading."""
        document, problem, answered = None, "", True
        try:
            response = requests.get(base_url + path, timeout=self._timeout_s)
            if response.status_code >= 400:
                problem = f"HTTP {response.status_code}"
            else:
                document = _json(response)
        except requests.RequestException as error:
            answered, problem = False, _in_words(error)
        return Answer(
            part=part,
            url=base_url + path,
            reachable=answered,
            document=document,
            problem=problem,
            since_s=self._since(base_url, answered, time.time()),
        )

    def text(self, base_url: str, path: str) -> str:
        """GET one path as text; empty when there is no answer."""
        try:
            response = requests.get(base_url + path, timeout=self._timeout_s)
        except requests.RequestException:
            return ""
        return response.text if response.status_code == 200 else ""

    def health(self, urls: Mapping[str, str]) -> dict[str, Answer]:
        """All parts' ``/healthz`` at once."""
        if not urls:
            return {}
        with ThreadPoolExecutor(max_workers=len(urls)) as pool:
            answers = pool.map(lambda item: self.ask(item[0], item[1], "/healthz"), urls.items())
            return {answer.part: answer for answer in answers}

    def _since(self, base_url: str, answered: bool, now_s: float) -> float:
        with self._lock:
            before = self._seen.get(base_url)
            if before is None or before[0] != answered:
                self._seen[base_url] = (answered, now_s)
            return self._seen[base_url][1]


def _json(response: requests.Response) -> Any:
    try:
        return response.json()
    except ValueError:
        return None


def _in_words(error: requests.RequestException) -> str:
    if isinstance(error, requests.Timeout):
        return "no answer in time"
    if isinstance(error, requests.ConnectionError):
        return "connection refused or broken"
    return type(error).__name__
