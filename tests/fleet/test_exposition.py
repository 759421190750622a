"""Our quick reader of Prometheus text against the reference parser, and what it makes of a page."""

from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from fleet.signals import BY_ANY_NAME
from fleet.sources.exposition import engine_sample, parse


@pytest.fixture(scope="module")
def page() -> str:
    return (Path(__file__).parent.parent / "data" / "vllm_0.32_cpu_metrics.txt").read_text(encoding="utf-8")


def test_it_reads_what_the_reference_parser_reads(page: str) -> None:
    expected = [
        (sample.name, sample.labels, sample.value)
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    ]
    wanted = {name for name, _, _ in expected}
    found = [(point.name, point.labels, point.value) for point in parse(page, wanted)]
    key = repr
    assert sorted(found, key=key) == sorted(expected, key=key)
    assert len(found) > 500


def test_it_reads_only_what_is_wanted(page: str) -> None:
    assert {point.name for point in parse(page, {"vllm:num_requests_running"})} == {"vllm:num_requests_running"}


@pytest.mark.parametrize(
    ("line", "labels", "value"),
    [
        pytest.param('up{a="x,y{z}",b="q\\"u\\\\o\\nte"} 1', {"a": "x,y{z}", "b": 'q"u\\o\nte'}, 1.0, id="escapes"),
        pytest.param("up 2.5e3", {}, 2500.0, id="no labels"),
        pytest.param('up{a=""} 4 1700000000000', {"a": ""}, 4.0, id="a time stamp is left out"),
        pytest.param("up{} 7", {}, 7.0, id="empty braces"),
    ],
)
def test_odd_lines(line: str, labels: dict[str, str], value: float) -> None:
    (point,) = parse(line + "\n", {"up"})
    assert (point.labels, point.value) == (labels, value)


@pytest.mark.parametrize("line", ["up", "up{", "up{a=} x", "# TYPE up gauge", "", "up NaNo"])
def test_lines_that_do_not_parse_are_skipped(line: str) -> None:
    assert list(parse(line, {"up"})) == []


def test_an_engine_page_becomes_a_sample(page: str) -> None:
    sample = engine_sample(page, at_s=5.0)
    assert sample.at_s == 5.0
    assert (sample.waiting, sample.running, sample.kv_utilisation) == (0.0, 0.0, 0.0)
    assert (sample.prefix_hits_total, sample.prefix_queries_total) == (640.0, 8477.0)
    assert sample.prompt_tokens_total and sample.generation_tokens_total and sample.kv_capacity_tokens
    assert sample.requests_total and sample.requests_total > 1, "all finish reasons are summed"


def test_data_parallel_ranks_are_summed_and_the_fullest_cache_counts() -> None:
    text = "\n".join(
        f'vllm:num_requests_waiting{{engine="{rank}"}} {waiting}\nvllm:kv_cache_usage_perc{{engine="{rank}"}} {kv}\n'
        f'vllm:cache_config_info{{engine="{rank}",num_gpu_blocks="100",block_size="16"}} 1'
        for rank, waiting, kv in ((0, 3, 0.2), (1, 4, 0.9))
    )
    sample = engine_sample(text, at_s=0.0)
    assert (sample.waiting, sample.kv_utilisation, sample.kv_capacity_tokens) == (7.0, 0.9, 3200.0)


@pytest.mark.parametrize("name", ["sglang:token_usage", "vllm:gpu_cache_usage_perc", "kserve_vllm:kv_cache_usage_perc"])
def test_other_names_of_the_same_signal(name: str) -> None:
    assert engine_sample(f"{name} 0.4", at_s=0.0).kv_utilisation == 0.4
    assert BY_ANY_NAME[name].name == "vllm:kv_cache_usage_perc"


def test_values_that_mean_nothing_are_dropped() -> None:
    text = "vllm:kv_cache_usage_perc NaN\nvllm:num_requests_waiting -1\nvllm:num_requests_running +Inf"
    sample = engine_sample(text, at_s=0.0)
    assert (sample.kv_utilisation, sample.waiting, sample.running) == (None, None, None)


def test_the_newest_state_of_the_adapters_counts() -> None:
    """vLLM leaves the states before on the page, each with its time as value."""
    page = """
vllm:num_requests_running{engine="0"} 1.0
vllm:lora_requests_info{max_lora="4",running_lora_adapters="a",waiting_lora_adapters=""} 10.0
vllm:lora_requests_info{max_lora="4",running_lora_adapters="b, c",waiting_lora_adapters="d"} 20.0
"""
    sample = engine_sample(page, at_s=0.0)
    assert (sample.adapters, sample.adapter_slots) == (frozenset("bcd"), 4)


def test_an_engine_without_adapters_has_none(page: str) -> None:
    sample = engine_sample(page, at_s=0.0)
    assert (sample.adapters, sample.adapter_slots) == (frozenset(), None)
