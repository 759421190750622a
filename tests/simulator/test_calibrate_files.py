"""Files of measured runs, and the command that fits to them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from fleet.errors import ConfigError
from fleet.hardware import MODELS
from simulator.calibrate_cli import calibrate
from simulator.runs import read_runs

HEADER = "run,model,gpu,tp,rate_rps,prompt_tokens,output_tokens,ttft_ms,e2e_ms\n"
ROWS = "a,Qwen3-32B,h100_sxm,2,1,500,200,60,3700\nb,Qwen3-32B,h100_sxm,2,2,500,200,62,3800\n"
MEASURED = (
    "exp_id,model,workload,hardware,tp,precision,max_num_batched_tokens,stage_index,e2e_mean,itl_mean,ttft_mean\n"
    "60,meta-llama/Llama-3.1-70B-Instruct,codegen,H100,4,FP16,2048,-1,4840,19.7,58.1\n"
    "60,meta-llama/Llama-3.1-70B-Instruct,codegen,H100,4,FP16,2048,0,4494,18.3,54.7\n"
    "60,meta-llama/Llama-3.1-70B-Instruct,codegen,H100,4,FP16,2048,1,5013,20.4,59.8\n"
)


def written(folder: Path, text: str, name: str = "runs.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def detailed(**changes: Any) -> dict[str, Any]:
    """As ``vllm bench serve --save-result --save-detailed`` writes it; the third request failed."""
    return {
        "model_id": "meta-llama/Llama-3.1-8B-Instruct", "request_rate": 2.0, "max_concurrency": None, "duration": 2.0,
        "input_lens": [100, 300, 100], "output_lens": [3, 5, 0], "ttfts": [0.02, 0.04, 0.0],
        "itls": [[0.01, 0.01], [0.01, 0.01, 0.01, 0.01], []], "errors": ["", "", "boom"],
    } | changes  # fmt: skip


def run(*arguments: object) -> Result:
    return CliRunner().invoke(calibrate, [str(argument) for argument in arguments])


def test_a_table_of_runs_is_read_with_its_comments(tmp_path: Path) -> None:
    first, second = read_runs(written(tmp_path, f"# measured in May\n{HEADER}{ROWS}"))
    assert (first.name, first.model, first.gpu, first.tensor_parallel) == ("a", "Qwen3-32B", "h100_sxm", 2)
    assert (second.load.rate_rps, second.ttft_s, second.e2e_s) == (2.0, 0.062, 3.8)
    assert first.load.cached_tokens == 0


def test_between_token_latency_stands_in_for_the_whole(tmp_path: Path) -> None:
    (found,) = read_runs(written(tmp_path, "rate_rps,prompt_tokens,output_tokens,ttft_ms,itl_ms\n1,500,101,50,20\n"))
    assert found.e2e_s == pytest.approx(0.05 + 100 * 0.02)


def test_the_published_table_gives_its_stages_with_their_rates(tmp_path: Path) -> None:
    slow, fast = read_runs(written(tmp_path, MEASURED))
    assert (slow.load.rate_rps, fast.load.rate_rps) == (5.0, 10.0)
    assert (slow.model, slow.gpu, slow.tensor_parallel, slow.precision) == ("Llama-3.1-70B", "h100_sxm", 4, "bf16")
    assert slow.load.cached_tokens == 560  # all blocks of 566 tokens
    assert slow.output_counted == pytest.approx((4494 - 54.7) / 18.3 + 1)


def test_the_published_measurements_are_read_whole(traces_dir: Path) -> None:
    found = read_runs(traces_dir / "calibration" / "blis_trainval_actuals.csv")
    assert len(found) == 21
    assert {one.model for one in found} <= set(MODELS)
    assert {one.precision for one in found} == {"bf16", "fp8"}


def test_a_benchmark_is_summed_over_what_succeeded(tmp_path: Path) -> None:
    (found,) = read_runs(written(tmp_path, json.dumps(detailed()), "rate2.json"), cached_share=0.25)
    assert (found.name, found.model, found.load.rate_rps) == ("rate2", "Llama-3.1-8B", 2.0 * 2 / 3)
    assert (found.load.prompt_tokens, found.load.output_tokens, found.load.cached_tokens) == (200, 4, 50)
    assert found.ttft_s == pytest.approx(0.03)
    assert found.e2e_s == pytest.approx(0.03 + 0.03)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param("", "has no column rate_rps", id="empty"),
        pytest.param("rate_rps,prompt_tokens\n1,2\n", "no column output_tokens, ttft_ms, e2e_ms", id="columns-missing"),
        pytest.param(HEADER, "holds no runs", id="no-rows"),
        pytest.param(f"{HEADER}a,Qwen3-32B,h100_sxm,2,fast,1,2,3,4\n", "line 2: bad row: rate_rps is 'fast'",
                     id="no-number"),
        pytest.param(f"{HEADER}a,Qwen3-32B,h100_sxm,2,1,1,2,-3,4\n", "line 2: bad row: ttft_ms is -3", id="negative"),
        pytest.param(f"{HEADER}a,GPT-7,h100_sxm,2,1,1,2,3,4\n", "unknown model 'GPT-7'", id="unknown-model"),
        pytest.param(f"#c\n\n{HEADER}{ROWS}c,Qwen3-32B,h100_sxm,x,1,1,2,3,4\n", "line 6: bad row",
                     id="line-numbers-hold"),
        pytest.param("rate_rps,prompt_tokens,output_tokens,ttft_ms,e2e_ms,cached_tokens\n1,10,2,3,4,10\n",
                     "cached_tokens 10 of a prompt of 10", id="all-of-a-prompt-cached"),
        pytest.param(MEASURED.replace("codegen", "chess"), "bad row: 'chess'", id="unknown-workload"),
        pytest.param("{", "is no JSON", id="broken-json"),
        pytest.param(json.dumps({"ttfts": []}), "has no input_lens, output_lens, itls, duration", id="no-details"),
        pytest.param(json.dumps(detailed(request_rate="inf")), "sent at once", id="all-at-once"),
        pytest.param(json.dumps(detailed(ttfts=[0.1])), "is no detailed result", id="lengths-differ"),
        pytest.param(json.dumps(detailed(output_lens=[0, 0, 0])), "no request succeeded", id="nothing-succeeded"),
    ],
)  # fmt: skip
def test_bad_files_give_one_line(tmp_path: Path, text: str, said: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        read_runs(path)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_gives_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        read_runs(tmp_path / "absent.csv")


def test_all_at_once_is_steady_where_the_client_limits_itself(tmp_path: Path) -> None:
    (found,) = read_runs(written(tmp_path, json.dumps(detailed(request_rate="inf", max_concurrency=8)), "c8.json"))
    assert found.load.rate_rps == 1.0


# ---- the command


def test_the_command_fits_the_pair_that_the_file_names(tmp_path: Path) -> None:
    out = tmp_path / "fit.json"
    result = run(written(tmp_path, HEADER + ROWS), "--out", out)
    assert result.exit_code == 0, result.output
    assert "Qwen3-32B on 2 x h100_sxm, bf16: 2 runs, prior from the table" in result.output
    found = json.loads(out.read_text())
    assert (found["source"], found["runs"]) == ("fitted", 2)
    assert found["coefficients"]["d0"] > 0
    assert set(found["error_pct"]) == {"prior", "in_sample", "leave_one_run_out"}
    assert found["error_pct"]["in_sample"]["e2e"] <= found["error_pct"]["prior"]["e2e"]


def test_a_benchmark_needs_to_be_told_its_gpu(tmp_path: Path) -> None:
    path = written(tmp_path, json.dumps(detailed()), "rate2.json")
    with pytest.raises(ConfigError, match=r"do not name their gpu.*Give --gpu"):
        _raise(run(path))
    found = json.loads(run(path, "--gpu", "l40s", "--tp", 1, "--json").output)
    assert (found["model"], found["gpu"], found["prior"]) == ("Llama-3.1-8B", "l40s", "table")
    assert found["error_pct"]["leave_one_run_out"] is None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param((), "runs of 2 pairs of model and GPU", id="which-of-two"),
        pytest.param(("--model", "Qwen3-8B"), "no run of that model", id="none-of-that-model"),
        pytest.param(("--gpu", "l40s"), "no run of that model and GPU", id="none-on-that-gpu"),
    ],
)
def test_an_unclear_choice_gives_one_line(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    path = written(tmp_path, f"{HEADER}{ROWS}c,Yi-34B,h100_sxm,2,1,500,200,60,3700\n")
    with pytest.raises(ConfigError, match=said):
        _raise(run(path, *arguments))


def test_one_of_several_pairs_can_be_chosen(tmp_path: Path) -> None:
    path = written(tmp_path, f"{HEADER}{ROWS}c,Yi-34B,h100_sxm,2,1,500,200,60,3700\n")
    assert json.loads(run(path, "--model", "Yi-34B", "--json").output)["prior"] == "roofline"


def _raise(result: Result) -> None:
    assert result.exception is not None, result.output
    raise result.exception
