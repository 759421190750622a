"""A link that transfers share fairly."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.agenda import Agenda, Fabric
from simulator.link import LINKS, Link, LinkSpec


class Clock(Agenda):
    """An agenda without engines."""

    def drain(self) -> None:
        """Until nothing is planned."""
        while self._entries:
            self._advance(self._entries[0][0])


def ends(
    spec: LinkSpec, transfers: list[tuple[float, float]], cancelled: dict[int, float] | None = None
) -> dict[int, float]:
    """Ends of transfers of (start, size) each."""
    clock, done = Clock(), {}
    fabric = Fabric(clock, spec)
    for index, (start_s, size) in enumerate(transfers):
        clock.at(start_s, lambda _now_s, index=index, size=size: fabric.begin(
            str(index), size, lambda now_s: done.__setitem__(index, now_s)))  # fmt: skip
    for index, at_s in (cancelled or {}).items():
        clock.at(at_s, lambda _now_s, index=index: fabric.cancel(str(index)))
    clock.drain()
    return done


def test_one_transfer_has_the_link_to_itself() -> None:
    assert ends(LinkSpec(bytes_per_s=100.0, latency_s=0.5), [(1.0, 200.0)]) == {0: 3.5}


def test_two_transfers_share_it_and_the_rest_speeds_up() -> None:
    assert ends(LinkSpec(bytes_per_s=100.0), [(0.0, 100.0), (0.0, 300.0)]) == {0: 2.0, 1: 4.0}


def test_a_late_one_slows_the_first_down() -> None:
    assert ends(LinkSpec(bytes_per_s=100.0), [(0.0, 200.0), (1.0, 50.0)]) == {1: 2.0, 0: 2.5}


def test_a_transfer_is_no_faster_than_its_network_cards() -> None:
    assert ends(LinkSpec(bytes_per_s=100.0, flow_bytes_per_s=25.0), [(0.0, 100.0), (0.0, 100.0)]) == {0: 4.0, 1: 4.0}


def test_a_cancelled_transfer_leaves_its_share_to_the_others() -> None:
    assert ends(LinkSpec(bytes_per_s=100.0), [(0.0, 200.0), (0.0, 200.0)], {1: 2.0}) == {0: 3.0}


@pytest.mark.parametrize(
    ("name", "alone_s", "congested_s"),
    [pytest.param("uccl", 0.359, 0.384, id="uccl"), pytest.param("ucx", 0.362, 0.424, id="ucx")],
)
def test_published_transfers_of_4_gb(name: str, alone_s: float, congested_s: float) -> None:
    assert ends(LINKS[name], [(0.0, 4e9)])[0] == pytest.approx(alone_s)
    both = ends(LINKS[name], [(0.0, 4e9), (0.0, 4e9)])
    assert both[0] / 2 == pytest.approx(congested_s)


@pytest.mark.parametrize("spec", [LinkSpec(bytes_per_s=0.0), LinkSpec(bytes_per_s=1.0, flow_bytes_per_s=-1.0)])
def test_a_link_without_a_rate_is_refused(spec: LinkSpec) -> None:
    with pytest.raises(ValueError, match="above 0"):
        Link(spec)


@given(st.lists(st.tuples(st.floats(0.0, 10.0), st.floats(1.0, 1e3)), min_size=1, max_size=20))
def test_no_byte_is_lost_and_the_link_is_never_faster_than_itself(transfers: list[tuple[float, float]]) -> None:
    spec = LinkSpec(bytes_per_s=100.0)
    done = ends(spec, transfers)
    assert done.keys() == set(range(len(transfers)))
    for index, (start_s, size) in enumerate(transfers):
        assert done[index] >= start_s + size / 100.0 - 1e-6
    first_s, total = min(start_s for start_s, _ in transfers), sum(size for _, size in transfers)
    assert max(done.values()) >= first_s + total / 100.0 - 1e-6
    assert max(done.values()) <= 10.0 + total / 100.0 + 1e-6
