"""The recorded-workload format: what the router writes of live traffic, and the simulator and the benches replay. Pure.

One JSON object a line: ``arrival_s`` (seconds after the start), ``input_tokens``, ``output_tokens``, ``prefix_id`` and
``prefix_tokens`` (a system prompt shared by name; null where blocks say what is shared), ``model``, and ``hash_ids``:
chained blocks of 512 tokens, equal leading ids being equal leading text. It holds no text.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

BLOCK_TOKENS: Final = 512
"""Tokens of one ``hash_ids`` entry."""


def line(
    *, arrival_s: float, input_tokens: int, output_tokens: int, model: str, prefix_id: int | None = None,
    prefix_tokens: int = 0, hash_ids: Sequence[int] = (),
) -> str:  # fmt: skip
    """One request, without the line's end.

    >>> line(arrival_s=0.5, input_tokens=600, output_tokens=9, model="m", hash_ids=[7])
    '{"arrival_s":0.5,"input_tokens":600,"output_tokens":9,"prefix_id":null,"prefix_tokens":0,"model":"m","hash_ids":[7]}'
    """
    row: dict[str, Any] = {
        "arrival_s": round(arrival_s, 6), "input_tokens": input_tokens, "output_tokens": output_tokens,
        "prefix_id": prefix_id, "prefix_tokens": prefix_tokens, "model": model,
    }  # fmt: skip
    if hash_ids:
        row["hash_ids"] = hash_ids
    return json.dumps(row, separators=(",", ":"))
