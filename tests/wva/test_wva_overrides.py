"""An operator's overrides: what they do to a decision, who may lay them, and that they are kept and told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st

from fleet.errors import ConfigError
from fleet.types import Direction, FleetSnapshot, Reason
from tests.wva.fake_platform import FakePlatform, serving
from tests.wva.test_wva_loop import CAREFUL, FULL, Rig
from tests.wva.wva_builders import AT_ONCE, NOW, seen, spec, variant
from wva.app import make_app
from wva.decide import decide
from wva.operator import FileKeeper
from wva.overrides import Override, Overrides, check, specs, told
from wva.settings import WvaSettings
from wva.types import WvaState


def snapshot(replicas: int, kv: float, **changes: int) -> FleetSnapshot:
    load = [seen(i, kv, 10.0 * kv) for i in range(replicas)]
    return FleetSnapshot(at_s=NOW, variants=(variant(load, **CAREFUL, **changes),))


def decided(seen_now: FleetSnapshot, laid: Overrides):
    decisions, _ = decide(seen_now, specs(seen_now, laid), WvaState(), NOW, AT_ONCE)
    return told(decisions, laid)[0]


def test_a_paused_variant_stays_where_it_is_and_says_who_paused_it() -> None:
    laid = Overrides(variants={"default/a": Override(paused=True, by="ada")})
    busy, paused = decided(snapshot(2, 1.0), Overrides()), decided(snapshot(2, 1.0), laid)
    assert busy.desired > 2
    assert (paused.desired, paused.direction, paused.reason) == (2, Direction.HOLD, Reason.PAUSED)
    assert paused.detail.startswith("paused by ada at 2 replicas")


def test_bounds_are_narrowed_and_corrected_at_once() -> None:
    laid = Overrides(variants={"default/a": Override(max_replicas=3)})
    assert decided(snapshot(3, 1.0), laid).desired == 3
    down = decided(snapshot(5, 1.0), laid)
    assert (down.desired, down.reason) == (3, Reason.ABOVE_MAX)
    up = decided(snapshot(2, 0.0), Overrides(variants={"default/a": Override(min_replicas=4)}))
    assert (up.desired, up.reason) == (4, Reason.BELOW_MIN)


@pytest.mark.parametrize("override", [Override(max_replicas=11), Override(min_replicas=5, max_replicas=4),
                                      Override(min_replicas=0)])  # fmt: skip
def test_bounds_outside_the_owners_are_refused(override: Override) -> None:
    with pytest.raises(ConfigError, match="do not lie in the variant's own"):
        check(override, spec(min_replicas=1))


@given(
    low=st.none() | st.integers(0, 50), high=st.none() | st.integers(0, 50), own_low=st.integers(0, 10),
    more=st.integers(0, 10), requested=st.integers(0, 30),
)  # fmt: skip
def test_whatever_is_laid_bounds_stay_inside_the_owners(
    low: int | None, high: int | None, own_low: int, more: int, requested: int
) -> None:
    laid = Overrides(variants={"default/a": Override(min_replicas=low, max_replicas=high)})
    now = snapshot(0, 0.5, requested=requested, min_replicas=own_low, max_replicas=own_low + more)
    (found,) = specs(now, laid)
    assert own_low <= found.min_replicas <= found.max_replicas <= own_low + more


@pytest.fixture
def platform() -> Iterator[FakePlatform]:
    with serving(FakePlatform(spec("a", max_replicas=4, **CAREFUL))) as running:
        yield running


def test_actions_over_http_are_honoured_kept_and_told(platform: FakePlatform, tmp_path: Path) -> None:
    rig = Rig(platform, tmp_path, keeper=FileKeeper(tmp_path / "overrides.json"))
    platform.load = FULL
    rig.passes(1)
    (entry,) = rig.loop.last.snapshot.variants
    where = f"/overrides/{entry.spec.namespace}/{entry.spec.name}"
    client = TestClient(make_app(rig.loop, rig.clock))
    assert client.put(where, json={"paused": True, "by": "ada"}).status_code == 200
    rig.passes(3)
    assert rig.loop.last.decisions[0].reason is Reason.PAUSED
    assert (
        client.get("/overrides").json()["variants"] == json.loads((tmp_path / "overrides.json").read_text())["variants"]
    )
    assert Rig(platform, tmp_path, keeper=FileKeeper(tmp_path / "overrides.json")).loop.operator.now.variants
    assert client.put(where, json={"max_replicas": 10_000}).status_code == 422
    assert client.put("/overrides/default/nobody", json={"paused": True}).status_code == 404
    assert client.put(where, json={"pause": True}).status_code == 422
    assert client.delete(f"{where}?by=ada").status_code == 200
    assert client.get("/overrides").json()["variants"] == {}
    assert client.put("/dry-run", json={"on": True, "by": "ada"}).json()["dry_run"] is True
    events = [row["message"] for row in rig.rows("events", kind="config")]
    assert events == ["a: paused, by ada", "a: back to the variant's own bounds, by ada",
                      "wva: every variant stays where it is (dry run), by ada"]  # fmt: skip


def test_in_a_dry_run_nothing_scales_and_what_is_published_holds(platform: FakePlatform, tmp_path: Path) -> None:
    """An HPA follows what is published: that it is not asked directly helps nobody."""
    rig = Rig(platform, tmp_path, keeper=FileKeeper(tmp_path / "overrides.json"))
    rig.loop.operator.set_dry_run(on=True, by="")
    platform.load = FULL
    rig.passes(4)
    (decision,) = rig.loop.last.decisions
    assert (decision.desired, decision.direction, decision.reason) == (1, Direction.HOLD, Reason.PAUSED)
    assert decision.detail.startswith("dry run: stays at 1, would go to 2;")
    page = TestClient(make_app(rig.loop, rig.clock)).get("/metrics").text
    assert [line.rsplit(" ", 1)[1] for line in page.splitlines() if line.startswith("wva_desired_replicas{")] == ["1.0"]
    assert platform.scalings == []
    rig.loop.operator.set_dry_run(on=False, by="")
    rig.passes(1)
    assert platform.scalings == [("a", 2)]
    rig.loop.stop()


def test_what_cannot_be_kept_does_not_hold_and_says_so(platform: FakePlatform, tmp_path: Path) -> None:
    rig = Rig(platform, tmp_path, keeper=FileKeeper(tmp_path / "folder" / "overrides.json"))
    (tmp_path / "folder").write_text("a file where the folder should be")
    rig.passes(1)
    client = TestClient(make_app(rig.loop, rig.clock))
    answers = [client.put("/overrides/default/a", json={"paused": True}), client.put("/dry-run", json={"on": True})]
    assert [one.status_code for one in answers] == [503, 503]
    assert "not kept" in answers[0].json()["detail"]
    assert client.get("/overrides").json() == {"allowed": True, "dry_run": False, "variants": {}}
    rig.loop.stop()


def test_without_the_switch_nothing_is_taken_and_with_a_token_only_its_bearer(
    platform: FakePlatform, tmp_path: Path
) -> None:
    closed = Rig(platform, tmp_path)
    client = TestClient(make_app(closed.loop, closed.clock))
    assert client.get("/overrides").json() == {"allowed": False, "dry_run": False, "variants": {}}
    assert client.put("/dry-run", json={"on": True}).status_code == 403
    closed.loop.stop()
    guarded = Rig(platform, tmp_path, keeper=FileKeeper(tmp_path / "overrides.json"))
    client = TestClient(make_app(guarded.loop, guarded.clock, token="secret"))
    assert client.put("/dry-run", json={"on": True}).status_code == 401
    assert client.put("/dry-run", json={"on": True}, headers={"Authorization": "Bearer no"}).status_code == 401
    assert client.put("/dry-run", json={"on": True}, headers={"Authorization": "Bearer secret"}).status_code == 200
    guarded.loop.stop()


def test_an_address_that_others_reach_needs_a_token() -> None:
    assert WvaSettings(allow_overrides=True).may_override()
    assert not WvaSettings(host="0.0.0.0").may_override()
    assert WvaSettings(host="0.0.0.0", allow_overrides=True, overrides_token="x").may_override()
    with pytest.raises(ConfigError, match="can be reached from elsewhere"):
        WvaSettings(host="0.0.0.0", allow_overrides=True).may_override()


def test_a_damaged_file_of_overrides_stops_the_start_in_one_line(platform: FakePlatform, tmp_path: Path) -> None:
    (tmp_path / "overrides.json").write_text("{")
    with pytest.raises(ConfigError, match=r"overrides\.json: the operator's overrides cannot be read: .* Mend it"):
        Rig(platform, tmp_path, keeper=FileKeeper(tmp_path / "overrides.json"))
