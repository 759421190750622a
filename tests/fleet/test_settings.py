"""Settings: environment, command line, and one line for what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from fleet.errors import ConfigError
from fleet.settings import FleetSettings, load, load_slos, read_yaml
from fleet.slo import DEFAULT_SLOS, parse_slos


def test_the_environment_is_read_and_the_command_line_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEET_HISTORY_KEEP_S", "60")
    assert load(FleetSettings).history_keep_s == 60
    assert load(FleetSettings, history_keep_s=5.0).history_keep_s == 5
    assert load(FleetSettings, history_keep_s=None).history_keep_s == 60


def test_an_unknown_variable_names_the_nearest_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEET_HISTRY_URL", "x")
    with pytest.raises(ConfigError, match=r"unknown setting FLEET_HISTRY_URL.*Did you mean FLEET_HISTORY_URL\?"):
        load(FleetSettings)


def test_a_value_out_of_range_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEET_HISTORY_KEEP_S", "-1")
    with pytest.raises(ConfigError, match="FLEET_HISTORY_KEEP_S"):
        load(FleetSettings)


def test_the_history_defaults_to_a_file_in_the_home_folder(tmp_path: Path) -> None:
    assert load(FleetSettings, home=tmp_path).resolved_history_url() == f"sqlite:///{tmp_path}/history.sqlite3"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param("default: {ttft: {threshold_s: -1}}", r"default\.ttft\.threshold_s", id="negative-threshold"),
        pytest.param("default: {tttft: {threshold_s: 1}}", "unknown key 'tttft'", id="misspelt-key"),
        pytest.param("models: [a]", "must be a mapping", id="models-as-a-list"),
        pytest.param("default: {success_rate: 1.0}", "success_rate", id="a-promise-without-any-budget"),
        pytest.param("slo: 1", "keys default and models", id="wrong-top-level"),
        pytest.param("default: {ttft: 0.2}", "no latency target", id="bare-number"),
        pytest.param("a: [", "line", id="no-yaml"),
    ],
)
def test_a_bad_slo_file_gives_one_line_that_names_the_place(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "slos.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=words) as caught:
        load_slos(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_file() -> None:
    with pytest.raises(ConfigError, match="no such file"):
        read_yaml(Path("/nonexistent.yaml"))


def test_a_model_overrides_the_default_key_by_key_and_null_withdraws() -> None:
    book = parse_slos({"models": {"llama": {"ttft": {"threshold_s": 0.5, "objective": 0.9}, "tpot": None}}})
    llama, other = book.of("llama"), book.of("other")
    assert llama.ttft is not None
    assert (llama.ttft.threshold_s, llama.ttft.objective, llama.tpot) == (0.5, 0.9, None)
    assert llama.success_rate == DEFAULT_SLOS.default.success_rate
    assert other.ttft == DEFAULT_SLOS.default.ttft
    assert other.model == "other"


def test_an_empty_document_is_the_default() -> None:
    assert parse_slos(None) is DEFAULT_SLOS
    assert load_slos(None) is DEFAULT_SLOS
