"""``fleet sim calibrate``: step-time coefficients from measured runs."""

from __future__ import annotations

import json
from pathlib import Path

import click

from fleet.arguments import Finite
from fleet.hardware import PRECISIONS
from simulator.traces import write_atomically


@click.command(short_help="Fit step times to measured runs.")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, dir_okay=False), metavar="FILE...")
@click.option("--model", help="Model shape, as in fleet.hardware; where the file names none, or several.")
@click.option("--gpu", help="Accelerator, such as h100_sxm; likewise.")
@click.option("--tp", type=click.IntRange(1, 64), help="GPUs that a layer is split over; likewise.")
@click.option("--precision", type=click.Choice(PRECISIONS), help="Of the weights; likewise. [default: bf16]")
@click.option("--cached-share", type=Finite(0.0, 0.99), default=0.0, show_default=True,
              help="Of a vLLM benchmark's prompts, in the prefix cache.")  # fmt: skip
@click.option(
    "--doubt",
    type=Finite(0.1, 100.0),
    default=1.0,
    show_default=True,
    help="Believe tables and roofline this many times less: above 1 for hardware that they do not know.",
)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the result here (JSON).")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def calibrate(
    *, files: tuple[Path, ...], model: str | None, gpu: str | None, tp: int | None, precision: str | None,
    cached_share: float, doubt: float, out: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Fit the step times of one model on one kind of GPU, and a request's way to the scheduler, to measured runs.

    FILE is a CSV with a steady run per row (columns rate_rps, prompt_tokens, output_tokens, ttft_ms, e2e_ms or itl_ms;
    optional run, model, gpu, tp, precision, cached_tokens), inference-sim's table of measurements, or the result of
    "vllm bench serve --save-result --save-detailed": one file per request rate.

    What the runs do not tell stays as calibrated tables or the roofline have it. Queues are in the fit, for each run
    is simulated; one near saturation says little. Each is also predicted from the others, to show how far to trust it.

    \b
    Examples:
      fleet sim calibrate runs.csv --model Qwen3-32B --gpu h100_sxm --tp 2
      fleet sim calibrate rate4.json rate8.json rate16.json --model Llama-3.1-8B --gpu l40s --tp 1 --out fit.json
    """
    # Imported here: SciPy is slow to load, and no other command of the group needs it.
    from simulator.calibrate_report import fit_files  # noqa: PLC0415

    result, text = fit_files(files, model=model, gpu=gpu, tensor_parallel=tp, precision=precision,
                             cached_share=cached_share, doubt=doubt)  # fmt: skip
    if out:
        write_atomically(out, (json.dumps(result, indent=1) + "\n").encode())
    click.echo(json.dumps(result, indent=1) if as_json else text)
