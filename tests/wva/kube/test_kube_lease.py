"""Leader election: one writer, whatever fails and whatever the clocks say."""

from __future__ import annotations

from typing import Any

import pytest

from fleet.errors import ConfigError
from tests.fake_kubernetes import FakeKubernetes, Fault
from tests.fake_kubernetes_store import MICRO_TIME
from tests.wva.kube.kube_cluster import api_of
from wva.kube.lease import Elector


class Steady:
    """Seconds that only the test moves."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def steady() -> Steady:
    return Steady()


def elector(fake: FakeKubernetes, steady: Steady, identity: str, **options: Any) -> Elector:
    return Elector(api_of(fake, timeout_s=1.0), namespace="default", name="wva", identity=identity, steady=steady,
                   clock=options.pop("clock", lambda: 0.0), **options)  # fmt: skip


def spec(fake: FakeKubernetes) -> dict[str, Any]:
    return fake.get("leases", "wva")["spec"]


def test_the_first_one_creates_the_lease_and_leads(fake: FakeKubernetes, steady: Steady) -> None:
    one = elector(fake, steady, "one")
    assert one.step()
    held = spec(fake)
    assert (held["holderIdentity"], held["leaseDurationSeconds"]) == ("one", 15)
    assert MICRO_TIME.match(held["renewTime"])  # whole seconds too have six digits


def test_a_second_one_follows_until_the_lease_was_seen_unchanged_for_its_duration(
    fake: FakeKubernetes, steady: Steady
) -> None:
    one, two = elector(fake, steady, "one"), elector(fake, steady, "two")
    assert one.step()
    assert not two.step()
    steady.now_s += 14.9
    assert not two.step()
    assert not one.leads()
    steady.now_s += 0.2
    assert two.step()
    assert (spec(fake)["holderIdentity"], spec(fake)["leaseTransitions"]) == ("two", 2)


def test_a_renewal_keeps_the_follower_away_and_the_acquire_time(fake: FakeKubernetes, steady: Steady) -> None:
    times = iter(range(100))
    one = elector(fake, steady, "one", clock=lambda: float(next(times)))
    two = elector(fake, steady, "two")
    one.step()
    acquired = spec(fake)["acquireTime"]
    for _ in range(10):
        two.step()
        steady.now_s += 8.0
        assert one.step()
        assert not two.step()
    assert (spec(fake)["acquireTime"], spec(fake)["leaseTransitions"]) == (acquired, 1)
    assert spec(fake)["renewTime"] > acquired


@pytest.mark.parametrize("jump_s", [-1e8, 1e8])
def test_clocks_that_differ_or_jump_change_nothing(fake: FakeKubernetes, steady: Steady, jump_s: float) -> None:
    one = elector(fake, steady, "one", clock=lambda: 1.8e9)
    two = elector(fake, steady, "two", clock=lambda: 1.8e9 + jump_s)
    assert one.step()
    assert not two.step()
    steady.now_s += 5.0
    assert not two.step()
    assert one.leads()


def test_who_cannot_renew_stops_leading_before_another_may_begin(fake: FakeKubernetes, steady: Steady) -> None:
    one, two = elector(fake, steady, "one"), elector(fake, steady, "two")
    one.step()
    two.step()
    fake.faults.append(Fault(status=500))
    for _ in range(20):
        steady.now_s += 1.0
        one.step()
        two.step()
        assert not (one.leads() and two.leads())
    assert not one.leads()
    fake.faults.clear()
    assert two.step() != one.step()


@pytest.mark.parametrize("status", [429, 500, 503])
def test_one_failure_does_not_end_leading(fake: FakeKubernetes, steady: Steady, status: int) -> None:
    one = elector(fake, steady, "one")
    one.step()
    fake.faults.append(Fault(status=status, count=1))
    steady.now_s += 2.0
    assert one.step()
    steady.now_s += 2.0
    assert one.step()


def test_a_server_that_is_gone_does_not_end_the_elector(fake: FakeKubernetes, steady: Steady) -> None:
    one = elector(fake, steady, "one")
    one.step()
    fake.faults.append(Fault(delay_s=1.5, status=0))
    steady.now_s += 20.0
    assert not one.step()
    fake.faults.clear()
    assert one.step()


def test_a_renewal_whose_answer_is_lost_counts_as_failed(fake: FakeKubernetes, steady: Steady) -> None:
    one, two = elector(fake, steady, "one"), elector(fake, steady, "two")
    one.step()
    steady.now_s += 11.0
    fake.faults.append(Fault(status=500, after=True, matches=lambda method, _: method == "PUT"))
    assert not one.step()
    assert not two.step()  # it took effect: the other one still waits


def test_two_that_race_for_a_free_lease_do_not_both_win(fake: FakeKubernetes, steady: Steady) -> None:
    one, two = elector(fake, steady, "one"), elector(fake, steady, "two")
    raced = []

    def between(method: str, _path: str) -> bool:
        if method == "POST" and not raced:
            raced.append(True)
            raced.append(two.step())
        return False

    fake.faults.append(Fault(matches=between))
    assert not one.step()
    assert raced == [True, True]
    assert (one.leads(), two.leads()) == (False, True)


def test_two_that_race_for_an_expired_lease_do_not_both_win(fake: FakeKubernetes, steady: Steady) -> None:
    zero, one, two = (elector(fake, steady, name) for name in ("zero", "one", "two"))
    for each in (zero, one, two):
        each.step()
    steady.now_s += 16.0
    raced = []

    def between(method: str, _path: str) -> bool:
        if method == "PUT" and not raced:
            raced.append(True)
            raced.append(two.step())
        return False

    fake.faults.append(Fault(matches=between))
    assert not one.step()
    assert (one.leads(), two.leads()) == (False, True)


def test_a_lease_that_is_given_back_is_taken_at_once(fake: FakeKubernetes, steady: Steady) -> None:
    one, two = elector(fake, steady, "one"), elector(fake, steady, "two")
    one.step()
    two.step()
    one.stop()
    assert not one.leads()
    assert spec(fake)["holderIdentity"] == ""
    assert two.step()


def test_a_follower_gives_nothing_back(fake: FakeKubernetes, steady: Steady) -> None:
    one, two = elector(fake, steady, "one"), elector(fake, steady, "two")
    one.step()
    two.step()
    two.stop()
    assert spec(fake)["holderIdentity"] == "one"


def test_times_that_cannot_be_safe_are_refused(fake: FakeKubernetes, steady: Steady) -> None:
    with pytest.raises(ConfigError, match=r"duration > lead > 1\.2 x retry"):
        elector(fake, steady, "one", duration_s=10.0, lead_s=10.0)
