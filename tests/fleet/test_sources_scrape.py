"""The scraper, over real sockets, and the arithmetic of its rates."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.errors import SourceError
from fleet.sources import RouterQueue, rates
from fleet.sources.scrape import RouterPage, ScrapeSource
from fleet.types import EngineSample, Replica
from tests.fleet.fake_engines import serve

NOW = 1_000_000.0


def page(tokens: float, *, waiting: float = 1.0) -> str:
    return (
        f"vllm:num_requests_waiting {waiting}\nvllm:num_requests_running 4\nvllm:kv_cache_usage_perc 0.5\n"
        f"vllm:generation_tokens_total {tokens}\n"
    )


def replica(url: str) -> Replica:
    return Replica(name=url, url=url, variant="a")


def test_a_rate_needs_two_reads() -> None:
    pages = iter([page(100.0), page(400.0)])
    with serve(lambda: next(pages)) as url:
        source = ScrapeSource(window_s=30.0)
        first = source.read([replica(url)], now_s=NOW)[url]
        second = source.read([replica(url)], now_s=NOW + 10.0)[url]
    assert (first.sample.waiting, first.sample.kv_utilisation, first.generation_tps) == (1.0, 0.5, None)
    assert second.generation_tps == pytest.approx(30.0, rel=0.05)
    assert second.sample.at_s == pytest.approx(NOW + 10.0, abs=2.0)


def test_a_restarted_engine_gives_no_negative_rate() -> None:
    pages = iter([page(1000.0), page(1300.0), page(50.0)])
    with serve(lambda: next(pages)) as url:
        source = ScrapeSource(window_s=60.0)
        for step in range(3):
            found = source.read([replica(url)], now_s=NOW + step * 10.0)[url]
    assert found.generation_tps == pytest.approx((300.0 + 50.0) / 20.0, rel=0.05)


def test_the_window_forgets_old_samples() -> None:
    pages = iter([page(0.0), page(10_000.0), page(10_010.0), page(10_020.0)])
    with serve(lambda: next(pages)) as url:
        source = ScrapeSource(window_s=25.0)
        for step in range(4):
            found = source.read([replica(url)], now_s=NOW + step * 10.0)[url]
    assert found.generation_tps == pytest.approx(1.0, rel=0.05)


@contextmanager
def never_answers() -> Iterator[str]:
    """A server that accepts and says nothing."""
    held: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            try:
                while True:
                    held.append(listener.accept()[0])
            except OSError:
                return

        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    for each in held:
        each.close()


def test_engines_that_do_not_answer_are_missing_and_the_others_are_not(free_port: int) -> None:
    with serve(lambda: page(1.0)) as good, serve(lambda: None) as bad, serve(lambda: "<html>hello</html>") as web, \
            never_answers() as silent:  # fmt: skip
        gone = f"http://127.0.0.1:{free_port}"
        urls = [good, bad, web, silent, gone, "http://no such host"]
        found = ScrapeSource(timeout_s=0.5).read([replica(url) for url in urls], now_s=NOW)
    assert set(found) == {good}


def test_no_replicas_no_readings() -> None:
    assert ScrapeSource().read([], now_s=NOW) == {}


def test_engines_are_read_at_the_same_time() -> None:
    together = threading.Barrier(4, timeout=60)

    def wait_for_the_others() -> str:
        together.wait()  # breaks, and answers nothing, unless all four requests are in flight at once
        return page(1.0)

    with serve(wait_for_the_others) as a, serve(wait_for_the_others) as b, serve(wait_for_the_others) as c, \
            serve(wait_for_the_others) as d:  # fmt: skip
        found = ScrapeSource(timeout_s=10.0).read([replica(url) for url in (a, b, c, d)], now_s=NOW)
    assert set(found) == {a, b, c, d}


def test_the_routers_queue_is_read_by_model(free_port: int) -> None:
    text = (
        'llm_d_epp_flow_control_queue_size{target_model_name="llama"} 4\n'
        'llm_d_epp_flow_control_queue_size{target_model_name="llama",priority="1"} 2\n'
        'llm_d_epp_flow_control_queue_size{target_model_name="qwen"} 1\n'
    )
    with serve(lambda: text) as url:
        assert RouterPage(url + "/").queue() == RouterQueue(waiting={"llama": 6.0, "qwen": 1.0})
    with pytest.raises(SourceError, match="its metrics cannot be read: ConnectionError"):
        RouterPage(f"http://127.0.0.1:{free_port}").queue()


@given(st.lists(st.floats(0, 1e9), min_size=1, max_size=20))
def test_a_counter_never_grows_backwards(values: list[float]) -> None:
    assert rates.increase(values) >= 0.0


@given(st.lists(st.floats(0, 1e6), min_size=2, max_size=20))
def test_without_a_restart_the_growth_is_last_minus_first(steps: list[float]) -> None:
    values = sorted(steps)
    assert rates.increase(values) == pytest.approx(values[-1] - values[0])


def test_a_counter_that_only_some_samples_have_is_still_read() -> None:
    samples = [EngineSample(at_s=t, prompt_tokens_total=v) for t, v in ((0.0, 10.0), (10.0, None), (20.0, 50.0))]
    assert rates.reading(samples).prompt_tps == 2.0
    assert rates.reading(samples[:2]).prompt_tps is None


@pytest.mark.parametrize(
    ("hits", "queries", "prompt", "ratio"),
    [
        pytest.param(30.0, 60.0, 60.0, 0.5, id="hits over look-ups"),
        pytest.param(30.0, None, 60.0, 0.5, id="hits over prompt tokens where nothing else is counted"),
        pytest.param(0.0, 0.0, 10.0, None, id="no look-ups say nothing"),
        pytest.param(None, 60.0, 60.0, None, id="no hits counted"),
        pytest.param(70.0, 60.0, 60.0, 1.0, id="never above one"),
    ],
)
def test_hit_ratio(hits: float | None, queries: float | None, prompt: float | None, ratio: float | None) -> None:
    assert rates.hit_ratio(hits, queries, prompt) == ratio
