"""The fleet file: what is refused, on one line, and what defaults come out."""

import itertools
from pathlib import Path

import pytest

from fleet.errors import ConfigError
from fleet.hardware import COEFFICIENTS
from simulator.engine_main import engine
from simulator.engine_options import EngineOptions
from simulator.hosting import engine_command
from simulator.manager import backoff_s, check_bootstrap_ports, startup_time_s
from simulator.settings import load_fleet_file
from simulator.transfer import Role

GOOD = {"name": "a", "shape": "Llama-3.1-8B", "accelerator": "h100_sxm"}


def write(folder: Path, text: str) -> Path:
    path = folder / "fleet.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def with_variant(**fields: object) -> str:
    return f"model: m\nvariants: [{ {**GOOD, **fields} }]\n"


def test_a_short_file_gets_defaults(tmp_path: Path) -> None:
    fleet = load_fleet_file(write(tmp_path, with_variant(accelerator_count=2)))
    (variant,) = fleet.variants
    spec = variant.spec(fleet.model)
    assert (spec.model, spec.cost_per_hour, spec.min_replicas, variant.first_replicas) == ("m", 2 * 3.99, 1, 1)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param("model: m\nvariant: []\nvariants: []\n", "variants: ", id="no-variant"),
        pytest.param("modle: m\n", "model: Field required", id="no-model"),
        pytest.param(with_variant(max_replica=3), "variants.0.max_replica: unknown key. Did you mean max_replicas?",
                     id="misspelt-key"),
        pytest.param(with_variant(colour="red"), "unknown key. Known: name, shape", id="unknown-key"),
        pytest.param(with_variant(accelerator="h100_sx"), "variants.0 (a): unknown accelerator 'h100_sx'",
                     id="unknown-gpu"),
        pytest.param(with_variant(shape="Qwen3-32B", accelerator="l40s"), "weights of Qwen3-32B do not fit 1 x l40s",
                     id="weights-larger-than-memory"),
        pytest.param(with_variant(kv_tokens=10**9), "kv_tokens is 1000000000", id="cache-larger-than-memory"),
        pytest.param(with_variant(min_replicas=5, max_replicas=2), "min_replicas 5 is above max_replicas 2",
                     id="bounds-crossed"),
        pytest.param(with_variant(initial_replicas=99), "initial_replicas 99 is above", id="too-many-at-first"),
        pytest.param(with_variant(ttft_buckets=[0.2, 0.1]), "ttft_buckets", id="buckets-not-ascending"),
        pytest.param(with_variant(kv_events="tcp://*:5557"), "variants.0.kv_events", id="every-engine-binds-one-port"),
        pytest.param(with_variant(output_law="short"), "'short' is no law of answer lengths", id="unknown-law"),
        pytest.param(with_variant(faults=["explode"]), "'explode' is no fault", id="unknown-fault"),
        pytest.param(with_variant(role="both-ways"), "variants.0.role", id="unknown-role"),
        pytest.param(with_variant(role="both", kv_connector="moon"), "variants.0.kv_connector", id="unknown-connector"),
        pytest.param(with_variant(kv_connector="mooncake"), "kv_connector mooncake needs a role", id="no-role"),
        pytest.param(with_variant(startup_s="soon"), "variants.0.startup_s: 'soon'", id="wrong-type"),
        pytest.param(with_variant(name="Bad Name"), "variants.0.name", id="name-no-label-may-have"),
        pytest.param(f"model: m\nvariants: [{GOOD}, {GOOD}]\n", "variant names repeat: a, a", id="same-name-twice"),
        pytest.param("- 1\n", "fleet.yaml", id="a-list"),
        pytest.param("a: [", "is no YAML", id="no-yaml"),
    ],
)  # fmt: skip
def test_bad_files_give_one_line(tmp_path: Path, text: str, said: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_fleet_file(path)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_weights_larger_than_memory_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    two_gpus = COEFFICIENTS["Llama-3.1-70B", "h100_sxm", 2]
    monkeypatch.setitem(COEFFICIENTS, ("Llama-3.1-70B", "h100_sxm", 1), two_gpus)
    with pytest.raises(ConfigError, match=r"weights of Llama-3.1-70B do not fit 1 x h100_sxm: 131.4 GiB"):
        load_fleet_file(write(tmp_path, with_variant(shape="Llama-3.1-70B")))


def test_a_missing_file_gives_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        load_fleet_file(tmp_path / "absent.yaml")


def test_start_up_times_vary_by_name_within_the_jitter_and_repeat(tmp_path: Path) -> None:
    (entry,) = load_fleet_file(write(tmp_path, with_variant(startup_s=10, startup_jitter=0.2))).variants
    times = [startup_time_s(entry, seed=1, replica=f"a-{index}/0") for index in range(20)]
    assert len(set(times)) == 20
    assert all(8.0 <= seconds <= 12.0 for seconds in times)
    assert times == [startup_time_s(entry, seed=1, replica=f"a-{index}/0") for index in range(20)]
    assert times != [startup_time_s(entry, seed=2, replica=f"a-{index}/0") for index in range(20)]


def test_the_engines_command_carries_what_the_file_says(tmp_path: Path) -> None:
    variant = {
        "kv_tokens": 24_000, "ttft_buckets": [0.1, 0.2], "role": "prefill", "kv_events": "tcp://127.0.0.1:5557",
        "kv_events_replay": True, "max_loras": 2, "lora_modules": {"sql": "adapters/sql", "chat": "x"},
        "metrics_version": "0.16", "output_law": "fixed:9", "faults": ["slow:factor=3"],
    }  # fmt: skip
    fleet = load_fleet_file(write(tmp_path, with_variant(**variant)))
    command = engine_command(fleet.variants[0].options(fleet, startup_s=1.0), host="127.0.0.1", port=9100)
    pairs = list(itertools.pairwise(command))
    for wanted in (
        ("--kv-tokens", "24000"), ("--ttft-buckets", "0.1,0.2"), ("--model", "m"), ("--startup-s", "1.0"),
        ("--role", "prefill"), ("--kv-events", "tcp://127.0.0.1:5557"), ("--kv-events-replay", "tcp://127.0.0.1:*"),
        ("--max-loras", "2"), ("--lora-module", "sql=adapters/sql"), ("--lora-module", "chat=x"),
        ("--metrics-version", "0.16"), ("--output-law", "fixed:9"), ("--fault", "slow:factor=3"), ("--port", "9100"),
    ):  # fmt: skip
        assert wanted in pairs
    assert "--max-num-seqs" not in command
    assert "--die-with-parent" in command


def test_the_command_line_and_the_options_agree() -> None:
    options = EngineOptions(
        model="m", accelerator="a100_sxm", kv_tokens=24_000, speed=7.5, role="decode", max_loras=1,
        lora_module=("a=b", "c=d"), show_hidden_metrics=True, metrics_version="0.11", fault=("hang", "slow:factor=9"),
    )  # fmt: skip
    context = engine.make_context("engine", options.arguments())
    parsed = {name: value for name, value in context.params.items() if name in EngineOptions.__slots__}
    assert EngineOptions(**parsed) == options


def test_the_connector_goes_to_the_engine(tmp_path: Path) -> None:
    text = with_variant(role="prefill", kv_connector="mooncake", kv_bootstrap_port=8990)
    fleet = load_fleet_file(write(tmp_path, text))
    options = fleet.variants[0].options(fleet, startup_s=0.0)
    assert (options.role, options.kv_connector, options.kv_bootstrap_port) == ("prefill", "mooncake", 8990)


def test_bootstrap_servers_that_would_meet_on_one_port_are_refused(tmp_path: Path) -> None:
    variant = {"role": "prefill", "kv_connector": "mooncake", "max_replicas": 3}
    entries = load_fleet_file(write(tmp_path, with_variant(**variant))).variants
    with pytest.raises(ConfigError, match=r"up to 3 engines would run a bootstrap server on port 8998 of 10.1.2.3"):
        check_bootstrap_ports(entries, "10.1.2.3")
    check_bootstrap_ports([entries[0].model_copy(update={"max_replicas": 1})], "10.1.2.3")
    check_bootstrap_ports([entries[0].model_copy(update={"role": Role.DECODE})], "10.1.2.3")


def test_back_off_doubles_up_to_a_limit() -> None:
    delays = [backoff_s(count) for count in range(1, 12)]
    assert delays == sorted(delays)
    assert (delays[0], delays[-1]) == (0.5, 30.0)
