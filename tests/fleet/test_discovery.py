"""Fleet documents and fixed engine lists."""

from __future__ import annotations

import pytest

from fleet.discovery import parse_fleet, parse_inventory, static_fleet, variant_to_json
from fleet.errors import ConfigError, SourceError
from fleet.types import GpuInventory, Replica, ReplicaState, Role, Variant, VariantSpec


def test_a_variant_survives_the_round_trip() -> None:
    spec = VariantSpec(name="v", model="m", accelerator="h100_sxm", role=Role.DECODE, cost_per_hour=3.99,
                       startup_s=8.0)  # fmt: skip
    replica = Replica(name="v-0", url="http://h:1", variant="v", state=ReplicaState.STARTING, since_s=5.0,
                      created_s=4.0)  # fmt: skip
    variant = Variant(spec=spec, requested=2, replicas=(replica,))
    assert parse_fleet({"variants": [variant_to_json(variant)]}, where="test") == (variant,)


@pytest.mark.parametrize("document", [None, [], {"variants": [{}]}, {"variants": 3}], ids=repr)
def test_another_shape_gives_one_line(document: object) -> None:
    with pytest.raises(SourceError, match="no fleet document"):
        parse_fleet(document, where="http://x")


def test_engines_become_one_variant_that_keeps_its_size() -> None:
    (variant,) = static_fleet(["http://a:8000/", " http://b:8000 "], model="m")
    assert [replica.url for replica in variant.replicas] == ["http://a:8000", "http://b:8000"]
    assert variant.requested == 2


@pytest.mark.parametrize("urls", [["a:8000"], [""], []], ids=["no-scheme", "blank", "none"])
def test_bad_engine_lists_give_one_line(urls: list[str]) -> None:
    with pytest.raises(ConfigError, match="http://host:8000"):
        static_fleet(urls)


def test_gpus_of_a_fleet_document() -> None:
    assert parse_inventory({"variants": [], "gpus": {"h100_sxm": 2}}, where="x") == GpuInventory(gpus={"h100_sxm": 2})
    assert parse_inventory({"variants": []}, where="x") is None
    for wrong in ([], {"h100_sxm": "many"}, 3):
        with pytest.raises(SourceError, match="gpus are no counts"):
            parse_inventory({"gpus": wrong}, where="x")
