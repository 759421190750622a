"""Evidence from a running Prometheus."""

from __future__ import annotations

import math

import requests

from alerts.algebra import Expr
from alerts.diagnosis import Evidence
from alerts.facts import evidence
from fleet.errors import SourceError

TIMEOUT_S = 10.0


class Prometheus:
    """Answers expressions through the HTTP API.

    Args:
        url: base URL, for example http://127.0.0.1:9090.
    """

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        self._session = requests.Session()

    def ask(self, expr: Expr, at_s: float) -> float | None:
        """The one value of an expression at a time; ``None`` where it has none.

        Raises: SourceError when Prometheus cannot be asked.
        """
        try:
            answer = self._session.post(f"{self._url}/api/v1/query", data={"query": expr.promql(), "time": at_s},
                                        timeout=TIMEOUT_S)  # fmt: skip
            answer.raise_for_status()
            rows = answer.json()["data"]["result"]
        except (requests.RequestException, ValueError, KeyError) as error:
            raise SourceError(f"cannot be asked: {type(error).__name__}", where=self._url,
                              next_step="Check --prometheus, and that Prometheus answers there.") from None  # fmt: skip
        value = float(rows[0]["value"][1]) if rows else None
        return None if value is None or math.isnan(value) else value

    def evidence(self, *, model: str, at_s: float) -> Evidence:
        """All facts about ``model`` (empty: all models), as :func:`alerts.facts.evidence`."""
        return evidence(self.ask, model=model, at_s=at_s)


def known(found: Evidence) -> Evidence:
    """Without what has no value, so that another source may fill it in."""
    return {name: value for name, value in found.items() if value is not None}
