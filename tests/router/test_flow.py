"""The queues of requests that wait for an engine, without one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.flow import FlowQueue, Waiting


def waiting(name, *, tenant="", priority=0, work=1.0, size=1, now_s=0.0, ttl_s=60.0):
    return Waiting(name, lambda _answer: None, tenant=tenant, priority=priority, work=work, size=size, now_s=now_s,
                   ttl_s=ttl_s)  # fmt: skip


def queue_of(*entries, max_requests=100, max_bytes=1000):
    queue = FlowQueue(max_requests=max_requests, max_bytes=max_bytes)
    for one in entries:
        assert queue.offer(one) is not None
    return queue


def drained(queue):
    out = []
    while (one := queue.take()) is not None:
        out.append(one.item)
    return out


@pytest.mark.parametrize(
    ("entries", "order"),
    [
        pytest.param([("a", "", 0, 1), ("b", "", 0, 1)], ["a", "b"], id="one-tenant-first-come-first-served"),
        pytest.param([("a", "", 0, 1), ("b", "", 5, 1), ("c", "", -1, 1)], ["b", "a", "c"], id="higher-priority-first"),
        pytest.param([("a1", "a", 0, 1), ("a2", "a", 0, 1), ("a3", "a", 0, 1), ("b1", "b", 0, 1)],
                     ["a1", "b1", "a2", "a3"], id="tenants-take-turns"),
        pytest.param([("a1", "a", 0, 9), ("a2", "a", 0, 9), ("b1", "b", 0, 3), ("b2", "b", 0, 3), ("b3", "b", 0, 3)],
                     ["a1", "b1", "b2", "b3", "a2"], id="turns-count-work-not-requests"),
    ],
)  # fmt: skip
def test_order(entries, order):
    queue = queue_of(*(waiting(n, tenant=t, priority=p, work=w) for n, t, p, w in entries))
    assert drained(queue) == order


def test_a_full_queue_takes_no_more_of_the_same_priority():
    queue = queue_of(waiting("a"), waiting("b"), max_requests=2)
    assert queue.offer(waiting("c")) is None
    assert drained(queue) == ["a", "b"]


def test_a_higher_priority_takes_the_place_of_the_newest_of_the_lowest():
    queue = queue_of(waiting("a", priority=0), waiting("old", priority=-1), waiting("new", priority=-1), max_requests=3)
    assert [one.item for one in queue.offer(waiting("vip", priority=1))] == ["new"]
    assert drained(queue) == ["vip", "a", "old"]


def test_nobody_goes_for_one_that_does_not_fit_even_so():
    queue = queue_of(waiting("a", priority=0, size=5), waiting("b", priority=-1, size=5), max_bytes=10)
    assert queue.offer(waiting("huge", priority=1, size=20)) is None
    assert (len(queue), queue.bytes) == (2, 10)
    assert drained(queue) == ["a", "b"]


def test_what_waited_too_long_or_left_is_out():
    late, left, kept = waiting("late", ttl_s=5), waiting("left"), waiting("kept")
    queue = queue_of(late, left, kept)
    queue.drop(left)
    queue.drop(left)
    assert [one.item for one in queue.expired(5.0)] == ["late"]
    assert drained(queue) == ["kept"]
    assert (len(queue), queue.bytes) == (0, 0)


def test_a_tenant_that_was_away_has_saved_nothing_up():
    queue = queue_of(*(waiting(f"a{i}", tenant="a") for i in range(10)))
    for _ in range(5):
        queue.take()
    for one in (waiting("b1", tenant="b"), waiting("b2", tenant="b"), waiting("b3", tenant="b")):
        queue.offer(one)
    assert drained(queue) == ["a5", "b1", "a6", "b2", "a7", "b3", "a8", "a9"]


@given(
    st.lists(
        st.tuples(st.sampled_from(["offer", "take", "drop", "expire"]), st.integers(0, 3), st.integers(-2, 2),
                  st.integers(1, 4)),
        max_size=80,
    )
)  # fmt: skip
def test_counts_are_exact_and_each_request_comes_out_once(steps):
    queue, inside, seen = FlowQueue(max_requests=6, max_bytes=15), {}, set()
    for number, (what, tenant, priority, size) in enumerate(steps):
        if what == "offer":
            one = waiting(number, tenant=str(tenant), priority=priority, size=size, now_s=number, ttl_s=10)
            out = queue.offer(one)
            if out is not None:
                inside[number] = one
            gone = out or []
        elif what == "take":
            gone = [one] if (one := queue.take()) is not None else []
            assert bool(gone) == bool(inside)
        elif what == "drop":
            gone = [next(iter(inside.values()))] if inside else []
            for one in gone:
                queue.drop(one)
        else:
            gone = queue.expired(float(number))
        for one in gone:
            assert one.item not in seen
            seen.add(one.item)
            del inside[one.item]
        assert len(queue) == len(inside) <= 6
        assert queue.bytes == sum(one.size for one in inside.values()) <= 15
        assert {one.item for one in queue} == set(inside)
