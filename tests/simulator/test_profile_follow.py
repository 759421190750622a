"""The generator is held against the profile, and the profile against the trace it was made of."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from fleet.errors import ConfigError
from simulator.download import PUBLISHED
from simulator.profile import Profile, ProfileSource, fit, from_json, generate, to_json
from simulator.traces import committed_profile, read_requests
from simulator.workload import Plan, TimedRequest, schedule

NAME = "azure2023_conv"


@pytest.fixture(scope="module")
def profile() -> Profile:
    return committed_profile(NAME)


@pytest.fixture(scope="module")
def drawn(profile: Profile) -> NDArray[np.float64]:
    """Columns arrival, input, output of twenty hours' worth in one."""
    return columns(generate(profile, np.random.default_rng(5), rate_scale=20.0))


def columns(items: list[TimedRequest]) -> NDArray[np.float64]:
    return np.array([(item.arrival_s, item.input_tokens, item.output_tokens) for item in items])


def test_generated_rate_curve_follows_every_minute(profile: Profile, drawn: NDArray[np.float64]) -> None:
    counts = np.bincount((drawn[:, 0] // 60).astype(int), minlength=59) / 20.0
    assert len(profile.requests_per_bin) == 59
    assert counts[:58] == pytest.approx(np.array(profile.requests_per_bin[:58]), rel=0.08)
    assert len(drawn) == pytest.approx(20 * profile.samples, rel=0.01)
    assert drawn[-1, 0] <= profile.span_s


def test_generated_lengths_have_the_published_means(drawn: NDArray[np.float64]) -> None:
    assert drawn[:, 1].mean() == pytest.approx(1155, rel=0.02)
    assert drawn[:, 2].mean() == pytest.approx(211, rel=0.02)


@pytest.mark.parametrize("level", [0.05, 0.25, 0.5, 0.75, 0.9, 0.98])
def test_generated_quantiles_match(profile: Profile, drawn: NDArray[np.float64], level: float) -> None:
    kept = profile.input_tokens[profile.levels.index(level)]
    below, above = (np.mean(drawn[:, 1] < kept * (1 - 0.03)), np.mean(drawn[:, 1] <= kept * (1 + 0.03)))
    assert below <= level + 0.02 and above >= level - 0.02


def test_generated_answers_depend_on_the_prompt_as_in_the_profile(profile: Profile, drawn: NDArray[np.float64]) -> None:
    order = np.argsort(drawn[:, 1], kind="stable")
    middle = profile.levels.index(0.5)
    for kept, group in zip(profile.output_tokens, np.array_split(drawn[order, 2], 10), strict=True):
        share_below = np.mean(group <= kept[middle])
        assert share_below == pytest.approx(0.5, abs=0.1)
    assert np.corrcoef(drawn[:, 1], drawn[:, 2])[0, 1] == pytest.approx(-0.11, abs=0.02)


def test_generated_gaps_are_as_bursty_as_the_profile_says(profile: Profile) -> None:
    again = fit(generate(profile, np.random.default_rng(3)), name="again", source="", licence="", citation="")
    assert again.gap_shape == pytest.approx(profile.gap_shape, abs=0.05)


def test_replayed_profile_has_the_wanted_rate(profile: Profile) -> None:
    plan = Plan(period_s=120.0, mean_rps=13.0)
    sent = list(schedule(ProfileSource(profile=profile), plan, np.random.default_rng(1), until_s=600.0))
    assert len(sent) == pytest.approx(13 * 600, rel=0.05)


def test_same_seed_same_requests(profile: Profile) -> None:
    one, two = (generate(profile, np.random.default_rng(9), rate_scale=0.1) for _ in range(2))
    assert one == two


def test_committed_profile_is_what_the_trace_gives(traces_dir: Path) -> None:
    entry = PUBLISHED[NAME]
    trace = read_requests(traces_dir / entry.file)
    made = fit(trace, name=NAME, source=entry.source, licence=entry.licence, citation=entry.citation)
    committed = (resources.files("simulator") / "profiles" / f"{NAME}.json").read_text(encoding="utf-8")
    assert to_json(made) == committed


def test_profile_says_whose_data_it_is(profile: Profile) -> None:
    assert profile.licence == "CC-BY-4.0"
    assert "AzureLLMInferenceTrace_conv" in profile.source
    assert "Splitwise" in profile.citation
    assert (profile.samples, len(profile.requests_per_bin)) == (19_366, 59)


def test_profile_survives_its_file(profile: Profile) -> None:
    assert from_json(json.loads(to_json(profile)), where="here") == profile


@pytest.mark.parametrize(("change", "what"), [
    pytest.param({"samples": 5}, "sums to 19366", id="counts-that-do-not-add-up"),
    pytest.param({"input_tokens": [1, 2]}, "27 entries", id="quantiles-of-another-length"),
    pytest.param({"levels": "many"}, "is no profile", id="a-word-for-a-list"),
    pytest.param({"gap_shape": 0.0}, "above 0", id="no-burstiness-at-all"),
    pytest.param({"span_s": 99.0}, "do not end at span_s", id="bins-beyond-the-span"),
])  # fmt: skip
def test_broken_profile_is_one_clear_line(profile: Profile, change: dict[str, object], what: str) -> None:
    with pytest.raises(ConfigError, match=what) as caught:
        from_json(json.loads(to_json(profile)) | change, where="mine.json")
    assert str(caught.value).startswith("mine.json: ") and "\n" not in str(caught.value)


def test_incomplete_profile_names_what_is_missing() -> None:
    with pytest.raises(ConfigError, match="name"):
        from_json({}, where="mine.json")


def test_too_few_requests_make_no_profile() -> None:
    few = [TimedRequest(arrival_s=float(at), input_tokens=1, output_tokens=1) for at in range(5)]
    with pytest.raises(ConfigError, match=r"5 requests \(limit: >= 100"):
        fit(few, name="few", source="", licence="", citation="")
