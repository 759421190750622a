"""Tenants: their file, their keys, their limits."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from fleet.errors import ConfigError
from router.cli import router
from router.tenants import Bucket, Tenant, TenantSpec, hashed, parse_tenants

KEY = b"sk-fleet-secret"
TEXT = f"""
objectives: {{interactive: 10, batch: -1}}
tenants:
  - name: search
    keys: ["{hashed(KEY)}"]
    requestsPerMinute: 60
    tokensPerMinute: 600
    maxInFlight: 2
    priority: 5
    models: [m]
"""


@pytest.mark.parametrize(
    ("shown", "name"),
    [
        pytest.param(b"Bearer sk-fleet-secret", "search", id="its-key"),
        pytest.param(b"bearer   sk-fleet-secret ", "search", id="any-case-any-space"),
        pytest.param(b"Bearer sk-fleet-secre", None, id="nearly-its-key"),
        pytest.param(b"Bearer " + hashed(KEY).encode(), None, id="the-hash-is-no-key"),
        pytest.param(b"Basic sk-fleet-secret", None, id="another-scheme"),
        pytest.param(b"", None, id="nothing"),
    ],
)
def test_who_it_is(shown, name):
    found = parse_tenants(TEXT).identify(shown)
    assert (found.spec.name if found else None) == name


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param("tenants: [{name: a, keys: [sk-plain]}]", "stored as its hash", id="a-plain-key"),
        pytest.param("tenants: [{name: a, requestPerMinute: 5}]", "requestsPerMinute", id="a-misspelt-field"),
        pytest.param("tenants: [{name: a}, {name: a}]", "repeats", id="a-name-twice"),
        pytest.param("tenants: [{keys: []}]", "no name", id="no-name"),
        pytest.param("tenants: [{name: a, tokensPerMinute: -1}]", "above 0", id="a-rate-below-zero"),
        pytest.param("objectives: {x: high}", "whole number", id="a-priority-in-words"),
        pytest.param("tenants: [{name: a, sla: none}]", "Did you mean 'slo'", id="a-misspelt-slo"),
        pytest.param("tenants: [{name: a, slo: non}]", "not 'non'.*Did you mean 'none'", id="a-misspelt-none"),
        pytest.param("tenants: [{name: a, slo: off}]", "not False.*Write none, or {ttftMs", id="yamls-no"),
        pytest.param("tenants: [{name: a, slo: {ttft: 5}}]", "Did you mean 'ttftMs'", id="a-misspelt-latency"),
        pytest.param("tenants: [{name: a, slo: {ttftMs: 0}}]", "milliseconds or none, not 0", id="no-time-at-all"),
        pytest.param("tenants: [{name: a, slo: {tpotMs: fast}}]", "not 'fast'.*up to 3600000", id="a-latency-in-words"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_refused_with_its_line(text, says):
    with pytest.raises(ConfigError, match=says) as caught:
        parse_tenants(text)
    assert "line 1" in str(caught.value)


@pytest.mark.parametrize(
    ("own", "objective", "priority"),
    [
        pytest.param(5, "", 5, id="its-own"),
        pytest.param(5, "batch", -1, id="an-objective-lowers"),
        pytest.param(5, "interactive", 5, id="no-objective-raises-above-its-own"),
        pytest.param(5, "unheard-of", 5, id="an-unknown-objective-says-nothing"),
        pytest.param(None, "interactive", 10, id="without-tenants-the-objective-holds"),
    ],
)
def test_priority(own, objective, priority):
    tenant = None if own is None else Tenant(TenantSpec(name="t", priority=own))
    assert parse_tenants(TEXT).priority(tenant, objective) == priority


def test_a_bucket_holds_a_minute_and_refills():
    bucket = Bucket(60.0)
    for _ in range(60):
        assert bucket.wait_s(1.0, 100.0) == 0.0
        bucket.spend(1.0)
    assert bucket.wait_s(1.0, 100.0) == pytest.approx(1.0)
    assert bucket.wait_s(1.0, 101.0) == 0.0


def test_a_request_larger_than_a_minutes_worth_may_come_when_nothing_else_did():
    bucket = Bucket(60.0)
    assert bucket.wait_s(1000.0, 0.0) == 0.0
    bucket.spend(1000.0)
    assert bucket.wait_s(1.0, 0.0) == pytest.approx(941.0)


def test_output_tokens_count_when_they_are_known():
    tenant = Tenant(TenantSpec(name="t", tokens_per_minute=600.0))
    assert tenant.wait_s(100, 0.0) == 0.0
    tenant.begin(100)
    tenant.end(600)
    assert tenant.wait_s(1, 0.0) == pytest.approx(10.1)
    assert (tenant.in_flight, tenant.refused) == (0, 1)


def test_the_command_makes_a_key_that_its_hash_admits():
    made = json.loads(CliRunner().invoke(router, ["key", "--json"]).output)
    tenants = parse_tenants(f"tenants: [{{name: a, keys: ['{made['hash']}']}}]")
    assert tenants.identify(b"Bearer " + made["key"].encode()).spec.name == "a"
    assert made["key"] not in made["hash"]


def test_a_file_read_again_keeps_what_a_tenant_has_used():
    tenants = parse_tenants(TEXT)
    one = tenants.identify(b"Bearer sk-fleet-secret")
    one.begin(500)
    other = hashed(b"sk-fleet-new")
    tenants.use(parse_tenants(f'tenants: [{{name: search, keys: ["{other}"], tokensPerMinute: 1200, maxInFlight: 1}}]'))
    assert tenants.identify(b"Bearer sk-fleet-secret") is None, "a key that is gone is no longer good"
    assert tenants.identify(b"Bearer sk-fleet-new") is one
    assert one.wait_s(10, 0.0) == 1.0, "the request under way counts against the new limit"
    one.end(0)
    assert one.wait_s(100, 0.0) == 0.0
    assert one.wait_s(101, 0.0) == pytest.approx(1 / 20), "100 of 600 tokens were left, and none came with the new rate"
    assert (tenants.priority(one, "interactive"), one.spec.priority) == (0, 0), "its objectives are gone too"


def test_a_file_without_tenants_lets_nobody_in():
    tenants = parse_tenants(TEXT)
    with pytest.raises(ConfigError, match="let everybody in"):
        tenants.use(parse_tenants("objectives: {batch: -1}"))
    assert tenants.identify(b"Bearer sk-fleet-secret") is not None


def test_priorities_told_elsewhere_outlive_the_file():
    tenants = parse_tenants(TEXT)
    tenants.also({"batch": -7, "urgent": 3})
    tenants.use(parse_tenants(TEXT.replace("interactive: 10", "interactive: 4")))
    assert tenants.objectives == {"interactive": 4, "batch": -7, "urgent": 3}
    tenants.also({})
    assert tenants.objectives == {"interactive": 4, "batch": -1}
