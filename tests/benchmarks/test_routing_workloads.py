"""What arrives when, and what of it is shared."""

from __future__ import annotations

import itertools
import os
from collections import Counter

import numpy as np
import pytest

from benchmarks.routing import catalog
from benchmarks.routing.prompts import Text, recorded_hashes, router_hashes, words
from benchmarks.routing.run import config_of
from benchmarks.routing.workloads import LADDER, SCENARIOS, Fleet, Slo, ladder, poisson_seconds, scenario, trace
from fleet.errors import ConfigError
from router.prefix import PrefixIndex
from simulator.workload import TimedRequest


def test_the_published_ladder():
    made = ladder(1)
    assert [(stage.rate_rps, stage.duration_s) for stage in made.stages] == [(15, 50), *LADDER]
    assert [stage.warm_up for stage in made.stages] == [True] + [False] * 16
    assert [len(stage.asks) for stage in made.stages] == [
        int(rate * duration) for rate, duration in [(15, 50), *LADDER]
    ]
    requests = [ask.request for stage in made.stages for ask in stage.asks]
    assert {(one.prompt_tokens, one.output_tokens) for one in requests} == {(7576, 1000)}
    assert made.counted * 1000 == 942


def test_the_ladder_shares_system_prompts_and_repeats_its_order():
    """750 prompts in 150 groups; the warm-up sends each once, every stage starts over."""
    made = ladder(1, [(10, 5)])
    first, second = ([ask.request.block_hashes for ask in stage.asks] for stage in made.stages)
    assert len(set(first)) == 750
    assert len({hashes[0] for hashes in first}) == len({hashes[6312 // 16 - 1] for hashes in first}) == 150
    assert second == first[:50]


def test_a_seed_is_a_workload():
    assert ladder(3, [(3, 2)]) == ladder(3, [(3, 2)]) != ladder(4, [(3, 2)])


def test_arrivals_fill_each_second_with_a_poisson_count():
    times = list(itertools.takewhile(lambda at_s: at_s < 400, poisson_seconds(20.0, np.random.default_rng(1))))
    assert times == sorted(times)
    counts = Counter(int(np.ceil(at_s)) for at_s in times)
    values = [counts[second] for second in range(1, 400)]
    assert np.mean(values) == pytest.approx(20, rel=0.05)
    assert np.var(values) == pytest.approx(20, rel=0.25)


@pytest.mark.parametrize("name", SCENARIOS)
def test_scenarios_have_the_published_shape(name):
    spec, made = SCENARIOS[name], scenario(name, 1)
    for stage in made.stages:
        first_turns = {}
        for ask in stage.asks:
            first_turns.setdefault(ask.session, ask.request)
        lengths = {one.prompt_tokens for one in first_turns.values()}
        assert lengths == {spec.shape.system_tokens + spec.shape.question_tokens}
        assert {session // spec.shape.prompts for session in first_turns} <= set(range(spec.shape.groups))


def test_a_turn_carries_the_conversation_so_far():
    made = scenario("C", 2)
    turns = [ask.request for ask in made.stages[1].asks if ask.session == made.stages[1].asks[0].session]
    assert len(turns) == 2
    first, second = turns
    assert second.prompt_tokens == first.prompt_tokens + 1000 + 1200
    answer_blocks = (first.prompt_tokens + 1000) // 16
    assert second.block_hashes[: len(first.block_hashes)] == first.block_hashes
    text = Text(count=first.prompt_tokens, hashes=first.block_hashes, tail=first.tail).answered(1000)
    assert second.block_hashes[:answer_blocks] == text.hashes


# ---- prompts


def test_a_text_hashes_alike_however_it_is_put_together():
    rng = np.random.default_rng(1)
    whole, parts = words(100, rng), Text()
    for start in range(0, 400, 28):
        parts = parts.then(whole[start : start + 28])
    assert parts == Text().then(whole)
    assert (parts.count, len(parts.hashes), len(parts.tail)) == (100, 6, 16)


def test_the_router_sees_every_fourth_block():
    text = Text().then(words(640, np.random.default_rng(1)))
    assert router_hashes(text.hashes) == text.hashes[3::4]
    index = PrefixIndex()
    index.record("u", router_hashes(text.hashes))
    longer = text.then(words(100, np.random.default_rng(2)))
    assert index.match(router_hashes(longer.hashes), ["u"]) == {"u": 10}


@pytest.mark.parametrize(
    ("request_", "blocks"),
    [
        pytest.param(TimedRequest(arrival_s=0, input_tokens=1000, output_tokens=1), 0, id="nothing is shared"),
        pytest.param(
            TimedRequest(arrival_s=0, input_tokens=1000, output_tokens=1, hash_ids=(3, 8)), 62, id="512-token blocks"
        ),
        pytest.param(
            TimedRequest(arrival_s=0, input_tokens=1000, output_tokens=1, prefix_id=2, prefix_tokens=330),
            20,
            id="a system prompt",
        ),
    ],
)
def test_recorded_requests_share_what_they_say(request_, blocks):
    hashes = recorded_hashes(request_)
    assert len(hashes) == len(set(hashes)) == blocks
    assert recorded_hashes(request_) == hashes


def test_equal_leading_ids_are_equal_leading_blocks():
    one, two = (
        recorded_hashes(TimedRequest(arrival_s=0, input_tokens=1536, output_tokens=1, hash_ids=ids))
        for ids in ((0, 1, 2), (0, 1, 9))
    )
    assert one[:64] == two[:64]
    assert not set(one[64:]) & set(two[64:])


def test_a_request_too_long_for_the_engines_is_left_out():
    requests = [TimedRequest(arrival_s=0, input_tokens=size, output_tokens=10) for size in (100, 5000)]
    made = trace(requests, name="t", what="", slo=Slo(ttft_s=1, tpot_s=1), span_s=2.0, fleet=Fleet(), limit_tokens=1000)
    assert [ask.request.prompt_tokens for ask in made.stages[0].asks] == [100]


# ---- by name and by file


@pytest.mark.parametrize("name", catalog.DEFAULT)
def test_default_workloads_can_be_had(name, traces_dir):
    make, where = catalog.find(name, [traces_dir])
    made = make(1)
    assert (made.name, bool(where)) == (name, True)
    assert all(stage.asks for stage in made.stages)


def test_without_the_trace_its_committed_profile_is_followed_and_said():
    make, where = catalog.find("azure2023_conv", [])
    assert where.startswith("profile")
    assert len(make(1).stages[0].asks) > 1000


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("arrival_s,input_tokens,output_tokens\n0.5,100,10\n1.0,200,20\n", id="request CSV"),
        pytest.param(
            '{"timestamp": 500, "input_length": 600, "output_length": 9, "hash_ids": [0, 1]}\n', id="Mooncake"
        ),
        pytest.param('{"arrival_s": 1, "input_tokens": 60, "output_tokens": 9}\n', id="recorded"),
        pytest.param("t_s,rps\n0,5\n10,5\n20,5\n", id="rate curve"),
    ],
)
def test_any_workload_file(tmp_path, text):
    path = tmp_path / f"load.{'csv' if ',' in text.splitlines()[0] and text[0] != '{' else 'jsonl'}"
    path.write_text(text, encoding="utf-8")
    make, _ = catalog.find(str(path), [])
    assert make(1).stages[0].asks


@pytest.mark.parametrize(
    ("name", "words_"),
    [
        pytest.param("no_such_trace", "no profile", id="an unknown name"),
        pytest.param(f"missing{os.sep}file.csv", "no such trace file", id="a missing file"),
    ],
)
def test_what_cannot_be_had_is_one_clear_line(name, words_):
    with pytest.raises(ConfigError, match=words_):
        catalog.find(name, [])


def test_too_large_a_trace_is_refused_with_the_number(tmp_path):
    path = tmp_path / "week.csv"
    path.write_text("t_s,rps\n0,900\n300,900\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="540,000 requests"):
        catalog.find(str(path), [])
    assert catalog.find(str(path), [], scale=0.001)[0](1).stages[0].asks


def test_scale_multiplies_the_rate():
    one, half = (catalog.find("scenario-D", [], scale=scale)[0](1) for scale in (1.0, 0.5))
    assert half.stages[0].rate_rps == one.stages[0].rate_rps / 2
    assert len(half.stages[0].asks) == len(one.stages[0].asks) // 2


def test_the_report_of_2025_is_the_ladder_on_its_own_engines():
    make, _ = catalog.find(catalog.CAPACITY, [])
    made, published = make(1), ladder(1)
    assert made.name == "73-capacity"
    assert made.stages == published.stages
    assert config_of(made.fleet).blocks * 16 == 307_328 < config_of(published.fleet).blocks * 16
    groups, system, questions = 150, 6000, 5 * 1200
    assert groups * (system + questions) / (8 * 307_328) == pytest.approx(0.732, abs=0.001)


def test_a_workload_that_is_nowhere_is_told_in_this_commands_words(tmp_path):
    with pytest.raises(ConfigError, match="ladder") as caught:
        catalog.find("nowhere", [tmp_path])
    assert "--trace " not in str(caught.value)
    with pytest.raises(ConfigError, match="--workload"):
        catalog.find(str(tmp_path / "none.csv"), [])
