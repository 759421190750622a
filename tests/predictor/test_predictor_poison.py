"""Poison never moves the served model: what is no sample is refused, what lies is bounded, clocks may jump."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from predictor import artifact
from predictor.features import NAMES
from predictor.fit import fit_once
from predictor.model import LatencyModel
from predictor.pool import Pool
from predictor.samples import Dataset, RejectedError, Sample, dataset, from_record
from predictor.server import training_sample
from predictor.versions import Versions

FLEET = (
    ("http://a:1", "h100", 1.0),
    ("http://b:1", "h100", 1.0),
    ("http://c:1", "h100", 1.2),
    ("http://d:1", "h100", 1.0),
)
LIAR = "http://d:1"

_no_number = st.sampled_from([math.nan, math.inf, -math.inf, "fast", True, [], {}, 1e300, 10**400])
_negative = st.floats(max_value=-1e-12, allow_nan=False)
_poison = st.one_of(_no_number, _negative)


def _record(sample: Sample) -> dict:
    return {"outcome": "ok", "streaming": 1, "ttft_s": sample.ttft_s, "tpot_s": sample.tpot_s,
            "endpoint": sample.endpoint, "variant": sample.variant,
            "features": dict(zip(NAMES, sample.features, strict=True))}  # fmt: skip


def _fitted(samples: list[Sample]) -> LatencyModel:
    model = fit_once(dataset(samples), now_s=0.0).model
    assert model is not None
    return model


# ---- what is no sample


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from(["ttft_s", "tpot_s", *NAMES]), _poison, min_size=1, max_size=4))
def test_a_row_with_any_poisoned_value_is_refused(changes: dict) -> None:
    features = dict.fromkeys(NAMES, 0.0) | {"input_tokens": 100.0}
    features |= {name: value for name, value in changes.items() if name in features}
    targets = {"ttft_s": 0.2, "tpot_s": 0.01} | {name: value for name, value in changes.items() if name not in features}
    with pytest.raises(RejectedError):
        from_record({"outcome": "ok", "streaming": 1, "features": features, **targets})


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from(["actual_ttft_ms", "actual_tpot_ms", "kv_cache_percentage", "input_token_length",
                                        "num_request_running", "prefix_cache_score", "prefill_tokens_in_flight"]),
                       st.one_of(st.sampled_from([math.nan, math.inf, -math.inf, "fast", [], {}, 1e300, 10**400]),
                                 _negative), min_size=1, max_size=4))  # fmt: skip
def test_a_row_over_http_with_any_poisoned_value_is_refused(changes: dict) -> None:
    row = {"kv_cache_percentage": 0.3, "input_token_length": 1000, "num_request_waiting": 0, "num_request_running": 5,
           "num_tokens_generated": 0, "prefix_cache_score": 0.5, "actual_ttft_ms": 120.0,
           "actual_tpot_ms": 9.0}  # fmt: skip
    with pytest.raises(RejectedError):
        training_sample(row | changes)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 119), st.sampled_from(["ttft_s", "tpot_s"]), _poison), max_size=60))
def test_poison_between_good_rows_leaves_the_model_to_the_last_digit(
    world, poison: list[tuple[int, str, object]]
) -> None:
    good = [_record(sample) for sample in world(120)]
    rows = [(index, 1, row) for index, row in enumerate(good)]
    rows += [(index, 0, {**good[index], name: value}) for index, name, value in poison]
    clean, mixed = Pool(1000), Pool(1000)
    clean.add_records(good)
    mixed.add_records([row for *_, row in sorted(rows, key=lambda entry: entry[:2])])
    assert mixed.samples() == clean.samples()
    assert sum(mixed.rejected.values()) == len(poison)


# ---- what could be true


def _random(rng: np.random.Generator, _true_s: float) -> float:
    return float(np.exp(rng.uniform(math.log(1e-3), math.log(300.0))))


LIES: dict[str, Callable[[np.random.Generator, float], float]] = {
    "random": _random,
    "constant-low": lambda _rng, _true_s: 1e-3,
    "constant-high": lambda _rng, _true_s: 55.0,
    "ten-times": lambda _rng, true_s: 10.0 * true_s,
    "a-clock-that-jumps": lambda rng, true_s: true_s + (30.0 if rng.random() < 0.1 else 0.0),
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_a_pod_that_lies_moves_its_own_predictions_alone(world, lie) -> None:
    rng = np.random.default_rng(7)
    samples = world(800, seed=4, endpoints=FLEET)
    lying = [replace(one, ttft_s=lie(rng, one.ttft_s), tpot_s=lie(rng, one.tpot_s)) if one.endpoint == LIAR else one
             for one in samples]  # fmt: skip
    later = dataset([one for one in world(400, seed=5, endpoints=FLEET) if one.endpoint != LIAR])
    models = [_fitted(rows) for rows in (samples, lying)]
    honest, misled = (model.predict_for(later.matrix, later.endpoints, later.variants) for model in models)
    widths = [_widths(model, later) for model in models]
    for name in ("ttft_s", "tpot_s"):
        moved = np.abs(getattr(misled, name) / getattr(honest, name) - 1.0)
        assert np.median(moved) < 0.05
        assert np.quantile(moved, 0.95) < 0.15
        assert widths[1][name] == pytest.approx(widths[0][name], rel=0.2)


def _widths(model: LatencyModel, rows: Dataset) -> dict[str, float]:
    """Mean log of upper over lower end of the 90 % intervals."""
    places = model.places(rows.endpoints, rows.variants)
    point = model.predict_at(rows.matrix, places)
    low, high = (model.quantile(rows.matrix, point, level, places) for level in (0.05, 0.95))
    return {name: float(np.log(getattr(high, name) / getattr(low, name)).mean()) for name in ("ttft_s", "tpot_s")}


def test_when_rows_were_written_does_not_matter(world) -> None:
    rows = [_record(sample) for sample in world(150)]
    rng = np.random.default_rng(3)
    jumping = [{**row, "at_s": float(rng.choice([0.0, -1e9, 1e12, math.nan]))} for row in rows]
    one, other = Pool(1000), Pool(1000)
    one.add_records(rows)
    other.add_records(jumping)
    assert one.samples() == other.samples()


def test_the_newest_fit_is_served_although_the_clock_went_back(world, tmp_path: Path) -> None:
    versions = Versions(tmp_path / "model.json")
    samples = world(120)
    for number, now_s in enumerate((2e9, 2e9 + 5, 1e9, 1e9 + 5)):
        model = fit_once(dataset(samples[: 60 + 20 * number]), now_s=now_s).model
        assert model is not None
        version = versions.publish(model)
        served = json.loads((tmp_path / "model.json").read_text())
        assert artifact.version_of(served) == version
