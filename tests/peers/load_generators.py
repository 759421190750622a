"""Public load generators, unchanged, against a simulated engine: ``make bench-load``.

Runs in the environment that has guidellm (and with it ``tokenizers``), so it imports nothing of ours. The engine runs
in the project's own environment. ``vllm bench serve`` runs too when ``--vllm`` names the Python of an environment that
has vLLM. Prints a Markdown report.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

ROOT = Path(__file__).resolve().parents[2]
MODEL = "sim"
PROMPT, OUTPUT = 512, 128
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
PROFILES = (("concurrent", {"streams": 1}, 20), ("concurrent", {"streams": 16}, 160), ("poisson", {"rate": 10}, 200))
METRICS = ("time_to_first_token_seconds", "inter_token_latency_seconds", "e2e_request_latency_seconds")
_NUMBER = re.compile(r"^(\S+?)(?:\{.*\})? (\S+)$")


def make_tokenizer(folder: Path) -> None:
    """A small BPE tokenizer, trained on the project's own documents: nothing is fetched."""
    texts = [path.read_text(encoding="utf-8") for path in sorted(ROOT.glob("docs/**/*.md"))]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=4096, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet,
                                  show_progress=False)  # fmt: skip
    tokenizer.train_from_iterator(texts, trainer)
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    about = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>",
             "model_max_length": 131_072}  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(about), encoding="utf-8")


@contextmanager
def engine(python: str) -> Iterator[str]:
    """A simulated engine's address."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    command = [python, "-m", "simulator.engine_main", "--port", str(port), "--model", MODEL]
    process = subprocess.Popen(command, cwd=ROOT)
    url = f"http://127.0.0.1:{port}"
    try:
        while not _answers(url):
            if process.poll() is not None:
                raise SystemExit("the engine did not start")
            time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait(10)


def _answers(url: str) -> bool:
    try:
        return urllib.request.urlopen(url + "/health").status == 200  # our own engine
    except OSError:
        return False


def counters(url: str) -> dict[str, float]:
    """Sums and counts of the engine's own latency histograms."""
    page = urllib.request.urlopen(url + "/metrics").read().decode()
    found = {}
    for line in page.splitlines():
        match = _NUMBER.match(line)
        name = match[1].removeprefix("vllm:") if match else ""
        if match and any(name in {f"{metric}_sum", f"{metric}_count"} for metric in METRICS):
            found[name] = float(match[2])
    return found


def own_means_ms(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    """Mean latencies by the engine's own count, milliseconds."""
    return {
        metric: 1000.0 * (after[f"{metric}_sum"] - before[f"{metric}_sum"])
        / max(1.0, after[f"{metric}_count"] - before[f"{metric}_count"])
        for metric in METRICS
    }  # fmt: skip


def run_guidellm(url: str, folder: Path, profile: tuple[str, dict[str, int], int]) -> list[str]:
    """One row of the report."""
    kind, settings, requests = profile
    out = folder / f"{kind}.json"
    given = ",".join([f"kind={kind}", *(f"{name}={value}" for name, value in settings.items())])
    command = [
        str(Path(sys.executable).parent / "guidellm"), "run", "--profile", given,
        "--backend", f"kind=openai_http,target={url},model={MODEL}",
        "--constraint", f"kind=max_requests,count={requests}",
        "--tokenizer", f"kind=huggingface_auto,model={folder / 'tokenizer'}",
        "--data", f"kind=synthetic_text,prompt_tokens={PROMPT},output_tokens={OUTPUT}",
        "--output", f"kind=json,path={out}", "--disable-console",
    ]  # fmt: skip
    before = counters(url)
    subprocess.run(command, check=True, env={**os.environ, **OFFLINE}, cwd=folder)
    own = own_means_ms(before, counters(url))
    benchmark = json.loads(out.read_text(encoding="utf-8"))["benchmarks"][0]
    metrics, totals = benchmark["metrics"], benchmark["metrics"]["request_totals"]
    rate = metrics["output_token_count"]["successful"]["total_sum"] / benchmark["duration"]

    def mean(name: str) -> float:
        return float(metrics[name]["successful"]["mean"])

    seen = {"ttft": mean("time_to_first_token_ms"), "itl": mean("inter_token_latency_ms"),
            "e2e": 1000 * mean("request_latency")}  # fmt: skip
    counts = f"{totals['successful']} / {totals['errored']}"
    return _row(f"guidellm {given.removeprefix('kind=')}", counts, seen, own, rate)


def run_vllm_bench(python: str, url: str, folder: Path) -> list[str]:
    """One row of the report."""
    out = folder / "vllm.json"
    arguments = ["vllm", "bench", "serve", "--backend", "openai", "--base-url", url, "--model", MODEL,
                 "--served-model-name", MODEL, "--tokenizer", str(folder / "tokenizer"), "--dataset-name", "random",
                 "--random-input-len", str(PROMPT), "--random-output-len", str(OUTPUT), "--num-prompts", "200",
                 "--request-rate", "10", "--ignore-eos", "--save-result", "--result-filename", str(out)]  # fmt: skip
    code = f"import sys; from vllm.entrypoints.cli.main import main; sys.argv = {arguments!r}; main()"
    before = counters(url)
    subprocess.run([python, "-c", code], check=True, env={**os.environ, **OFFLINE}, cwd=folder)
    own = own_means_ms(before, counters(url))
    result = json.loads(out.read_text(encoding="utf-8"))
    seen = {"ttft": result["mean_ttft_ms"], "itl": result["mean_itl_ms"],
            "e2e": result["mean_ttft_ms"] + result["mean_tpot_ms"] * (OUTPUT - 1)}  # fmt: skip
    counts = f"{result['completed']} / {result.get('failed', 0)}"
    return _row("vllm bench serve, rate=10", counts, seen, own, result["output_throughput"])


def _row(name: str, counts: str, seen: dict[str, float], own: dict[str, float], rate: float) -> list[str]:
    ttft, itl, e2e = (own[metric] for metric in METRICS)
    return [name, counts, f"{seen['ttft']:.1f} / {ttft:.1f}", f"{seen['itl']:.2f} / {itl:.2f}",
            f"{seen['e2e']:.0f} / {e2e:.0f}", f"{rate:.0f}"]  # fmt: skip


def main() -> None:
    """Run all, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine-python", default=sys.executable, help="Python of the project's environment.")
    parser.add_argument("--vllm", help="Python of an environment with vLLM, to run `vllm bench serve` too.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, engine(str(Path(options.engine_python).absolute())) as url:
        folder = Path(name)
        make_tokenizer(folder / "tokenizer")
        rows = [run_guidellm(url, folder, profile) for profile in PROFILES]
        if options.vllm:
            rows.append(run_vllm_bench(options.vllm, url, folder))
    head = ["generator", "completed / failed", "TTFT ms", "ITL ms", "E2E ms", "output tok/s"]
    table = ["| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows]]
    about = f"guidellm {version('guidellm')}, Python {platform.python_version()}, {os.cpu_count()} cores"
    sys.stdout.write("\n".join([about, "", *table, ""]))


if __name__ == "__main__":
    main()
