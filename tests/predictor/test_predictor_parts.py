"""Lengths, hardware prior, advice, boosted tables, report and the samples' way out and back in."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from fleet.errors import ConfigError
from fleet.history import History
from fleet.types import VariantSpec
from predictor import advice, steplaw
from predictor.boost import fit_table
from predictor.cli import predictor
from predictor.evaluate import evaluation
from predictor.features import NAMES, matrix
from predictor.fit import fit_once
from predictor.lengths import Lengths
from predictor.model import Rung
from predictor.prior import law_named, laws_of, prior_model
from predictor.quantile_net import quantile_net
from predictor.report import html
from predictor.residual import bins, factor
from predictor.samples import dataset

ROWS = matrix([{"input_tokens": 500.0}, {"input_tokens": 500.0, "prefill_tokens_in_flight": 20_000.0}])


def test_lengths_are_the_clients_once_it_is_known() -> None:
    lengths = Lengths()
    for _ in range(300):
        lengths.add("m", "chat", 100)
        lengths.add("m", "essay", 2000)
    assert lengths.of("m", "chat").mean() == pytest.approx(100, rel=0.7)
    assert lengths.of("m", "essay").quantile(0.5) == pytest.approx(2000, rel=0.2)
    assert 400 < lengths.of("m", "nobody").mean() < 1500
    assert lengths.of("m", "essay").mean(most=100.0) <= 100
    assert lengths.of("m").remaining(200.0) > lengths.of("m", "chat").remaining(200.0)


def test_broken_off_answers_count_as_longer() -> None:
    whole, broken = Lengths(), Lengths()
    for turn in range(400):
        for one in (whole, broken):
            one.add("m", "", 100)
        broken.add("m", "", 60, complete=False)
        whole.add("m", "", 60)
        broken.add("m", "", 800 if turn % 2 else 100)
        whole.add("m", "", 800 if turn % 2 else 100)
    assert broken.of("m").mean() > 1.2 * whole.of("m").mean()


def test_a_prior_is_served_as_what_it_is() -> None:
    spec = VariantSpec(name="v", model="meta-llama/Llama-3.1-8B-Instruct", accelerator="h100_sxm")
    model = prior_model(laws_of([spec]), now_s=1.0)
    assert model.cold
    assert model.rung is Rung.PRIOR
    found = model.predict_for(ROWS, ["", ""], ["v", "v"])
    assert 0.01 < found.ttft_s[0] < 0.1 < found.ttft_s[1] < 2.0
    assert 0.004 < found.tpot_s[0] < 0.02
    with pytest.raises(ConfigError, match="no hardware data"):
        law_named("nothing:h100_sxm:1")


def test_a_fitted_law_as_the_cost_of_a_step(world) -> None:
    model = fit_once(dataset(world(600)), now_s=0.0).model
    assert model is not None
    law = steplaw.of_coefficients(model.ttft.coefficients("", "h100"), model.tpot.coefficients("", "h100"))
    assert law.step_s == pytest.approx(0.008, rel=0.5)
    assert law.prompt_token_s == pytest.approx(2e-5, rel=0.6)


def test_chances_fall_with_load_and_bound_the_hint(world) -> None:
    model = fit_once(dataset(world(600)), now_s=0.0).model
    assert model is not None
    places = model.places(["", ""], ["h100", "h100"])
    point = model.predict_at(ROWS, places)
    met = advice.chance(model, ROWS, point, places, ttft_s=0.2)
    assert met[0] > 0.9
    assert met[1] < 0.5
    assert advice.admission(met) == met[0]
    assert advice.chance(model, ROWS, point, places).tolist() == [1.0, 1.0]


def test_exploration_is_rare_and_only_where_it_is_safe() -> None:
    high, spread = np.array([1.0, 1.1, 1.2, 9.0]), np.array([0.4, 0.4, 0.9, 5.0])
    found = advice.explorable(high, spread)
    assert found.tolist()[:2] == [0.0, 0.0]
    assert found[3] == 0.0
    assert 0.0 < found[2] <= advice.EXPLORE


def test_boosted_tables_find_a_step_and_never_fall(world) -> None:
    data = dataset(world(900))
    left = np.where(data.matrix[:, NAMES.index("requests_in_flight")] > 30, 0.5, 0.0)
    left = left + np.random.default_rng(0).normal(0, 0.05, len(left))
    table = fit_table(data.matrix, left)
    assert (np.diff(table, axis=1) >= 0).all()
    found = np.log(factor(table, bins(data.matrix)))
    assert np.mean(np.abs(found - left)) < 0.3 * np.mean(np.abs(left - np.median(left)))


def test_the_report_is_one_page_without_scripts(world) -> None:
    report = evaluation(dataset(world(400)), sizes=(20, 100))
    page = html(report, title="a <b> run")
    assert "<script" not in page
    assert "a &lt;b&gt; run" in page
    assert page.count("<svg") == 4
    assert {point["method"] for point in report["curve"]} == {"ours", "upstream", "token-load", "lmetric"}
    assert not any(isinstance(v, float) and math.isnan(v) for p in report["curve"] for v in p["score"].values())


def test_samples_go_out_and_come_back_in(tmp_path: Path, world) -> None:
    lines = [{"features": dict(zip(NAMES, s.features, strict=True)), "ttft_s": s.ttft_s, "tpot_s": s.tpot_s,
              "endpoint": s.endpoint, "variant": s.variant} for s in world(40)]  # fmt: skip
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("\n".join([*map(json.dumps, lines), '{"features": {}}', "garbage"]))
    url = f"sqlite:///{tmp_path / 'h.sqlite3'}"
    found = CliRunner().invoke(predictor, ["import", str(source), "--history-url", url])
    assert found.output.strip() == "40 samples imported; refused: 2 no_sample"
    History(url).close()
    assert CliRunner().invoke(predictor, ["export", "--out", str(out), "--history-url", url]).exit_code == 0
    back = [json.loads(line) for line in out.read_text().splitlines()]
    assert [one["ttft_s"] for one in back] == [one["ttft_s"] for one in lines]


def test_the_quantile_network_learns_in_the_same_frame(world) -> None:
    pytest.importorskip("torch", reason="torch is an extra")
    rows, later = dataset(world(600)), dataset(world(200, seed=9))
    fitted = quantile_net(rows)
    for target in ("ttft", "tpot"):
        band, upper = fitted.band(later, target), fitted.upper(later, target)
        assert band is not None
        assert upper is not None
        low, high = band
        assert (low > 0).all()
        assert (low <= fitted.point(later, target)).all()
        assert (upper <= high).all()
        assert np.median(np.abs(fitted.point(later, target) / later.target(target) - 1.0)) < 0.3


def test_without_torch_the_network_says_what_to_install(world, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ConfigError, match="torch is not installed"):
        quantile_net(dataset(world(40)))
