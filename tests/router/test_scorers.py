"""What scorers give, and the bounds and directions they keep."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.types import EngineSample
from router.scorers import (
    SCORERS,
    UNKNOWN,
    BothLatencies,
    Candidates,
    KvUtilisation,
    LeastDelay,
    LoadAware,
    PredictedLatency,
    PrefixAware,
    Queue,
    QueueThreshold,
    RunningRequests,
)
from router.types import EndpointView, InferenceRequest, Prediction


def endpoint(*, waiting=0, running=0, kv=0.0, own=0, matched=0, scraped=True):
    sample = EngineSample(at_s=0.0, waiting=waiting, running=running, kv_utilisation=kv) if scraped else None
    return EndpointView(url="u", variant="v", sample=sample, requests_in_flight=own, matched_tokens=matched)


def candidates(*endpoints, blocks=0, block_tokens=64, input_tokens=0, predictions=None):
    request = InferenceRequest(
        request_id="r",
        model="llama",
        input_tokens=input_tokens,
        block_hashes=range(blocks),
        block_tokens=block_tokens,
    )
    return Candidates(request=request, endpoints=endpoints, predictions=predictions)


def predicted(*pairs):
    return [Prediction(ttft_s=ttft, tpot_s=tpot) for ttft, tpot in pairs]


@pytest.mark.parametrize(
    ("view", "request_", "score"),
    [
        pytest.param(endpoint(matched=320), {"blocks": 10}, 0.5, id="half of the blocks"),
        pytest.param(endpoint(matched=640), {"blocks": 10, "input_tokens": 670}, 1.0, id="the tail does not count"),
        pytest.param(endpoint(), {"blocks": 10}, 0.0, id="a stranger"),
        pytest.param(endpoint(), {"blocks": 0}, 0.0, id="an empty prompt"),
        pytest.param(endpoint(matched=50), {"input_tokens": 200}, 0.25, id="an exact match without blocks"),
        pytest.param(endpoint(matched=999), {"input_tokens": 200}, 1.0, id="never above all"),
        pytest.param(endpoint(matched=64, scraped=False), {"blocks": 1}, 1.0, id="needs no scrape"),
    ],
)
def test_prefix_aware(view, request_, score):
    assert PrefixAware()(candidates(view, **request_)) == [score]


@pytest.mark.parametrize(
    ("scorer", "blocks"),
    [
        pytest.param(PrefixAware(), 2048, id="the defaults agree"),
        pytest.param(PrefixAware(max_tokens=4096), 64, id="the limit in tokens is the tighter"),
        pytest.param(PrefixAware(max_blocks=256), 256, id="the limit in blocks is the tighter"),
        pytest.param(PrefixAware(max_tokens=1), 1, id="never below one block"),
    ],
)
def test_hashed_blocks(scorer, blocks):
    assert scorer.hashed_blocks == blocks


@pytest.mark.parametrize(
    ("view", "score"),
    [
        pytest.param(endpoint(), 1.0, id="an idle engine"),
        pytest.param(endpoint(waiting=25), 1 - 0.7 * 0.5 - 0.3 * 25 / 128, id="half a queue"),
        pytest.param(endpoint(waiting=50, running=200), 0.0, id="full"),
        pytest.param(endpoint(waiting=500, running=900), 0.0, id="beyond full"),
        pytest.param(endpoint(running=64, own=64), 0.85, id="a running batch costs its part"),
        pytest.param(endpoint(own=10), 1 - 0.7 * 0.2 - 0.3 * 10 / 128, id="what the scrape misses counts as queued"),
        pytest.param(endpoint(waiting=3, running=7, own=4), 1 - 0.7 * 3 / 50 - 0.3 * 10 / 128, id="others send too"),
        pytest.param(endpoint(scraped=False), UNKNOWN, id="never scraped is unknown, not idle"),
        pytest.param(endpoint(scraped=False, own=50), 1 - 0.7 - 0.3 * 50 / 128, id="and less with our own load on it"),
    ],
)
def test_load_aware(view, score):
    assert LoadAware()(candidates(view)) == pytest.approx([score])


def test_load_weights_are_relative_to_their_sum():
    view = candidates(endpoint(waiting=25))
    assert LoadAware(queue_weight=7, active_weight=3)(view) == pytest.approx(LoadAware()(view))
    assert LoadAware(queue_weight=0, active_weight=0)(view) == [UNKNOWN]


@pytest.mark.parametrize(
    ("scorer", "views", "scores"),
    [
        pytest.param(
            Queue(), [endpoint(waiting=0), endpoint(waiting=5), endpoint(waiting=10)], [1, 0.5, 0], id="queues"
        ),
        pytest.param(Queue(), [endpoint(waiting=7), endpoint(waiting=7)], [1, 1], id="equal queues"),
        pytest.param(
            Queue(), [endpoint(waiting=7), endpoint(scraped=False), endpoint()], [0, UNKNOWN, 1], id="one unknown queue"
        ),
        pytest.param(RunningRequests(), [endpoint(running=4), endpoint(running=8)], [1, 0], id="batches"),
        pytest.param(RunningRequests(), [endpoint(scraped=False)], [UNKNOWN], id="an unknown batch"),
        pytest.param(
            QueueThreshold(threshold=10),
            [endpoint(), endpoint(waiting=5), endpoint(waiting=99), endpoint(scraped=False)],
            [0.5, 0.25, 0, 0.25],
            id="queue against a threshold",
        ),
        pytest.param(
            KvUtilisation(),
            [endpoint(kv=0.3), endpoint(kv=None), endpoint(scraped=False)],
            [0.7, UNKNOWN, UNKNOWN],
            id="free cache",
        ),
    ],
)
def test_metric_scorers(scorer, views, scores):
    assert scorer(candidates(*views)) == pytest.approx(scores)


PAIRS = predicted((0.1, 0.04), (0.2, 0.02), (0.4, 0.02))
THREE = (endpoint(), endpoint(), endpoint())


@pytest.mark.parametrize(
    ("scorer", "predictions", "scores"),
    [
        pytest.param(PredictedLatency(), PAIRS, [1, 0.5, 0.25], id="ttft against the best"),
        pytest.param(PredictedLatency(target_metric="tpot"), PAIRS, [0.5, 1, 1], id="tpot against the best"),
        pytest.param(PredictedLatency(), None, [UNKNOWN] * 3, id="a cold model is neutral"),
        pytest.param(BothLatencies(), PAIRS, [0.9, 0.6, 0.4], id="both, four to one"),
        pytest.param(BothLatencies(), None, [UNKNOWN] * 3, id="both, cold"),
        pytest.param(BothLatencies(ttft_weight=0, tpot_weight=0), PAIRS, [UNKNOWN] * 3, id="both, weightless"),
        pytest.param(
            PredictedLatency(),
            predicted((math.nan, 0), (0.1, 0), (math.inf, 0)),
            [0, 1, 0],
            id="no number is endless",
        ),
        pytest.param(
            PredictedLatency(),
            predicted((math.nan, 0), (math.nan, 0), (math.nan, 0)),
            [UNKNOWN] * 3,
            id="no number anywhere is neutral",
        ),
        pytest.param(
            PredictedLatency(),
            predicted((0.0, 0), (-1.0, 0), (0.0002, 0)),
            [1, 1, 0.5],
            id="nothing is faster than a tenth of a millisecond",
        ),
    ],
)
def test_predicted_latency(scorer, predictions, scores):
    assert scorer(candidates(*THREE, predictions=predictions)) == pytest.approx(scores)


def test_an_endpoint_never_scraped_is_not_predicted_idle():
    """Its features read 0, so the model would call it the fastest."""
    views = candidates(endpoint(scraped=False), endpoint(), predictions=predicted((0.001, 0), (0.2, 0)))
    assert PredictedLatency()(views) == [UNKNOWN, 1.0]


def test_predictions_must_be_one_for_each_candidate():
    with pytest.raises(ValueError, match="shorter"):
        PredictedLatency()(candidates(*THREE, predictions=PAIRS[:2]))


def test_only_latency_scorers_ask_for_predictions():
    asking = {plugin.kind for plugin in SCORERS.values() if plugin.kind.predicts}
    assert asking == {PredictedLatency, BothLatencies, LeastDelay}


counts = st.none() | st.integers(0, 400)
views = st.builds(
    endpoint,
    waiting=counts,
    running=counts,
    kv=st.none() | st.floats(0, 1),
    own=st.integers(0, 300),
    matched=st.integers(0, 2000),
    scraped=st.booleans(),
)
latencies = st.builds(Prediction, ttft_s=st.floats(), tpot_s=st.floats())


@given(st.lists(st.tuples(views, latencies), min_size=1, max_size=6), st.sampled_from(sorted(SCORERS)), st.booleans())
def test_scores_are_ratios(pairs, name, cold):
    scorer = SCORERS[name].kind(**SCORERS[name].preset)
    predictions = None if cold else [prediction for _, prediction in pairs]
    scores = scorer(candidates(*(view for view, _ in pairs), blocks=10, predictions=predictions))
    assert len(scores) == len(pairs)
    assert all(-1e-9 <= score <= 1.0 + 1e-9 for score in scores)


load_scorers = st.sampled_from([LoadAware(), QueueThreshold(), LoadAware(max_queue_length=5, max_active_requests=9)])


@given(load_scorers, st.integers(0, 200), st.integers(0, 200), st.integers(0, 200), st.integers(1, 100))
def test_more_load_never_raises_a_load_score(scorer, waiting, running, own, more):
    (base,) = scorer(candidates(endpoint(waiting=waiting, running=running, own=own)))
    (queued,) = scorer(candidates(endpoint(waiting=waiting + more, running=running, own=own)))
    (sent,) = scorer(candidates(endpoint(waiting=waiting, running=running, own=own + more)))
    assert queued <= base + 1e-9
    assert sent <= base + 1e-9


@given(st.integers(0, 200), st.integers(1, 100))
def test_more_of_our_own_load_never_raises_the_score_of_an_unknown_endpoint(own, more):
    (base,) = LoadAware()(candidates(endpoint(scraped=False, own=own)))
    (sent,) = LoadAware()(candidates(endpoint(scraped=False, own=own + more)))
    assert sent <= base <= UNKNOWN


@given(st.floats(0.001, 10), st.floats(0.001, 10), st.floats(0.001, 10))
def test_a_slower_prediction_never_scores_more(best, other, more):
    views = candidates(endpoint(), endpoint(), predictions=predicted((best, 0), (other, 0)))
    slower = Candidates(views.request, views.endpoints, predicted((best, 0), (other + more, 0)))
    assert PredictedLatency()(slower)[1] <= PredictedLatency()(views)[1]


@given(st.integers(0, 640), st.integers(0, 640))
def test_a_longer_match_never_scores_less(one, two):
    low, high = PrefixAware()(candidates(endpoint(matched=min(one, two)), endpoint(matched=max(one, two)), blocks=10))
    assert low <= high
