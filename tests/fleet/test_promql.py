"""PromQL builders."""

from __future__ import annotations

import pytest

from fleet import promql
from fleet import signals as s


def test_matchers_are_escaped_and_regular_expressions_marked() -> None:
    assert (
        promql.selector(s.RUNNING, model_name='a"b', pod="~x.*")
        == 'vllm:num_requests_running{model_name="a\\"b",pod=~"x.*"}'
    )


def test_the_rate_of_a_gauge_is_refused() -> None:
    with pytest.raises(ValueError, match="gauge"):
        promql.rate(s.RUNNING, "1m")


def test_one_selector_covers_all_aliases() -> None:
    selector = promql.any_selector((s.RUNNING,))
    assert all(name in selector for name in s.RUNNING.names)


def test_mean_of_a_histogram_divides_rates() -> None:
    assert promql.mean(s.ENGINE_TTFT, "5m", "model_name") == (
        "sum by (model_name) (rate(vllm:time_to_first_token_seconds_sum[5m])) / "
        "sum by (model_name) (rate(vllm:time_to_first_token_seconds_count[5m]))"
    )
