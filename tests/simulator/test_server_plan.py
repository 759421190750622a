"""Where answers end: laws, stops and what a stream shows, by properties."""

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.errors import ConfigError
from simulator import tokens
from simulator.answer_plan import DEFAULT_LAW, LengthLaw, Stops, make_plan, parse_law
from simulator.tokens import BYTES_PER_TOKEN, OUTPUT_TOKENS

STOPS = st.builds(
    Stops,
    strings=st.lists(st.sampled_from(["dog", "\n\n", ". ", "zebra", " The old", "e", "?"]), max_size=3),
    ids=st.frozensets(st.sampled_from(tokens.unpack(tokens.output(64))), max_size=2),
    keep=st.booleans(),
    min_tokens=st.integers(0, 80),
)


def test_every_word_is_one_token() -> None:
    assert {len(text.encode()) for text in OUTPUT_TOKENS} == {BYTES_PER_TOKEN}


@given(limit=st.integers(1, 300), natural=st.none() | st.integers(2, 400), stops=STOPS)
def test_an_answer_stays_within_its_bounds(limit: int, natural: int | None, stops: Stops) -> None:
    plan = make_plan(limit, natural, stops)
    assert 1 <= plan.tokens <= limit
    assert plan.tokens >= min(limit, stops.min_tokens)
    assert plan.finish_reason == "stop" or plan.tokens == limit
    assert tokens.output(plan.tokens).decode().startswith(plan.text())


@given(limit=st.integers(1, 300), natural=st.none() | st.integers(2, 400), stops=STOPS)
def test_a_stream_shows_the_whole_text_once_and_never_a_stop_string(
    limit: int, natural: int | None, stops: Stops
) -> None:
    plan = make_plan(limit, natural, stops)
    shown = [plan.shown(count) for count in range(plan.tokens + 1)]
    assert shown == sorted(shown)
    assert (shown[0], shown[-1]) == (0, len(plan.text()))
    if plan.stop_reason in stops.strings and not stops.keep and not stops.min_tokens:
        assert str(plan.stop_reason) not in plan.text()


@given(limit=st.integers(1, 200), stops=STOPS)
def test_ending_by_itself_never_makes_an_answer_longer(limit: int, stops: Stops) -> None:
    longest = make_plan(limit, None, stops).tokens
    assert all(make_plan(limit, natural, stops).tokens <= longest for natural in range(2, 220, 7))


def test_the_default_law_has_the_median_that_it_names() -> None:
    law = parse_law(DEFAULT_LAW, seed=1)
    lengths = [law.tokens(str(number).encode(), seed=None, choice=0) for number in range(4_000)]
    drawn = [length for length in lengths if length is not None]
    assert statistics.median(drawn) == pytest.approx(256, rel=0.06)
    assert statistics.mean(drawn) == pytest.approx(327, rel=0.06)  # 256 * exp(0.7 ** 2 / 2)
    assert min(drawn) >= 2


def test_lengths_depend_on_prompt_seed_and_choice_alone() -> None:
    law = LengthLaw(median=200.0, sigma=1.0, seed=5)
    first = law.tokens(b"prompt__", seed=None, choice=0)
    assert first == law.tokens(b"prompt__", seed=None, choice=0)
    others = {law.tokens(b"another_", seed=None, choice=0), law.tokens(b"prompt__", seed=7, choice=0),
              law.tokens(b"prompt__", seed=None, choice=1),
              LengthLaw(median=200.0, sigma=1.0, seed=6).tokens(b"prompt__", seed=None, choice=0)}  # fmt: skip
    assert first not in others
    assert len(others) == 4


@pytest.mark.parametrize(
    ("text", "length"),
    [pytest.param("fixed:12", 12, id="fixed"), pytest.param("none", None, id="never"),
     pytest.param("lognormal:50,0", 50, id="without-spread")],
)  # fmt: skip
def test_laws_are_read(text: str, length: int | None) -> None:
    assert parse_law(text, seed=0).tokens(b"x", seed=None, choice=0) == length


@pytest.mark.parametrize("text", ["", "fixed", "fixed:0", "fixed:a", "lognormal:1", "lognormal:9,-1", "none:1", "x:1"])
def test_other_laws_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is no law of answer lengths"):
        parse_law(text, seed=0)
