"""The cheapest composition of variants, and GPUs shared among models: exact against a solver, within every limit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import LinearConstraint, linprog, milp

from fleet.types import GpuInventory
from wva.composition import Option, compose
from wva.inventory import Wish, granted

H100 = Option(name="h100", capacity=1.5, cost=7.98, low=0, high=60)
A100 = Option(name="a100", capacity=0.62, cost=5.58, low=0, high=60)
OPTIONS = st.lists(st.builds(Option, name=st.uuids().map(str), capacity=st.floats(0.3, 5.0), cost=st.floats(1.0, 12.0),
                             low=st.integers(0, 1), high=st.integers(2, 40)), min_size=1, max_size=4)  # fmt: skip


def cost(options: list[Option], counts: dict[str, int]) -> float:
    return sum(counts[one.name] * one.cost for one in options)


@pytest.mark.parametrize("wanted", [10.0, 17.3, 29.9, 44.4])
def test_two_gpus_are_within_three_percent_of_the_linear_optimum(wanted: float) -> None:
    options = [H100, A100]
    relaxed = linprog([one.cost for one in options], A_ub=[[-one.capacity for one in options]], b_ub=[-wanted],
                      bounds=[(one.low, one.high) for one in options])  # fmt: skip
    assert cost(options, compose(options, wanted)) <= 1.03 * relaxed.fun + min(one.cost for one in options) * 0.5


@settings(max_examples=60, deadline=None)
@given(options=OPTIONS, share=st.floats(0.05, 0.95))
def test_composition_is_the_integer_optimum(options: list[Option], share: float) -> None:
    wanted = share * sum(one.high * one.capacity for one in options)
    counts = compose(options, wanted)
    solved = milp(np.array([one.cost for one in options]), integrality=np.ones(len(options)),
                  constraints=LinearConstraint([[one.capacity for one in options]], wanted, np.inf),
                  bounds=([one.low for one in options], [one.high for one in options]))  # fmt: skip
    assert sum(counts[one.name] * one.capacity for one in options) >= wanted - 1e-6
    assert cost(options, counts) <= solved.fun * (1 + 2e-4) + 1e-6


def test_too_little_gives_all_there_is() -> None:
    assert compose([Option(name="a", capacity=1.0, cost=1.0, low=0, high=3)], 99.0) == {"a": 3}


def wish(key: str, requested: int, wanted: int, **changes: object) -> Wish:
    values = {"namespace": "n", "model": key, "accelerator": "h100", "gpus": 2, **changes}
    return Wish(key=key, requested=requested, wanted=wanted, **values)  # type: ignore[arg-type]


@pytest.mark.parametrize(("wishes", "inventory", "found"), [
    pytest.param([wish("a", 1, 4)], None, {"a": 4}, id="no-inventory-no-limit"),
    pytest.param([wish("a", 1, 4)], GpuInventory(gpus={"a100": 1}), {"a": 4}, id="another-gpu-is-no-limit"),
    pytest.param([wish("a", 1, 5), wish("b", 1, 5)], GpuInventory(gpus={"h100": 12}), {"a": 3, "b": 3}, id="halves"),
    pytest.param([wish("a", 1, 9, priority=2.0), wish("b", 1, 9)], GpuInventory(gpus={"h100": 12}),
                 {"a": 4, "b": 2}, id="twice-the-priority-twice-the-share"),
    pytest.param([wish("a", 4, 2), wish("b", 1, 5)], GpuInventory(gpus={"h100": 10}), {"a": 2, "b": 1},
                 id="what-a-decrease-frees-is-free-at-the-next-pass"),
    pytest.param([wish("a", 1, 5)], GpuInventory(quotas={"n": {"*": 4}}), {"a": 2}, id="quota-of-all-kinds"),
    pytest.param([wish("a", 5, 6)], GpuInventory(gpus={"h100": 4}), {"a": 5}, id="what-runs-is-not-taken-away"),
    pytest.param([wish("p", 1, 4, model="m"), wish("d", 1, 8, model="m")], GpuInventory(gpus={"h100": 12}),
                 {"p": 2, "d": 4}, id="prefill-and-decode-grow-in-proportion"),
])  # fmt: skip
def test_gpus_are_shared(wishes: list[Wish], inventory: GpuInventory | None, found: dict[str, int]) -> None:
    assert granted(wishes, inventory) == found
