"""The artifact: what is written is read; what was changed is refused on one line and the old model stays."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import numpy as np
import pytest

from predictor import artifact
from predictor.client import Watcher
from predictor.fit import fit_once
from predictor.model import LatencyModel
from predictor.samples import dataset


@pytest.fixture(scope="module")
def model(world) -> LatencyModel:
    fitted = fit_once(dataset(world(400)), now_s=12.5).model
    assert fitted is not None
    return fitted


def _tampered(model: LatencyModel, how: str) -> str:
    data = artifact.to_dict(model)
    if how == "coefficient":
        data["ttft"]["shared"][0] += 0.001
    elif how == "features":
        data["features"][0] = "colour"
    elif how == "schema":
        data["schema"] = 99
    elif how == "missing":
        data = artifact.signed({key: value for key, value in data.items() if key not in ("tpot", "checksum")})
    elif how == "negative":
        data["tpot"]["shared"][0] = -1.0
        data = artifact.signed({key: value for key, value in data.items() if key != "checksum"})
    text = json.dumps(data)
    return text[: len(text) // 2] if how == "half" else "[1]" if how == "list" else text


def test_round_trip_predicts_the_same(model, tmp_path: Path, world) -> None:
    path = tmp_path / "deep" / "model.json"
    artifact.write(model, path)
    found, later = artifact.read(path), dataset(world(100, seed=1))
    before, after = (m.predict_for(later.matrix, later.endpoints, later.variants) for m in (model, found))
    np.testing.assert_array_equal(before.ttft_s, after.ttft_s)
    np.testing.assert_array_equal(before.tpot_s, after.tpot_s)
    high = [m.quantile(later.matrix, p, 0.9, m.places(later.endpoints, later.variants)).tpot_s
            for m, p in ((model, before), (found, after))]  # fmt: skip
    np.testing.assert_array_equal(*high)
    assert (found.fitted_at_s, found.ttft.samples, found.tpot.score) == (12.5, 400, model.tpot.score)
    assert [file.name for file in path.parent.iterdir()] == ["model.json"]


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("coefficient", "checksum does not match"),
        ("features", "features differ"),
        ("schema", "schema differ"),
        ("missing", "missing or malformed"),
        ("negative", "finite numbers >= 0"),
        ("half", "is no JSON"),
        ("list", "is no JSON object"),
    ],
)
def test_tampering_is_refused_on_one_line(model, tmp_path: Path, how: str, says: str) -> None:
    path = tmp_path / "model.json"
    path.write_text(_tampered(model, how))
    with pytest.raises(artifact.ArtifactError) as caught:
        artifact.read(path)
    assert says in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert artifact.load(path) is None


def _older(model: LatencyModel) -> dict[str, object]:
    """As schema 2 had it."""
    data = artifact.to_dict(model)
    del data["checksum"]
    for target in ("ttft", "tpot"):
        del data[target]["widths"]
        del data[target]["quantiles"][2]
    return artifact.signed({**data, "schema": 2, "groups": ["idle", "pending", "queued"]})


def test_widths_of_endpoints_come_back(model) -> None:
    assert model.ttft.widths
    found = artifact.from_dict(artifact.to_dict(model))
    assert (found.ttft.widths, found.tpot.widths) == (model.ttft.widths, model.tpot.widths)


def test_the_schema_before_is_read_without_widths(model) -> None:
    found = artifact.from_dict(_older(model))
    assert not found.tpot.widths
    assert found.tpot.scales == model.tpot.scales
    np.testing.assert_array_equal(found.ttft.quantiles, model.ttft.quantiles[[0, 1, 1, 3]])
    with pytest.raises(artifact.ArtifactError, match="groups differ"):
        artifact.from_dict(artifact.signed({**artifact.to_dict(model), "schema": 2}))


def test_no_file_is_no_error(tmp_path: Path) -> None:
    assert artifact.load(tmp_path / "none.json") is None


def test_an_unwritable_folder_gives_one_line(model) -> None:
    with pytest.raises(artifact.ArtifactError, match="cannot be written"):
        artifact.write(model, Path("/proc/nothing/model.json"))


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_watcher_takes_a_new_file_and_keeps_it_when_the_next_is_bad(model, tmp_path: Path, caplog) -> None:
    path, clock = tmp_path / "model.json", Clock()
    watcher = Watcher(path, check_s=1.0, clock=clock)
    rows = [[100.0] + [0.0] * 7]
    assert watcher.cold
    assert watcher.predict_for(rows, ["http://a:1"], ["h100"]) is None

    artifact.write(model, path)
    assert watcher.cold, "looks at most once a second"
    clock.now += 1.0
    found = watcher.predict_for(rows, ["http://a:1"], ["h100"])
    assert found is not None
    assert found.ttft_s.shape == found.tpot_s.shape == (1,)

    path.write_text(_tampered(model, "coefficient"))
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            clock.now += 1.0
            assert watcher.model is not None
    assert len(caplog.records) == 1, "said once, not once a second"

    path.unlink()
    clock.now += 1.0
    assert not watcher.cold


def test_watcher_sees_a_replacement_of_the_same_size_and_time(model, tmp_path: Path) -> None:
    path, clock = tmp_path / "model.json", Clock()
    watcher = Watcher(path, check_s=1.0, clock=clock)
    artifact.write(model, path)
    first, stamp = watcher.model, path.stat()
    artifact.write(model, path)
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    clock.now += 1.0
    assert watcher.model is not first
