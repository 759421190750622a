"""What becomes a sample; poisoned rows are refused one by one with their reason and never move a model."""

from __future__ import annotations

import math

import pytest

from predictor.features import NAMES
from predictor.fit import fit_once
from predictor.pool import Pool
from predictor.samples import RejectedError, Rejection, dataset, from_record

FEATURES = dict.fromkeys(NAMES, 0.0) | {"input_tokens": 100.0}
RECORD = {
    "outcome": "ok",
    "streaming": 1,
    "ttft_s": 0.2,
    "tpot_s": 0.01,
    "endpoint": "http://a:1",
    "variant": "h100",
    "predicted_ttft_s": 0.1,
    "predicted_tpot_s": None,
    "features": FEATURES,
}

POISON = [
    pytest.param({"outcome": "error"}, Rejection.OUTCOME, id="an-engine-that-failed"),
    pytest.param({"streaming": 0}, Rejection.NOT_STREAMING, id="not-streamed"),
    pytest.param({"ttft_s": None}, Rejection.NO_TARGET, id="first-token-never-seen"),
    pytest.param({"ttft_s": 0.0, "tpot_s": None}, Rejection.NO_TARGET, id="no-target-above-zero"),
    pytest.param({"ttft_s": math.nan}, Rejection.NOT_A_NUMBER, id="ttft-nan"),
    pytest.param({"ttft_s": math.inf}, Rejection.NOT_A_NUMBER, id="ttft-infinite"),
    pytest.param({"ttft_s": "fast"}, Rejection.NOT_A_NUMBER, id="ttft-is-text"),
    pytest.param({"ttft_s": -0.1}, Rejection.NEGATIVE, id="a-clock-that-jumped-back"),
    pytest.param({"ttft_s": 601.0}, Rejection.ABSURD, id="a-clock-that-jumped-ahead"),
    pytest.param({"tpot_s": 61.0}, Rejection.ABSURD, id="a-minute-a-token"),
    pytest.param({"tpot_s": -1e-9}, Rejection.NEGATIVE, id="negative-tpot"),
    pytest.param({"features": {}}, Rejection.MISSING_FEATURES, id="no-features"),
    pytest.param({"features": None}, Rejection.MISSING_FEATURES, id="features-are-null"),
    pytest.param({"features": {**FEATURES, "waiting": None}}, Rejection.MISSING_FEATURES, id="one-is-null"),
    pytest.param({"features": {**FEATURES, "waiting": math.nan}}, Rejection.NOT_A_NUMBER, id="a-feature-is-nan"),
    pytest.param({"features": {**FEATURES, "waiting": True}}, Rejection.NOT_A_NUMBER, id="a-feature-is-a-flag"),
    pytest.param({"features": {**FEATURES, "waiting": -1.0}}, Rejection.NEGATIVE, id="a-feature-is-negative"),
    pytest.param({"features": {**FEATURES, "input_tokens": 1e9}}, Rejection.ABSURD, id="a-billion-tokens"),
    pytest.param({"features": {**FEATURES, "kv_utilisation": 3.0}}, Rejection.ABSURD, id="kv-above-one"),
]


@pytest.mark.parametrize(("change", "reason"), POISON)
def test_refused_with_its_reason(change: dict, reason: Rejection) -> None:
    with pytest.raises(RejectedError) as caught:
        from_record({**RECORD, **change})
    assert caught.value.reason is reason


def test_a_good_row_becomes_a_sample() -> None:
    sample = from_record(RECORD)
    assert sample.features[NAMES.index("input_tokens")] == 100
    assert (sample.ttft_s, sample.tpot_s, sample.endpoint, sample.variant) == (0.2, 0.01, "http://a:1", "h100")
    assert (sample.predicted_ttft_s, sample.predicted_tpot_s) == (0.1, None)


@pytest.mark.parametrize("tpot", [pytest.param(None, id="one-token"), pytest.param(0, id="zero-means-not-observed")])
def test_a_row_may_carry_one_target(tpot: float | None) -> None:
    assert from_record({**RECORD, "tpot_s": tpot}).tpot_s is None


@pytest.mark.parametrize("outcome", ["aborted", "timeout"])
def test_given_up_before_the_first_token_is_a_lower_bound(outcome: str) -> None:
    sample = from_record({**RECORD, "outcome": outcome, "ttft_s": None, "e2e_s": 4.5})
    assert (sample.ttft_s, sample.tpot_s, sample.censored) == (4.5, None, True)
    assert dataset([sample]).observed("ttft").tolist() == [False]


def test_given_up_after_the_first_token_is_a_sample_like_any_other() -> None:
    sample = from_record({**RECORD, "outcome": "aborted", "e2e_s": 4.5, "output_tokens": 40})
    assert (sample.ttft_s, sample.tpot_s, sample.censored) == (0.2, 0.01, False)
    assert sample.output_tokens is None


def test_more_cached_than_sent_is_cut() -> None:
    sample = from_record({**RECORD, "features": {**FEATURES, "cached_tokens": 500.0}})
    assert sample.features[NAMES.index("cached_tokens")] == 100


def test_a_mad_prediction_is_ignored_not_the_row() -> None:
    assert from_record({**RECORD, "predicted_ttft_s": math.nan}).predicted_ttft_s is None


def _record(sample) -> dict:
    features = dict(zip(NAMES, sample.features, strict=True))
    return {**RECORD, "ttft_s": sample.ttft_s, "tpot_s": sample.tpot_s, "features": features,
            "endpoint": sample.endpoint, "variant": sample.variant}  # fmt: skip


def test_poison_never_moves_the_model(world) -> None:
    good = [_record(sample) for sample in world(200)]
    bad = [{**RECORD, **parameter.values[0]} for parameter in POISON]
    clean, mixed = Pool(1000), Pool(1000)
    assert clean.add_records(good) == 200
    assert mixed.add_records([row for i, row in enumerate(good) for row in (row, bad[i % len(bad)])]) == 200
    assert sum(mixed.rejected.values()) == 200
    one, other = (fit_once(dataset(pool.samples()), now_s=0.0).model for pool in (clean, mixed))
    assert one is not None
    assert other is not None
    assert one.ttft.shared.tolist() == other.ttft.shared.tolist()
    assert dict(one.tpot.scales) == dict(other.tpot.scales)
