"""The director's books: a request goes out before it is entered, and is entered exactly once whatever comes of it."""

from __future__ import annotations

import json
import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.discovery import static_fleet
from fleet.history import RequestOutcome
from router.dataplane.body import parse
from router.director import Director
from router.endpoints import EndpointSet
from router.metrics import RouterMetrics
from router.parts import Parts
from router.profile import DEFAULT, Scheduler
from router.settings import RouterSettings

URLS = ["http://e1", "http://e2"]
BODY = json.dumps({"model": "m", "prompt": "word " * 200}).encode()


def make_director():
    endpoints = EndpointSet(clock=time.monotonic)
    endpoints.update(static_fleet(URLS, model="m"))
    return Director(Parts(settings=RouterSettings(), scheduler=Scheduler(DEFAULT), endpoints=endpoints,
                          metrics=RouterMetrics(), rng=random.Random(1)))  # fmt: skip


@pytest.fixture
def director():
    return make_director()


def opened(director):
    return director.open(parse(BODY), request_id="r")


def remembered(director):
    return sum(director.known.prefix.sizes().values())


def test_a_request_is_under_way_before_it_is_entered_and_entered_when_route_returns(director):
    ticket, then = opened(director), []
    director.route(ticket, lambda url: then.append((url, len(director.ledger), remembered(director))))
    assert then == [(ticket.url, 0, 0)]
    assert director.ledger.of(ticket.url).requests_in_flight == 1
    assert remembered(director) == len(ticket.hashes) > 0
    assert [one.ticket for one in director.decisions] == [ticket]
    director.close(ticket, RequestOutcome.OK, 200)
    assert len(director.ledger) == 0


def test_a_request_that_is_over_at_once_is_counted_once_and_held_nowhere(director):
    ticket = opened(director)
    director.route(ticket, lambda _url: director.close(ticket, RequestOutcome.ABORTED, 499))
    assert len(director.ledger) == 0
    assert director.ledger.of(ticket.url).prefill_tokens_in_flight == 0
    assert len(director.decisions) == ticket.meters.requests == 1
    assert ticket.meters.running == 0


def test_a_request_that_fails_at_once_is_entered_where_it_went_in_the_end(director):
    ticket, tried = opened(director), []

    def routed(url):
        tried.append(url)
        if len(tried) == 1:
            director.failed(ticket, "it broke")
            director.route(ticket, routed)

    director.route(ticket, routed)
    assert sorted(tried) == URLS
    assert [director.ledger.of(url).requests_in_flight for url in tried] == [0, 1]
    assert [one.pick.endpoint.url for one in director.decisions] == tried


@given(st.lists(st.tuples(st.sampled_from(["route", "restart", "rescale", "close", "views"]), st.integers(0, 5))))
@settings(deadline=None, max_examples=50)
def test_views_tell_what_the_books_say(steps):
    director, under_way = make_director(), []
    traffic, known = director.traffic, director.known
    for step, number in steps:
        if step == "route":
            body = json.dumps({"model": "m", "prompt": f"{number} " * 400}).encode()
            under_way.append(director.open(parse(body), request_id="r"))
            director.route(under_way[-1], lambda _url: None)
        elif step == "restart":
            director.restarted(URLS[number % 2])
        elif step == "rescale":
            traffic._rescale()
        elif step == "close" and under_way:
            director.close(under_way.pop(), RequestOutcome.OK, 200)
        ticket = opened(director)
        views, _ = known.views(ticket)
        director.close(ticket, RequestOutcome.ABORTED, 499)
        for view in views:
            load = director.ledger.of(view.url)
            assert view.new_prompts == traffic.new_prompts(view.url)
            assert view.last_cold == known._cold.get(view.url, 0)
            assert (view.requests_in_flight, view.context_tokens_in_flight) == (load[0], load[2])


def test_the_next_pick_sees_a_request_whose_sending_failed(director):
    first, second = opened(director), opened(director)

    def routed(_url):
        raise RuntimeError("a fault of our own")

    with pytest.raises(RuntimeError):
        director.route(first, routed)
    director.route(second, lambda _url: None)
    assert len(director.ledger) == len(director.decisions) == 2
    director.close(first, RequestOutcome.ABORTED, 499)
    director.close(second, RequestOutcome.OK, 200)
    assert len(director.ledger) == 0
    assert [director.ledger.of(url).context_tokens_in_flight for url in URLS] == [0, 0]
