"""The simulator bench's results as tables, plots and notes. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.result import Plot, Series, Table
from benchmarks.simulator.accuracy import Miss
from benchmarks.simulator.kernels import Unseen
from benchmarks.simulator.ladder import PUBLISHED, Step

MEANING = {
    "left_out": "left out: step times from the other experiments of the pair, else from the shipped estimate (the bar)",
    "unseen": "unseen: shipped step times; nothing is fitted to these experiments or, but for Llama-3.1-70B, models",
    "in_sample": "in sample: step times fitted to the experiments themselves",
}


def notes(origin: str, requests: int) -> list[str]:
    """What a reader must know."""
    return [
        f"Measured latencies: {origin}. 13 experiments, vLLM 0.15.1 on H100; 6 models, 5 of them in no table.",
        "The bars' errors are medians over whole experiments, each predicted with step times not fitted to it: 10 of "
        "them from other experiments with the same model and GPUs, 3 from the shipped estimate.",
        "Shipped estimates are fitted to kernel tables and to 13 stages of three other models (CodeLlama-34B, "
        "Llama-2-70B, Mixtral-8x7B), see docs/simulator.md.",
        "Prompts, answers and rates are the published profiles'; the rates of the workload 'general' (2.5 and 6/s) are "
        "inferred from the stages' shares of requests and from the same models' 'codegen' latencies.",
        "Measured ITL counts tokens of the answer's text. For Llama-2-7B that is 20 to 23 % fewer than were generated, "
        "so its simulated ITL is below the measured one by as much; 'ITL, generated' compares equal counts.",
        "The experiments' engines take requests after StepTimer.ingress_s (the host, and steps that vLLM has scheduled "
        "ahead); the ladder's after the engine's default.",
        "The ladder's step times are fitted to half of its published steps (benchmarks/routing/fitting.py); seven of "
        "the sixteen here were not: 22, 30, 40, 46, 52, 57 and 60 requests/s.",
        f"Speed: {requests:,} requests a run, one process, seconds that it had a core, workload made beforehand; "
        "median over seeds.",
        "Unseen GPUs: no measured runs on others than H100 were at hand, so GPUs are left out of the kernel fit.",
    ]


def summary(medians: Mapping[str, Mapping[str, float]]) -> Table:
    """Medians by what was fitted."""
    keys = ("e2e", "itl", "ttft", "itl_generated")
    rows = [[what, *(round(medians[name][key], 1) for key in keys)] for name, what in MEANING.items()]
    columns = ["step times", "E2E", "ITL", "TTFT", "ITL, generated"]
    return Table(title="Median absolute error over the experiments, %", columns=columns, rows=rows)


def experiments(sets: Mapping[str, Sequence[Miss]]) -> Table:
    """Every experiment: signed errors, left out, unseen and in sample."""
    by_name = {name: {miss.experiment.name: miss for miss in found if miss.stage < 0} for name, found in sets.items()}
    rows = []
    for name, unseen in by_name["unseen"].items():
        whole, out, fit = unseen.experiment.whole, by_name["left_out"][name], by_name["in_sample"][name]
        rows.append([
            whole.model, f"{whole.tensor_parallel}x {whole.gpu}", whole.precision, unseen.experiment.workload_name,
            out.source, *(_triple(miss) for miss in (out, unseen, fit)), f"{out.itl_generated_pct:+.1f}",
        ])  # fmt: skip
    return Table(title="Error of each experiment, % (E2E / ITL / TTFT)", rows=rows, columns=[
        "model", "GPUs", "weights", "workload", "step times when left out", "left out", "unseen", "in sample",
        "ITL, generated (left out)"])  # fmt: skip


def _triple(miss: Miss) -> str:
    return f"{miss.e2e_pct:+.1f} / {miss.itl_pct:+.1f} / {miss.ttft_pct:+.1f}"


def stages(found: Sequence[Miss]) -> Table:
    """Stages of the experiments, left out."""
    rows = [
        [miss.experiment.whole.model, miss.experiment.workload_name, miss.experiment.workload.stages_rps[miss.stage],
         miss.experiment.stages[miss.stage].e2e_s, *(round(x, 1) for x in (miss.e2e_pct, miss.itl_pct, miss.ttft_pct))]
        for miss in found if miss.stage >= 0
    ]  # fmt: skip
    return Table(title="Stages, left out", rows=rows, columns=[
        "model", "workload", "requests/s", "measured E2E, s", "E2E, %", "ITL, %", "TTFT, %"])  # fmt: skip


def ladder(steps: Sequence[Step]) -> Table:
    """The ladder behind a plain Service beside the published one."""
    rows = []
    for step in steps:
        known = PUBLISHED.get(step.rate_rps)
        rows.append([
            step.rate_rps, step.requests, round(step.output_tok_s), known.output_tok_s if known else None,
            _signed(step.throughput_error_pct), round(step.ttft_s, 3), known.ttft_s if known else None,
            _signed(step.ttft_error_pct),
        ])  # fmt: skip
    return Table(title="Ladder behind a plain Service, against the published run", rows=rows, columns=[
        "requests/s", "requests", "output tok/s", "published", "%", "TTFT mean, s", "published", "%"])  # fmt: skip


def _signed(value: float | None) -> str | None:
    return None if value is None else f"{value:+.1f}"


def kernels(found: Sequence[Unseen]) -> Table:
    """The roofline on GPUs and models that its kernel fit has not seen."""
    columns = ["left out", "pairs", "decode step", "prefill step", "decode, not left out", "prefill, not left out"]
    names = ("decode_pct", "prefill_pct", "seen_decode_pct", "seen_prefill_pct")
    rows = [[one.what, one.pairs, *(round(getattr(one, name), 1) for name in names)] for one in found]
    return Table(title="Roofline against kernel tables, median absolute error, %", columns=columns, rows=rows)


def plots(steps: Sequence[Step], found: Sequence[Miss]) -> list[Plot]:
    """Throughput along the ladder; simulated over measured latency of the experiments."""
    rates = [step.rate_rps for step in steps]
    known = [rate for rate in rates if rate in PUBLISHED]
    whole = [miss for miss in found if miss.stage < 0]
    models = sorted({miss.experiment.whole.model for miss in whole})
    published = Series(name="published", x=known, y=[PUBLISHED[rate].output_tok_s for rate in known])
    simulated = Series(name="simulated", x=rates, y=[step.output_tok_s for step in steps])
    return [
        Plot(title="Ladder behind a plain Service", x_label="requests/s", y_label="output tokens/s",
             series=[published, simulated]),
        Plot(title="Experiments, each left out", x_label="measured E2E, s", y_label="error of simulated E2E, %",
             series=[_dots(model, [miss for miss in whole if miss.experiment.whole.model == model])
                     for model in models]),
    ]  # fmt: skip


def _dots(model: str, found: Sequence[Miss]) -> Series:
    measured = [miss.experiment.whole.e2e_s for miss in found]
    return Series(name=model, x=measured, y=[miss.e2e_pct for miss in found], markers_only=True)


# ---- rows of the JSON


def miss_row(miss: Miss) -> dict[str, Any]:
    """One experiment or stage."""
    whole = miss.experiment.whole
    return {
        "experiment": miss.experiment.name, "stage": miss.stage, "model": whole.model, "gpu": whole.gpu,
        "tp": whole.tensor_parallel, "precision": whole.precision, "workload": miss.experiment.workload_name,
        "source": miss.source, "e2e_pct": round(miss.e2e_pct, 2), "itl_pct": round(miss.itl_pct, 2),
        "itl_generated_pct": round(miss.itl_generated_pct, 2), "ttft_pct": round(miss.ttft_pct, 2),
    }  # fmt: skip


def step_row(step: Step) -> dict[str, Any]:
    """One step of the ladder."""
    return {
        "rate_rps": step.rate_rps, "requests": step.requests, "output_tok_s": round(step.output_tok_s, 1),
        "ttft_s": round(step.ttft_s, 4),
        "throughput_err_pct": None if step.throughput_error_pct is None else round(step.throughput_error_pct, 2),
        "ttft_err_pct": None if step.ttft_error_pct is None else round(step.ttft_error_pct, 2),
    }  # fmt: skip


def kernel_row(one: Unseen) -> dict[str, Any]:
    """One GPU or model left out of the kernel fit."""
    return {
        "left_out": one.what, "pairs": one.pairs, "decode_pct": round(one.decode_pct, 2),
        "prefill_pct": round(one.prefill_pct, 2), "seen_decode_pct": round(one.seen_decode_pct, 2),
        "seen_prefill_pct": round(one.seen_prefill_pct, 2),
    }  # fmt: skip
