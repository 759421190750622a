"""A quick reader of Prometheus text that keeps only wanted series.

``prometheus_client``'s parser takes about 20 ms for one vLLM page (56 kB); the router reads such a page from every
endpoint each second on its event loop, so this one looks at a line's name first and skips the rest (well under 1 ms).
A test holds both parsers against each other on a recorded page.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from fleet import signals as s
from fleet.types import EngineSample

_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"')
_ESCAPE = re.compile(r"\\(.)")


@dataclass(frozen=True, slots=True)
class Point:
    """One line: a series with its value."""

    name: str
    value: float
    labels: dict[str, str] = field(default_factory=dict)


def _unescape(value: str) -> str:
    return _ESCAPE.sub(lambda match: "\n" if match[1] == "n" else match[1], value) if "\\" in value else value


def parse(text: str, wanted: Collection[str]) -> Iterator[Point]:
    """Points of the ``wanted`` series (names as exported); lines that do not parse are skipped."""
    for line in text.splitlines():
        brace = line.find("{")
        name = line[:brace] if brace >= 0 else line.split(" ", 1)[0]
        if name not in wanted:
            continue
        end = line.rfind("}") if brace >= 0 else len(name) - 1
        fields = line[end + 1 :].split()
        try:
            value = float(fields[0])
        except (IndexError, ValueError):
            continue
        labels = {key: _unescape(raw) for key, raw in _LABEL.findall(line[brace + 1 : end])} if brace >= 0 else {}
        yield Point(name, value, labels)


_FIELDS: dict[str, s.Signal] = {
    "waiting": s.WAITING,
    "running": s.RUNNING,
    "kv_utilisation": s.KV_UTILISATION,
    "prompt_tokens_total": s.PROMPT_TOKENS,
    "generation_tokens_total": s.GENERATION_TOKENS,
    "prefix_hits_total": s.PREFIX_HITS,
    "prefix_queries_total": s.PREFIX_QUERIES,
    "preemptions_total": s.PREEMPTIONS,
    "requests_total": s.FINISHED,
}
"""Field of :class:`EngineSample` -> its signal."""

_FIELD_OF = {name: field_name for field_name, signal in _FIELDS.items() for name in signal.names}
ENGINE_SERIES = frozenset(_FIELD_OF) | {s.CACHE_CONFIG.name, *s.LORA_INFO.names}


def combine(points: Iterator[Point], *, at_s: float) -> EngineSample:
    """One engine's points as a sample: data-parallel ranks are summed, KV utilisation is their maximum.

    Values that are NaN, infinite or negative are dropped: an engine that lies is one that did not say.
    """
    values: dict[str, float] = {}
    capacity: float | None = None
    lora: Point | None = None
    for point in points:
        if point.name == s.CACHE_CONFIG.name:
            capacity = (capacity or 0.0) + _capacity(point.labels)
            continue
        if point.name in s.LORA_INFO.names:  # series of earlier mixes stay on the page: the newest is true
            lora = point if lora is None or point.value >= lora.value else lora
            continue
        field_name = _FIELD_OF.get(point.name)
        if field_name is None or not math.isfinite(point.value) or point.value < 0:
            continue
        if field_name == "kv_utilisation":
            values[field_name] = max(values.get(field_name, 0.0), min(point.value, 1.0))
        else:
            values[field_name] = values.get(field_name, 0.0) + point.value
    adapters, slots = _lora(lora.labels if lora is not None else {})
    return EngineSample(
        at_s=at_s, kv_capacity_tokens=capacity or None, adapters=adapters, adapter_slots=slots, **values
    )


def _lora(labels: dict[str, str]) -> tuple[frozenset[str], int | None]:
    """Adapters in use and how many fit at once."""
    names = f"{labels.get('running_lora_adapters', '')},{labels.get('waiting_lora_adapters', '')}".split(",")
    slots = labels.get("max_lora", "")
    return frozenset(name.strip() for name in names if name.strip()), int(slots) if slots.isdigit() else None


def _capacity(labels: dict[str, str]) -> float:
    try:
        return float(labels["num_gpu_blocks"]) * float(labels["block_size"])
    except (KeyError, ValueError):
        return 0.0


def engine_sample(page: str, *, at_s: float) -> EngineSample:
    """An engine's ``/metrics`` page as a sample.

    Args:
        page: Prometheus text.
        at_s: Unix time of the scrape.
    """
    return combine(parse(page, ENGINE_SERIES), at_s=at_s)
