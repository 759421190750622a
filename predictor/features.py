"""What is known of a request and an endpoint at the moment of dispatch. Pure.

The router records these with every request (``requests.features`` in the history) and the models read them; the
names are a contract between the two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

NAMES: Final = (
    "input_tokens",
    "cached_tokens",
    "prefill_tokens_in_flight",
    "requests_in_flight",
    "context_tokens_in_flight",
    "waiting",
    "running",
    "kv_utilisation",
)
"""In the order of a feature row.

``input_tokens``: prompt length. ``cached_tokens``: of these, expected in the endpoint's prefix cache.
``prefill_tokens_in_flight``: uncached prompt tokens that this router sent to the endpoint and whose first output
token has not come back. ``requests_in_flight``: requests sent there and not finished.
``context_tokens_in_flight``: prompt tokens plus output tokens so far of these requests.
``waiting``, ``running``, ``kv_utilisation``: as last scraped (0 when never scraped).
"""

HELD: Final = "held_s"
"""Beside them, where a request waited at the router before it was sent: so much of its TTFT no engine took."""
WIDTH: Final = len(NAMES)


def row(values: Mapping[str, float]) -> list[float]:
    """One feature row; a missing name counts as 0."""
    return [float(values.get(name, 0.0)) for name in NAMES]


def matrix(rows: Sequence[Mapping[str, float]]) -> NDArray[np.float64]:
    """Feature rows, shape (n, :data:`WIDTH`)."""
    return np.asarray([row(values) for values in rows], dtype=np.float64).reshape(len(rows), WIDTH)
