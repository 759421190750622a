"""The sums over a variant's replicas are, to the digit, what the plain formulas give, whatever the replicas say."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.types import EngineSample, Replica, ReplicaObservation, VariantObservation
from tests.wva.wva_builders import spec
from wva.saturation import usable
from wva.slo.heard import hear
from wva.types import Policy, VariantState
from wva.view import view_variant

REPLICA = Replica(name="r", url="http://r", variant="a")
SAID = st.none() | st.floats(0.0, 1e6)
ODD = st.none() | st.floats()
"""NaN, infinite and negative ones too."""
SAMPLES = st.builds(EngineSample, at_s=st.just(1.0), running=SAID, waiting=SAID, kv_utilisation=SAID,
                    kv_capacity_tokens=SAID, max_running=SAID)  # fmt: skip
ODD_SAMPLES = st.builds(EngineSample, at_s=st.just(1.0), waiting=ODD, kv_utilisation=ODD)


def observed(samples: st.SearchStrategy[EngineSample]) -> st.SearchStrategy[list[ReplicaObservation]]:
    one = st.builds(ReplicaObservation, replica=st.just(REPLICA), sample=st.none() | samples, request_rps=ODD,
                    prefix_hit_ratio=ODD, age_s=st.just(1.0))  # fmt: skip
    return st.lists(one, max_size=12)


@settings(max_examples=60, deadline=None)
@given(fresh=observed(SAMPLES))
def test_sums(fresh: list[ReplicaObservation]) -> None:
    said = [seen.sample for seen in fresh if seen.sample]
    sizes = [one.kv_capacity_tokens for one in said if one.kv_capacity_tokens]
    heard = hear(fresh)
    assert (heard.replicas, heard.samples) == (len(fresh), len(said))
    assert heard.running == sum(one.running or 0.0 for one in said)
    assert heard.waiting == sum(one.waiting or 0.0 for one in said)
    assert heard.in_flight == sum((one.running or 0.0) + (one.waiting or 0.0) for one in said)
    assert heard.kv_utilisation == sum(one.kv_utilisation or 0.0 for one in said)
    assert heard.rates == tuple(rate for seen in fresh if (rate := usable(seen.request_rps)) is not None)
    assert heard.hits == tuple(ratio for seen in fresh if (ratio := usable(seen.prefix_hit_ratio)) is not None)
    assert heard.kv_tokens == (sum(sizes) / len(sizes) if sizes else None)
    assert heard.max_running == min((one.max_running for one in said if one.max_running), default=None)


@settings(max_examples=60, deadline=None)
@given(replicas=observed(ODD_SAMPLES))
def test_a_replica_is_fresh_when_what_saturation_needs_is_usable(replicas: list[ReplicaObservation]) -> None:
    entry = VariantObservation(spec=spec(), requested=1, replicas=tuple(replicas))
    state = VariantState(requested=1, requested_at_s=0.0)
    seen = view_variant(entry, state, now_s=1.0, extra_age_s=0.0, rules=Policy())
    assert list(seen.fresh) == [one for one in replicas if one.sample is not None
                                and usable(one.sample.kv_utilisation) is not None
                                and usable(one.sample.waiting) is not None]  # fmt: skip
