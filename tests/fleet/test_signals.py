"""The catalogue: complete, consistent, and true to a recorded engine."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from fleet import promql
from fleet import signals as s
from fleet.sources import queries

NEEDS_A_CONNECTOR = ("vllm:nixl_",)
"""Exported only with a KV connector, which the recorded engine did not run; names as in vLLM's sources."""

_WORDS = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_PROMQL = {
    "sum", "max", "min", "by", "rate", "or", "timestamp", "histogram_quantile", "instance", "job", "engine", "le",
    "num_gpu_blocks", "block_size", "target_model_name", "model_name", "__name__", "ms", "m", "s",
}  # fmt: skip


def series_in(query: str) -> Iterator[str]:
    """Metric names that a query asks for."""
    quoted = re.findall(r'__name__=~"([^"]*)"', query)
    for group in quoted:
        yield from group.split("|")
    bare = re.sub(r'\{[^}]*\}|\[[^\]]*\]|"[^"]*"', " ", query)
    yield from (word for word in _WORDS.findall(bare) if word not in _PROMQL)


QUERIES = {
    "raw": queries.raw(),
    "kv": queries.kv_utilisation(),
    "config": queries.cache_config(),
    "sampled": queries.sampled_at(),
    "router": queries.router_queue(),
    "router sampled": queries.router_queue_sampled_at(),
    **{f"rate {name}": queries.rate(signal, 30.0) for name, signal in queries.RATES.items()},
    "quantile": promql.quantile(0.95, s.ROUTER_TTFT, "5m", "model_name"),
    "mean": promql.mean(s.ENGINE_QUEUE_TIME, "5m", "model_name"),
}


@pytest.mark.parametrize("name", sorted(QUERIES))
def test_queries_name_only_catalogued_series(name: str) -> None:
    names = set(series_in(QUERIES[name]))
    assert names
    assert {each for each in names if s.base_name(each) not in s.BY_ANY_NAME} == set()


def test_the_check_would_see_an_unknown_series() -> None:
    assert "vllm:made_up" in set(series_in("sum by (job) (rate(vllm:made_up[5m]))"))
    assert "vllm:made_up" in set(series_in('{__name__=~"up|vllm:made_up"}'))


@pytest.fixture(scope="module")
def page() -> str:
    return (Path(__file__).parent.parent / "data" / "vllm_0.32_cpu_metrics.txt").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def recorded(page: str) -> set[str]:
    return {re.split(r"[{ ]", line, maxsplit=1)[0] for line in page.splitlines() if line and not line.startswith("#")}


ENGINE = [
    each
    for _, each in sorted(s.CATALOGUE.items())
    if each.origin is s.Origin.ENGINE and not each.name.startswith(NEEDS_A_CONNECTOR) and each is not s.LORA_INFO
]


@pytest.mark.parametrize("signal", ENGINE, ids=lambda signal: signal.name)
def test_engine_signals_are_on_a_recorded_vllm_page(signal: s.Signal, recorded: set[str]) -> None:
    suffixes = ("_bucket", "_sum", "_count") if signal.kind is s.Kind.HISTOGRAM else ("",)
    assert {signal.name + suffix for suffix in suffixes} <= recorded


@pytest.mark.parametrize("signal", ENGINE, ids=lambda signal: signal.name)
def test_types_are_the_engines(signal: s.Signal, page: str) -> None:
    assert f"# TYPE {signal.name} {signal.kind}\n" in page


def test_names_and_aliases_are_unique() -> None:
    names = [name for signal in s.CATALOGUE.values() for name in signal.names]
    assert sorted(names) == sorted(set(names))


@pytest.mark.parametrize("signal", s.CATALOGUE.values(), ids=lambda signal: signal.name)
def test_entries_are_complete(signal: s.Signal) -> None:
    assert signal.unit
    assert signal.meaning.endswith(".")
    assert signal.kind is not s.Kind.COUNTER or signal.name.endswith("_total")


@pytest.mark.parametrize(
    ("series", "base"),
    [
        pytest.param("vllm:time_to_first_token_seconds_count", "vllm:time_to_first_token_seconds", id="histogram"),
        pytest.param("vllm:num_requests_waiting", "vllm:num_requests_waiting", id="gauge"),
        pytest.param("someone_elses_count", "someone_elses_count", id="unknown stays"),
    ],
)
def test_base_name(series: str, base: str) -> None:
    assert s.base_name(series) == base
