"""What filters keep and drop, and what memory pressure costs."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.types import EngineSample, Role
from router.filters import FILTERS, MemoryPressure, ModelCompatibility, QueueDepth, RoleFilter
from router.types import EndpointView, InferenceRequest

REQUEST = InferenceRequest(request_id="r", model="llama", input_tokens=100)


def endpoint(name="u", *, waiting=None, kv=None, scraped=True, models=(), role=Role.BOTH):
    sample = EngineSample(at_s=0.0, waiting=waiting, kv_utilisation=kv) if scraped else None
    return EndpointView(url=name, variant="v", sample=sample, models=frozenset(models), role=role)


def keeps(filter_, view):
    kept, dropped = filter_(REQUEST, [view])
    assert len(kept) + len(dropped) == 1
    return bool(kept)


@pytest.mark.parametrize(
    ("filter_", "view", "kept"),
    [
        pytest.param(QueueDepth(), endpoint(waiting=49), True, id="one short of the limit stays"),
        pytest.param(QueueDepth(), endpoint(waiting=50), False, id="a queue at the limit goes"),
        pytest.param(QueueDepth(max_queue_length=5), endpoint(waiting=5), False, id="the limit is a parameter"),
        pytest.param(QueueDepth(), endpoint(scraped=False), True, id="never scraped is not a long queue"),
        pytest.param(QueueDepth(), endpoint(), True, id="an engine without the metric is not a long queue"),
        pytest.param(MemoryPressure(), endpoint(kv=0.95), True, id="at 0.95 it stays"),
        pytest.param(MemoryPressure(), endpoint(kv=0.951), False, id="above 0.95 it goes"),
        pytest.param(MemoryPressure(), endpoint(scraped=False), True, id="never scraped is not full"),
        pytest.param(MemoryPressure(), endpoint(), True, id="an engine without the metric is not full"),
        pytest.param(ModelCompatibility(), endpoint(models=["llama", "qwen"]), True, id="it serves the model"),
        pytest.param(ModelCompatibility(), endpoint(models=["qwen"]), False, id="it serves another model"),
        pytest.param(ModelCompatibility(), endpoint(), True, id="models not known yet pass"),
        pytest.param(RoleFilter(role=Role.DECODE), endpoint(role=Role.DECODE), True, id="the role itself"),
        pytest.param(RoleFilter(role=Role.DECODE), endpoint(role=Role.BOTH), True, id="both roles do either"),
        pytest.param(RoleFilter(role=Role.DECODE), endpoint(role=Role.PREFILL), False, id="the other role"),
        pytest.param(RoleFilter(role=Role.BOTH), endpoint(role=Role.DECODE), False, id="half a role is not both"),
    ],
)
def test_keeps(filter_, view, kept):
    assert keeps(filter_, view) is kept


@pytest.mark.parametrize(
    ("kv", "factor"),
    [
        pytest.param(0.0, 1.0, id="an empty cache costs nothing"),
        pytest.param(0.85, 1.0, id="the penalty begins above 0.85"),
        pytest.param(0.9, 0.75, id="half way costs half the penalty"),
        pytest.param(0.95, 0.5, id="at the maximum the whole penalty"),
        pytest.param(1.0, 0.5, id="and no more beyond"),
        pytest.param(None, 1.0, id="unknown costs nothing"),
    ],
)
def test_penalty(kv, factor):
    full = endpoint("full", kv=0.94)  # so that there is a penalty to speak of
    assert MemoryPressure().factors([endpoint(kv=kv), full])[0] == pytest.approx(factor)


@pytest.mark.parametrize(
    ("pressure", "kv"),
    [
        pytest.param(MemoryPressure(), [0.1, 0.85], id="no endpoint is above the soft limit"),
        pytest.param(MemoryPressure(max_kv_utilization=0.5), [0.49], id="a maximum below the soft limit"),
        pytest.param(MemoryPressure(), [None], id="nothing is known"),
    ],
)
def test_no_penalty_is_said_as_none(pressure, kv):
    assert pressure.factors([endpoint(kv=value) for value in kv]) is None


def test_names_of_the_source_and_of_upstream_stand_for_the_same():
    assert FILTERS["low-queue-filter"].kind is FILTERS["queue-depth"].kind is QueueDepth
    assert FILTERS["model"].kind is FILTERS["model-compatibility"].kind is ModelCompatibility
    assert FILTERS["prefill-filter"].preset == {"role": Role.PREFILL}
    with pytest.raises(TypeError):
        FILTERS["mine"] = FILTERS["model"]


def test_only_load_counts_as_overload():
    overload = {name for name, plugin in FILTERS.items() if plugin.kind.overload}
    assert overload == {"queue-depth", "low-queue-filter", "memory-pressure", "utilisation", "utilization-filter"}


ratios = st.none() | st.floats(0, 1.5)
views = st.lists(
    st.builds(
        endpoint,
        st.uuids().map(str),
        waiting=st.none() | st.integers(0, 200),
        kv=ratios,
        scraped=st.booleans(),
        models=st.sets(st.sampled_from(["llama", "qwen"])),
        role=st.sampled_from(Role),
    ),
    max_size=8,
)


@given(views, st.sampled_from(sorted(FILTERS)))
def test_kept_and_dropped_are_all_in_order(endpoints, name):
    plugin = FILTERS[name]
    kept, dropped = plugin.kind(**plugin.preset)(REQUEST, endpoints)
    by_url = {view.url for view in kept}
    assert [view for view in endpoints if view.url in by_url] == list(kept)
    assert [view for view in endpoints if view.url not in by_url] == list(dropped)


@given(st.lists(ratios, min_size=1, max_size=6), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_factors_are_ratios_and_never_reward_pressure(kv, soft, hard, penalty):
    pressure = MemoryPressure(penalised_kv_utilization=soft, max_kv_utilization=hard, penalty=penalty)
    factors = pressure.factors([endpoint(kv=value) for value in kv]) or [1.0] * len(kv)
    assert all(1.0 - penalty - 1e-9 <= factor <= 1.0 for factor in factors)
    known = sorted((value, factor) for value, factor in zip(kv, factors, strict=True) if value is not None)
    assert all(one[1] >= two[1] - 1e-9 for one, two in itertools.pairwise(known))
