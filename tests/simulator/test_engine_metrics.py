"""The metrics page against one recorded from vLLM 0.32, and its values against what the engine did."""

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from fleet import signals
from fleet.sources.exposition import engine_sample
from simulator.config import EngineConfig
from simulator.engine import Engine
from simulator.exposition import Histogram, Page, series
from simulator.metrics_page import EngineMetrics, PageOptions
from simulator.sequence import EngineRequest
from simulator.steptime import timer_for
from simulator.vllm_metrics import TTFT_BOUNDS

RECORDED_MAX_MODEL_LEN = 2048
NOT_SIMULATED = {
    "http_request_size_bytes",
    "http_response_size_bytes",
    "http_request_duration_highr_seconds",
    "http_request_duration_seconds",
}
"""Families of the recorded page that an engine leaves out: latency and sizes by HTTP route, which nothing reads.
Every ``vllm:`` family is there."""
ONLY_WHEN_ASKED_FOR = ("vllm:nixl_", "vllm:lora_requests_info")
"""What a real engine shows only with a KV connector, and only with adapters."""

LINE = re.compile(r"^(?P<name>[a-zA-Z_:][\w:]*)(?:\{(?P<labels>.*)\})? (?P<value>\S+)$")
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


def engine(*, ttft_bounds: tuple[float, ...] | None = None) -> tuple[Engine, EngineMetrics]:
    config = EngineConfig(timer=timer_for("Llama-3.1-8B", "h100_sxm", 1), blocks=128, max_num_seqs=4,
                          max_num_batched_tokens=256, max_model_len=RECORDED_MAX_MODEL_LEN)  # fmt: skip
    metrics = EngineMetrics(
        "tiny", config, created_s=1.7e9, kv_bytes_per_token=131_072, options=PageOptions(ttft_bounds=ttft_bounds)
    )
    return Engine(config, ingress_s=0.0), metrics


def page(engine_: Engine, metrics: EngineMetrics) -> str:
    return metrics.render(engine_, 1e9).decode()


def lines(text: str) -> Iterator[tuple[str, dict[str, str]]]:
    for line in text.splitlines():
        if not line.startswith("#"):
            match = LINE.match(line)
            assert match, line
            yield match["name"], dict(LABEL.findall(match["labels"] or ""))


def heads(text: str) -> dict[str, tuple[str, str]]:
    """Family -> its TYPE and HELP."""
    kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
    helps = dict(re.findall(r"^# HELP (\S+) (.*)$", text, re.MULTILINE))
    return {name: (kind, helps[name]) for name, kind in kinds.items()}


def shapes(text: str) -> dict[str, set[frozenset[str]]]:
    """Series -> the sets of label names it comes with."""
    found = defaultdict(set)
    for name, labels in lines(text):
        found[name].add(frozenset(labels))
    return dict(found)


def values_of(text: str, label: str) -> dict[str, set[str]]:
    """Series -> the values of ``label``."""
    found = defaultdict(set)
    for name, labels in lines(text):
        if label in labels:
            found[name].add(labels[label])
    return dict(found)


@pytest.fixture(scope="module")
def recorded(data_dir: Path) -> str:
    text = (data_dir / "vllm_0.32_cpu_metrics.txt").read_text(encoding="utf-8")
    return "\n".join(line for line in text.splitlines() if not any(name in line for name in NOT_SIMULATED))


@pytest.fixture(scope="module")
def simulated() -> str:
    built, metrics = engine()
    metrics.on_http("/v1/completions", "POST", 200)
    return page(built, metrics)


def test_families_types_and_helps_are_those_of_vllm(recorded: str, simulated: str) -> None:
    ours = heads(simulated)
    assert {name: ours.get(name) for name in heads(recorded)} == heads(recorded)
    assert set(ours) == set(heads(recorded))


def test_series_carry_the_label_names_of_vllm(recorded: str, simulated: str) -> None:
    assert shapes(simulated) == shapes(recorded)


@pytest.mark.parametrize("label", ["le", "finished_reason", "reason", "source", "sleep_state"])
def test_closed_label_values_are_those_of_vllm(recorded: str, simulated: str, label: str) -> None:
    assert values_of(simulated, label) == values_of(recorded, label)


def test_the_official_parser_reads_the_page(simulated: str) -> None:
    families = {family.name: family for family in text_string_to_metric_families(simulated)}
    assert families["vllm:time_to_first_token_seconds"].type == "histogram"
    assert families["vllm:generation_tokens"].type == "counter"


def test_every_engine_series_of_the_catalogue_that_vllm_has_is_on_the_page(simulated: str) -> None:
    exported = set(heads(simulated))
    wanted = {name for name, signal in signals.CATALOGUE.items() if signal.origin is signals.Origin.ENGINE}
    assert {name for name in wanted - exported if not name.startswith(ONLY_WHEN_ASKED_FOR)} == set()


def test_ttft_bounds_can_be_replaced_as_with_vllms_own_flag() -> None:
    assert 0.2 not in TTFT_BOUNDS
    text = page(*engine(ttft_bounds=(0.1, 0.2, 0.5)))
    assert values_of(text, "le")["vllm:time_to_first_token_seconds_bucket"] == {"0.1", "0.2", "0.5", "+Inf"}


def test_values_tell_what_the_engine_did() -> None:
    built, metrics = engine()
    for name, at_s in (("a", 0.0), ("b", 1.0)):
        built.submit(EngineRequest(request_id=name, prompt_tokens=48, output_tokens=5, block_hashes=[1, 2, 3]), at_s)
        while (start_s := built.next_start_s(at_s)) is not None:
            result = built.step(start_s)
            assert result is not None
            at_s = result.end_s  # noqa: PLW2901
            metrics.on_step(result)
        metrics.finished("length")
    sample = engine_sample(page(built, metrics), at_s=9.0)
    assert (sample.prompt_tokens_total, sample.generation_tokens_total) == (96.0, 10.0)
    assert (sample.prefix_queries_total, sample.prefix_hits_total) == (96.0, 32.0)
    assert (sample.requests_total, sample.running, sample.waiting) == (2.0, 0.0, 0.0)
    assert sample.kv_capacity_tokens == 128 * 16
    counts = {name: value for name, value in totals(page(built, metrics)).items() if name.endswith("_count")}
    assert counts["vllm:time_to_first_token_seconds_count"] == 2.0
    assert counts["vllm:inter_token_latency_seconds_count"] == 8.0
    assert counts["vllm:iteration_tokens_total_count"] == 10.0
    assert counts["vllm:e2e_request_latency_seconds_count"] == 2.0


def totals(text: str) -> dict[str, float]:
    return {sample.name: sample.value for family in text_string_to_metric_families(text) for sample in family.samples}


def test_running_waiting_and_cache_use_show_while_requests_are_there() -> None:
    built, metrics = engine()
    for index in range(6):
        built.submit(EngineRequest(request_id=str(index), prompt_tokens=32, output_tokens=5), 0.0)
    built.step(0.0)
    sample = engine_sample(page(built, metrics), at_s=1.0)
    assert (sample.running, sample.waiting, sample.kv_utilisation) == (4.0, 2.0, 8 / 128)


# ---- the page writer itself


def test_a_histogram_counts_up_to_and_including_its_bounds() -> None:
    histogram = Histogram("h", {}, [1, 2])
    for value, times in ((0.5, 1), (1.0, 1), (1.5, 3), (9.0, 1)):
        histogram.observe(value, times)
    assert histogram.count == 6
    assert histogram.lines() == [
        'h_bucket{le="1.0"} 2.0',
        'h_bucket{le="2.0"} 5.0',
        'h_bucket{le="+Inf"} 6.0',
        "h_count 6.0",
        "h_sum 15.0",
    ]


@pytest.mark.parametrize("bounds", [pytest.param([], id="none"), pytest.param([1, 1], id="not-ascending")])
def test_bad_bounds_are_refused(bounds: list[float]) -> None:
    with pytest.raises(ValueError, match="ascend"):
        Histogram("h", {}, bounds)


def test_label_values_are_escaped() -> None:
    value = 'a"b\\c\nd'
    text = Page(created_s=0.0)
    text.family("m", "gauge", "help").scalar({"x": value}, 1.0)
    (family,) = text_string_to_metric_families(text.render().decode())
    assert family.samples[0].labels == {"x": value}
    assert series("m", {}) == "m "
