"""The router's own book-keeping."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from router.ledger import NO_PREFIX, Ledger, Load


def script(*calls):
    """A ledger after these calls; every request goes to ``u`` with 100 of 300 prompt tokens uncached."""
    ledger = Ledger()
    for call, *rest in calls:
        if call == "dispatch":
            ledger.dispatch("u", rest[0], 100, 300)
        else:
            getattr(ledger, call)(*rest)
    return ledger


@pytest.mark.parametrize(
    ("calls", "load"),
    [
        pytest.param([], Load(0, 0, 0), id="nothing is in flight at a stranger"),
        pytest.param([("dispatch", "r")], Load(1, 100, 300), id="a dispatch counts the request and its tokens"),
        pytest.param([("dispatch", "r"), ("first_token", "r")], Load(1, 0, 300), id="the first token ends prefill"),
        pytest.param(
            [("dispatch", "r"), ("first_token", "r"), ("first_token", "r")], Load(1, 0, 300), id="prefill ends once"
        ),
        pytest.param([("dispatch", "r"), ("token", "r", 5)], Load(1, 0, 305), id="tokens end prefill and add context"),
        pytest.param([("dispatch", "r"), ("token", "r", 0)], Load(1, 100, 300), id="no token changes nothing"),
        pytest.param([("dispatch", "r"), ("finish", "r")], Load(0, 0, 0), id="finishing releases all"),
        pytest.param(
            [("dispatch", "r"), ("dispatch", "s"), ("finish", "r"), ("finish", "r")],
            Load(1, 100, 300),
            id="finishing twice releases once",
        ),
        pytest.param(
            [("dispatch", "r"), ("dispatch", "r")], Load(1, 100, 300), id="a request dispatched again counts once"
        ),
        pytest.param(
            [("dispatch", "r"), ("finish", "r"), ("token", "r", 3), ("first_token", "r")],
            Load(0, 0, 0),
            id="tokens after the end do nothing",
        ),
        pytest.param(
            [("dispatch", "r"), ("forget", "u"), ("finish", "r")], Load(0, 0, 0), id="a forgotten endpoint has nothing"
        ),
    ],
)
def test_counts(calls, load):
    assert script(*calls).of("u") == load


@pytest.mark.parametrize(
    ("seen", "others"),
    [
        pytest.param(0, 0.0, id="a scrape that is behind shows nobody else"),
        pytest.param(1, 0.0, id="only ours"),
        pytest.param(5, 4.0, id="four are of other routers"),
    ],
)
def test_requests_of_other_routers(seen, others):
    ledger = script(("dispatch", "r"))
    ledger.observed("u", seen)
    assert ledger.others("u") == others
    ledger.finish("r")
    assert ledger.others("u") == others, "it holds until the next scrape"
    ledger.forget("u")
    assert ledger.others("u") == 0.0


def test_requests_that_start_alike_are_counted_while_they_are_in_flight():
    ledger = Ledger()
    for name, prefix in (("a", 7), ("b", 7), ("c", 8), ("d", NO_PREFIX)):
        ledger.dispatch("u" if name == "a" else "v", name, 0, 10, prefix)
    assert (ledger.alike(7), ledger.alike(8), ledger.alike(NO_PREFIX)) == (2, 1, 0)
    ledger.dispatch("w", "c", 0, 10, 7)
    assert (ledger.alike(7), ledger.alike(8)) == (3, 0), "a retry counts where it is now"
    ledger.finish("b")
    ledger.forget("u")
    assert ledger.alike(7) == 1
    ledger.finish("c")
    assert ledger.alike(7) == 0


def test_a_retry_moves_the_request():
    ledger = script(("dispatch", "r"))
    ledger.dispatch("v", "r", 300, 300)
    assert (ledger.of("u"), ledger.of("v"), len(ledger)) == (Load(0, 0, 0), Load(1, 300, 300), 1)


def test_forgetting_one_endpoint_leaves_the_others():
    ledger = script(("dispatch", "r"))
    ledger.dispatch("v", "s", 1, 2)
    ledger.forget("u")
    assert (ledger.of("v"), len(ledger)) == (Load(1, 1, 2), 1)


class LedgerMachine(RuleBasedStateMachine):
    """Any order of calls, against a plain list of what is in flight."""

    names = Bundle("names")
    urls = st.sampled_from(["a", "b", "c"])

    def __init__(self):
        super().__init__()
        self.ledger = Ledger()
        self.model: dict[str, list] = {}

    @rule(target=names, name=st.integers(0, 6).map(str), url=urls, uncached=st.integers(0, 50), more=st.integers(0, 50))
    def dispatch(self, name, url, uncached, more):
        self.ledger.dispatch(url, name, uncached, uncached + more)
        self.model[name] = [url, uncached, uncached + more]
        return name

    @rule(name=names)
    def first_token(self, name):
        self.ledger.first_token(name)
        if name in self.model:
            self.model[name][1] = 0

    @rule(name=names, n=st.integers(1, 9))
    def token(self, name, n):
        self.ledger.token(name, n)
        if name in self.model:
            self.model[name][1] = 0
            self.model[name][2] += n

    @rule(name=names)
    def finish(self, name):
        self.ledger.finish(name)
        self.model.pop(name, None)

    @rule(url=urls)
    def forget(self, url):
        self.ledger.forget(url)
        self.model = {name: entry for name, entry in self.model.items() if entry[0] != url}

    @invariant()
    def agrees(self):
        assert len(self.ledger) == len(self.model)
        for url in "abc":
            here = [entry for entry in self.model.values() if entry[0] == url]
            expected = (len(here), sum(entry[1] for entry in here), sum(entry[2] for entry in here))
            assert self.ledger.of(url) == expected
            assert min(self.ledger.of(url)) >= 0

    def teardown(self):
        for name in list(self.model):
            self.ledger.finish(name)
        assert all(self.ledger.of(url) == (0, 0, 0) for url in "abc")
        assert len(self.ledger) == 0


TestLedgerMachine = LedgerMachine.TestCase
TestLedgerMachine.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
