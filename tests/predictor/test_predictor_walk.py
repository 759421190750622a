"""The predictor's HTTP interface, asked by its own OpenAPI document over a socket, cold and warm."""

from __future__ import annotations

from pathlib import Path

import pytest

from predictor import artifact
from predictor.fit import fit_once
from predictor.learner import Learner
from predictor.samples import dataset
from predictor.server import make_app
from predictor.settings import PredictorSettings
from tests.api_walk import served, walk


@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
def test_the_server_keeps_to_its_document(warm: bool, world, tmp_path: Path) -> None:
    if warm:
        model = fit_once(dataset(world(300)), now_s=1_700_000_000.0).model
        assert model is not None
        artifact.write(model, tmp_path / "model.json")
    learner = Learner(PredictorSettings(), history_url=f"sqlite:///{tmp_path / 'h.sqlite3'}",
                      model_path=tmp_path / "model.json")  # fmt: skip
    learner.restore()
    app = make_app(learner)
    with served(app) as url:
        seen = walk(app.openapi(), url)
    good = 200 if warm else 503
    for label in ("POST /predict", "POST /predict/bulk", "POST /predict/bulk/strict"):
        assert seen[label] >= {good, 422}
    assert seen["GET /model/download"] == {good}
    assert seen["POST /add_training_data_bulk"] >= {202, 422}
    assert 500 not in set().union(*seen.values())
