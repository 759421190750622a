"""What ties a request to an endpoint: adapters, sessions, labels, cached prefixes, distance, limits of latency."""

from __future__ import annotations

import pytest

from fleet.types import EngineSample
from router.affinity import ContextLength, LoraAware, NetworkDistance, NoHitLru, SessionAffinity, Topology
from router.filters import AdapterRoom, Labels, PrefixAffinity, Session, Utilisation
from router.latency import BothLatencies, PredictedLatency
from router.scorers import ActiveRequests, TokenLoad
from router.scoring import UNKNOWN, Candidates
from router.types import EndpointView, InferenceRequest, Prediction


def request(**fields):
    return InferenceRequest(**{"request_id": "r", "model": "m", "input_tokens": 1000, **fields})


def endpoint(url="a", *, adapters=(), slots=4, waiting=0, running=0, kv=0.0, scraped=True, **fields):
    sample = EngineSample(at_s=0.0, waiting=waiting, running=running, kv_utilisation=kv) if scraped else None
    return EndpointView(
        url=url, variant="v", sample=sample, adapters=frozenset(adapters), adapter_slots=slots, **fields
    )  # fmt: skip


def scores(scorer, asked, *endpoints, predictions=None):
    return scorer(Candidates(request=asked, endpoints=endpoints, predictions=predictions))


def kept(filter_, asked, *endpoints):
    return [one.url for one in filter_(asked, endpoints).kept]


LORA = request(adapter="sql")


@pytest.mark.parametrize(
    ("one", "score"),
    [
        pytest.param(endpoint(adapters=["sql"]), 1.0, id="loaded"),
        pytest.param(endpoint(adapters=["x"], slots=2), 0.5, id="a free slot, and it is loaded nowhere"),
        pytest.param(endpoint(adapters=["x", "y"], slots=2), 0.0, id="another would be swapped out"),
        pytest.param(endpoint(slots=None), 0.25, id="slots not known"),
    ],
)
def test_lora_aware(one, score):
    assert scores(LoraAware(), LORA, one) == [score]


def test_a_request_for_the_base_model_has_no_adapter_to_find():
    assert scores(LoraAware(), request(), endpoint(), endpoint("b", adapters=["sql"])) == [1.0, 1.0]
    assert kept(AdapterRoom(), request(), endpoint(), endpoint("b", adapters=["sql"])) == ["a", "b"]


def test_the_more_endpoints_have_an_adapter_the_less_a_free_slot_draws_it():
    """Against a stampede that loads one adapter everywhere."""
    loaded = [endpoint(name, adapters=["sql"]) for name in "bcd"]
    assert scores(LoraAware(), LORA, endpoint(), *loaded[:1])[0] == 0.5
    assert scores(LoraAware(), LORA, endpoint(), *loaded)[0] == pytest.approx(0.5 / 3)


def test_an_adapter_loaded_nowhere_has_one_home_that_others_joining_rarely_move():
    homes = []
    for count in (8, 9):
        found = scores(LoraAware(), LORA, *[endpoint(f"http://pod-{index}") for index in range(count)])
        assert sorted(found)[-2:] == [0.25, 0.5]
        homes.append(found.index(0.5))
    assert homes[1] in (homes[0], 8)


@pytest.mark.parametrize(
    ("endpoints", "names"),
    [
        pytest.param([endpoint(adapters=["sql"]), endpoint("b")], ["a"], id="loaded wins"),
        pytest.param([endpoint(adapters=["x"], slots=1), endpoint("b")], ["b"], id="then a free slot"),
        pytest.param([endpoint(adapters=["x"], slots=1)], ["a"], id="then any"),
        pytest.param([endpoint(slots=None), endpoint("b", adapters=["x"], slots=1)], ["a"], id="not known may be free"),
    ],
)
def test_adapter_room(endpoints, names):
    assert kept(AdapterRoom(), LORA, *endpoints) == names


def test_a_session_goes_where_it_was_while_that_is_a_candidate():
    here, gone = request(session="s", session_url="b"), request(session="s", session_url="gone")
    assert kept(Session(), here, endpoint(), endpoint("b")) == ["b"]
    assert kept(Session(), gone, endpoint(), endpoint("b")) == ["a", "b"]
    assert kept(Session(), request(session="new"), endpoint(), endpoint("b")) == ["a", "b"]
    assert scores(SessionAffinity(), here, endpoint(), endpoint("b")) == [0.0, 1.0]
    assert scores(SessionAffinity(), request(), endpoint(), endpoint("b")) == [0.0, 0.0]


@pytest.mark.parametrize(
    ("filter_", "names"),
    [
        pytest.param(Labels(match_labels={"gpu": "h100"}), ["a"], id="a label's value"),
        pytest.param(Labels(label="gpu", valid_values=("h100", "l4")), ["a", "b"], id="one of some values"),
        pytest.param(Labels(label="gpu", valid_values=("l4",), allows_no_label=True), ["b", "c"], id="or none"),
        pytest.param(Labels(label="gpu"), ["a", "b"], id="any value"),
        pytest.param(Labels(), ["a", "b", "c"], id="nothing asked"),
    ],
)
def test_labels(filter_, names):
    endpoints = endpoint(labels={"gpu": "h100"}), endpoint("b", labels={"gpu": "l4"}), endpoint("c")
    assert kept(filter_, request(), *endpoints) == names


@pytest.mark.parametrize(
    ("metric", "value"), [("running-requests", 8), ("waiting-queue", 3), ("kv-cache-utilization", 0.5)]
)
def test_utilisation_turns_away_what_is_above(metric, value):
    busy = endpoint(waiting=4, running=9, kv=0.6)
    unknown = endpoint("b", scraped=False)
    assert kept(Utilisation(conditions=((metric, value),)), request(), busy, unknown) == ["b"]
    assert kept(Utilisation(conditions=((metric, 9),)), request(), busy) == ["a"]


def test_utilisation_counts_our_own_requests_and_may_keep_all():
    busy, strict = endpoint(requests_in_flight=9), (("active-requests", 8.0),)
    assert kept(Utilisation(conditions=strict), request(), busy) == []
    assert kept(Utilisation(conditions=strict, fallback_on_empty=True), request(), busy) == ["a"]


@pytest.mark.parametrize(
    ("warm", "cold", "names"),
    [
        pytest.param({"matched_tokens": 900}, {}, ["a"], id="most of the prompt is there"),
        pytest.param({"matched_tokens": 700}, {}, ["a", "b"], id="too little of it"),
        pytest.param({"matched_tokens": 900, "prefill_tokens_in_flight": 200_000}, {}, ["a"], id="a queue in bounds"),
        pytest.param(
            {"matched_tokens": 900, "prefill_tokens_in_flight": 300_000}, {}, ["a", "b"], id="saturated: all may"
        ),
        pytest.param(
            {"matched_tokens": 900, "prefill_tokens_in_flight": 300_000},
            {"prefill_tokens_in_flight": 100_000},
            ["a"],
            id="the others are as busy",
        ),
    ],
)
def test_sticky_until_saturated(warm, cold, names):
    assert kept(PrefixAffinity(), request(), endpoint(**warm), endpoint("b", **cold)) == names


def test_exploration_ignores_affinity_as_often_as_it_is_asked_to():
    explores, warm = PrefixAffinity(exploration=0.1), endpoint(matched_tokens=1000)
    assert kept(explores, request(chance=0.09), warm, endpoint("b")) == ["a", "b"]
    assert kept(explores, request(chance=0.11), warm, endpoint("b")) == ["a"]


def test_cold_prompts_go_where_the_last_one_is_longest_ago():
    never, old, new = endpoint(), endpoint("b", last_cold=3), endpoint("c", last_cold=7)
    assert scores(NoHitLru(), request(), never, old, new) == [1.0, 0.5, 0.0]
    assert scores(NoHitLru(), request(), never, endpoint("b"), new) == [1.0, 1.0, 0.0]
    assert scores(NoHitLru(), request(), endpoint(matched_tokens=64), old) == [UNKNOWN, UNKNOWN]


def test_network_distance_is_relative_to_the_nearest_and_blind_to_noise():
    near, far, strange = endpoint(distance_s=0.0004), endpoint("b", distance_s=0.008), endpoint("c")
    assert scores(NetworkDistance(), request(), near, far, strange) == [1.0, 0.25, UNKNOWN]
    assert scores(NetworkDistance(), request(), near, endpoint("b", distance_s=0.0018)) == [1.0, 1.0]


def test_topology_scores_the_nearest_place_shared():
    own = {"kubernetes.io/hostname": "n1", "topology.kubernetes.io/zone": "z1"}
    same_host, same_zone = endpoint(labels=own), endpoint("b", labels={"topology.kubernetes.io/zone": "z1"})
    assert scores(Topology(own=own), request(), same_host, same_zone, endpoint("c")) == [1.0, 0.05, 0.0]


def test_context_length():
    fits, long, bad = (
        endpoint(labels={"llm-d.ai/context-length-range": text}) for text in ("0-2000", "4000-9000", "x")
    )
    assert scores(ContextLength(), request(max_tokens=500), fits, long, bad, endpoint()) == [1.0, 0.0, UNKNOWN, UNKNOWN]


def test_token_load_and_active_requests():
    idle, busy = endpoint(), endpoint("b", prefill_tokens_in_flight=1_048_576, requests_in_flight=10)
    assert scores(TokenLoad(), request(), idle, busy) == [1.0, 0.75]
    assert scores(TokenLoad(threshold=100), request(), busy) == [0.0]
    assert scores(ActiveRequests(), request(), idle, busy, endpoint("c", requests_in_flight=5)) == [1.0, 0.0, 0.5]
    assert scores(ActiveRequests(idle_threshold=5, max_busy_score=0.8), request(), busy,
                  endpoint("c", requests_in_flight=5)) == [0.0, 1.0]  # fmt: skip


PREDICTED = [Prediction(0.05, 0.01), Prediction(0.18, 0.03), Prediction(0.4, 0.03)]
THREE = endpoint(), endpoint("b"), endpoint("c")


def test_headroom_below_the_limit_is_preferred_most_or_least():
    asked = request(slo_ttft_s=0.2)
    most = scores(PredictedLatency(slo_headroom="most"), asked, *THREE, predictions=PREDICTED)
    least = scores(PredictedLatency(slo_headroom="least"), asked, *THREE, predictions=PREDICTED)
    assert most == pytest.approx([0.875, 0.55, 0.25])
    assert least == pytest.approx([0.625, 0.95, 0.25])


def test_without_a_limit_or_a_model_headroom_is_the_plain_score():
    scorer = PredictedLatency(slo_headroom="most")
    assert scores(scorer, request(), *THREE, predictions=PREDICTED) == pytest.approx([1.0, 0.05 / 0.18, 0.125])
    assert scores(scorer, request(slo_ttft_s=0.2), *THREE) == [UNKNOWN] * 3
    unknown = scores(scorer, request(slo_ttft_s=0.2), endpoint(scraped=False), predictions=PREDICTED[:1])
    assert unknown == [UNKNOWN]


def test_both_latencies_pack_by_default_where_there_are_limits():
    asked = request(slo_ttft_s=0.2, slo_tpot_s=0.05)
    packed = scores(BothLatencies(), asked, *THREE, predictions=PREDICTED)
    assert max(packed) == packed[1]
    spread = scores(BothLatencies(headroom="most"), asked, *THREE, predictions=PREDICTED)
    assert max(spread) == spread[0]


def test_a_percentile_is_read_where_it_was_predicted():
    high = [Prediction(0.1, 0.01, 1.0, 0.9, 0.02), Prediction(0.2, 0.01, 1.0, 0.3, 0.02)]
    assert scores(PredictedLatency(percentile=0.9), request(), *THREE[:2], predictions=high) == pytest.approx(
        [1 / 3, 1]
    )
