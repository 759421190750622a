"""``fleet predictor``: serve, train, evaluate."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import requests
import uvicorn
from rich.console import Console
from rich.table import Table
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from fleet.discovery import parse_fleet
from fleet.errors import ConfigError, SourceError
from fleet.history import History, TrainingSample, must_exist
from fleet.settings import FleetSettings, load
from fleet.shell import bind, die_with_parent, setup_logging
from fleet.stopping import on_stop
from predictor import artifact
from predictor.evaluate import GAP_ROWS, SIZES, TEST_SHARE, evaluation
from predictor.features import NAMES
from predictor.fit import fit_once
from predictor.fitting import one_thread
from predictor.learner import Learner, kept_row
from predictor.model import TARGETS, LatencyModel
from predictor.pool import Pool
from predictor.prior import law_named, laws_of, prior_model
from predictor.quantile_net import quantile_net
from predictor.report import html
from predictor.samples import RejectedError, Sample, dataset, make
from predictor.server import make_app
from predictor.settings import PredictorSettings
from predictor.train import newest_pool
from predictor.versions import Versions

_history = click.option(
    "--history-url", help="SQLAlchemy URL of the history (default: FLEET_HISTORY_URL, else in HOME)."
)
_home = click.option(
    "--home", type=click.Path(file_okay=False, path_type=Path), help="Folder of history and model (default: .fleet)."
)
_rows = click.option("--max-rows", type=click.IntRange(min=100), help="Newest rows to look at (default 10 000).")
_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


@click.group()
def predictor() -> None:
    """Learn TTFT and TPOT from the history of requests.

    \b
    Examples:
      fleet predictor serve --port 8090             learn and answer over HTTP
      fleet predictor train --out model.json        one fit, as a file
      fleet predictor evaluate                      how good it is after 20, 50, 100 ... samples
    """


@predictor.command(short_help="Follow the history, refit, answer over HTTP.")
@click.option("--host", help="Address to listen on (default 127.0.0.1).")
@click.option("--port", type=int, help="Port, 0 for any free one (default 8090).")
@click.option("--refit-s", type=float, help="Seconds between looks at new rows (default 5).")
@click.option("--min-samples", type=int, help="Samples before the first model (default 30).")
@click.option("--prior", help="MODEL:GPU:COUNT, or 'typical': hardware data that answers before the first fit.")
@click.option("--platform", help="URL of a fleet API that tells each variant's model and GPU, for the same purpose.")
@click.option("--die-with-parent", "mortal", is_flag=True, help="Stop when the parent process dies (Linux).")
@_history
@_home
def serve(
    *, host: str | None, port: int | None, refit_s: float | None, min_samples: int | None, mortal: bool,
    prior: str | None, platform: str | None, history_url: str | None, home: Path | None,
) -> None:  # fmt: skip
    """Follow the history, refit as rows come, and answer predictions over HTTP.

    \b
    Examples:
      fleet predictor serve
      fleet predictor serve --port 0 --history-url sqlite:////var/lib/fleet/history.sqlite3
    """
    if mortal:
        die_with_parent()
    setup_logging("predictor")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    settings = load(PredictorSettings, host=host, port=port, refit_s=refit_s, min_samples=min_samples, prior=prior,
                    platform=platform)  # fmt: skip
    fleet = load(FleetSettings, history_url=history_url, home=home)
    sock = bind(settings.host, settings.port, what="predictor", setting="--port or PREDICTOR_PORT")
    url = _checked_url(fleet.resolved_history_url())
    learner = Learner(settings, history_url=url, model_path=fleet.home / artifact.FILE_NAME,
                      prior=_prior(settings))  # fmt: skip
    server = uvicorn.Server(uvicorn.Config(make_app(learner), log_level="warning", access_log=False,
                                           timeout_graceful_shutdown=2))  # fmt: skip
    click.echo(f"predictor listens on http://{settings.host}:{sock.getsockname()[1]}", err=True)
    learner.start()
    try:
        asyncio.run(_serve(server, sock))
    finally:
        learner.stop()
        sock.close()


def _prior(settings: PredictorSettings) -> Callable[[], LatencyModel | None]:
    """What answers before the first fit.

    Raises: ConfigError when hardware data has no such model and GPU.
    """
    named = law_named(settings.prior) if settings.prior not in ("", "typical") else None

    def make_prior() -> LatencyModel | None:
        variants = {}
        if settings.platform:
            try:
                answer = requests.get(settings.platform.rstrip("/") + "/fleet", timeout=2.0)
                found = parse_fleet(answer.json(), where=settings.platform)
            except (requests.RequestException, ValueError, SourceError):
                return None  # the platform may come up later: asked again at the next turn
            variants = laws_of(variant.spec for variant in found)
        if not (variants or settings.prior):
            return None
        return prior_model(variants, now_s=time.time(), shared=named)

    return make_prior


def _checked_url(url: str) -> str:
    """``url`` as it is: a history that is away is waited for, one that can never be is refused now."""
    try:
        make_url(url)
    except ArgumentError:
        raise ConfigError("is no SQLAlchemy URL", where="FLEET_HISTORY_URL or --history-url",
                          next_step="Write sqlite:////path/file or postgresql+psycopg://...") from None  # fmt: skip
    return url


async def _serve(server: uvicorn.Server, sock: Any) -> None:
    """Run until SIGTERM or SIGINT, which end it cleanly."""

    def stop() -> None:
        server.should_exit = True

    on_stop(stop)  # before uvicorn has its own handlers, and when it hands the signal back at its end
    await server.serve(sockets=[sock])


@predictor.command()
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="Artifact to write.")
@click.option("--min-samples", type=int, help="Fewest samples (default 30).")
@_history
@_home
@_rows
@_json
def train(
    *,
    out: Path,
    min_samples: int | None,
    history_url: str | None,
    home: Path | None,
    max_rows: int | None,
    as_json: bool,
) -> None:
    """Fit once on the newest rows of the history and write the model.

    \b
    Examples:
      fleet predictor train --out .fleet/model.json
      fleet predictor train --history-url sqlite:///run7.sqlite3 --out run7.json --json
    """
    settings = load(PredictorSettings, min_samples=min_samples, max_rows=max_rows)
    pool = _pool(history_url, home, settings.max_rows)
    result = fit_once(dataset(pool.samples()), now_s=time.time(), min_samples=settings.min_samples)
    if result.model is None:
        raise ConfigError(f"no model: {result.detail}", where="history",
                          next_step="Send more streaming requests through the router.")  # fmt: skip
    artifact.write(result.model, out)
    scores = {name: asdict(getattr(result.model, name).score) for name in TARGETS}
    report = {"out": str(out), "samples": dict(result.samples), "held_out_error": scores,
              "rejected": {reason.value: count for reason, count in pool.rejected.items()}}  # fmt: skip
    click.echo(json.dumps(report) if as_json else f"{result.detail}; written to {out}")


@predictor.command(short_help="How good it would have been on later requests.")
@click.option("--html", "page", type=click.Path(dir_okay=False, path_type=Path), help="Write a report with plots.")
@click.option("--torch", "with_torch", is_flag=True, help="Also the quantile network (extra 'torch').")
@_history
@_home
@_rows
@_json
def evaluate(
    *, page: Path | None, with_torch: bool, history_url: str | None, home: Path | None, max_rows: int | None,
    as_json: bool,
) -> None:  # fmt: skip
    """How good it would have been after 20, 50, 100 ... samples, on later requests, beside other methods.

    Trains on the rows just before the newest 40 % of the history (with a gap), and predicts these: ours, upstream's
    settings, token load and LMetric. MAPE, median and bias are relative errors; coverage is that of the 90 % interval.
    Also by endpoint, and with each endpoint left out of training.

    \b
    Examples:
      fleet predictor evaluate
      fleet predictor evaluate --html report.html
      fleet predictor evaluate --history-url sqlite:///run7.sqlite3 --json
    """
    settings = load(PredictorSettings, max_rows=max_rows)
    pool = _pool(history_url, home, settings.max_rows)
    one_thread()
    report = evaluation(dataset(pool.samples()), extra={"quantile-net": quantile_net} if with_torch else None)
    if not report["curve"]:
        least = math.ceil((min(SIZES) + GAP_ROWS) / (1 - TEST_SHARE))
        raise ConfigError(f"{len(pool)} samples are too few to evaluate", where="history", limit=f">= {least}",
                          next_step="Send more streaming requests through the router.")  # fmt: skip
    report["rejected"] = {reason.value: count for reason, count in pool.rejected.items()}
    if page is not None:
        page.write_text(html(report, title="Latency predictor"), encoding="utf-8")
    if as_json:
        click.echo(json.dumps(report))
    else:
        Console(width=110).print(_table(report["curve"], len(pool)))


@predictor.command(name="export", short_help="Write the samples that a fit would use as JSON lines.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="File to write.")
@_history
@_home
@_rows
def export_samples(*, out: Path, history_url: str | None, home: Path | None, max_rows: int | None) -> None:
    """Write the samples that a fit would use as JSON lines, oldest first.

    \b
    Examples:
      fleet predictor export --out samples.jsonl
    """
    settings = load(PredictorSettings, max_rows=max_rows)
    samples = _pool(history_url, home, settings.max_rows).samples()
    out.write_text("".join(json.dumps(_line(sample)) + "\n" for sample in samples), encoding="utf-8")
    click.echo(f"{len(samples)} samples written to {out}")


def _line(sample: Sample) -> dict[str, Any]:
    return {"features": dict(zip(NAMES, sample.features, strict=True)), "ttft_s": sample.ttft_s,
            "tpot_s": sample.tpot_s, "endpoint": sample.endpoint, "variant": sample.variant,
            "censored": sample.censored, "output_tokens": sample.output_tokens}  # fmt: skip


@predictor.command(name="import", short_help="Add samples from an exported file to the history.")
@click.argument("source", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@_history
@_home
def import_samples(*, source: Path, history_url: str | None, home: Path | None) -> None:
    """Add samples from a file that ``export`` wrote to the history; bad lines are refused one by one.

    A running predictor learns from them at its next look.

    \b
    Examples:
      fleet predictor import samples.jsonl
    """
    kept, refused = [], Counter[str]()
    with source.open(encoding="utf-8", errors="replace") as lines:  # what is no text is a line that is no sample
        for line in lines:
            try:
                kept.append(_imported(json.loads(line)))
            except (RejectedError, ValueError, TypeError, KeyError) as error:
                refused[error.reason.value if isinstance(error, RejectedError) else "no_sample"] += 1
    history = History(load(FleetSettings, history_url=history_url, home=home).resolved_history_url())
    history.add(kept)
    history.close()
    why = ", ".join(f"{count} {reason}" for reason, count in refused.items())
    click.echo(f"{len(kept)} samples imported" + (f"; refused: {why}" if why else ""))


def _imported(entry: Any) -> TrainingSample:
    """The history's row of one line.

    Raises: RejectedError with the reason; KeyError or TypeError for what is no sample.
    """
    sample = make(entry["features"], ttft_s=entry["ttft_s"], tpot_s=entry["tpot_s"], endpoint=str(entry["endpoint"]),
                  variant=str(entry["variant"]), censored=bool(entry.get("censored")),
                  output_tokens=entry.get("output_tokens"))  # fmt: skip
    return kept_row(sample, "import", time.time())


@predictor.command(short_help="Serve an older model until release.")
@click.argument("version", default="")
@_home
def rollback(*, version: str, home: Path | None) -> None:
    """Serve an older model (the one before, or VERSION) until ``release``; routers follow within a second.

    \b
    Examples:
      fleet predictor rollback
      fleet predictor rollback 3fa9c1
    """
    versions = Versions(load(FleetSettings, home=home).home / artifact.FILE_NAME)
    versions.roll_back(version)
    click.echo(f"serving {versions.pinned} until: fleet predictor release")


@predictor.command()
@_home
def release(*, home: Path | None) -> None:
    """Serve new fits again after a ``rollback``.

    \b
    Examples:
      fleet predictor release
    """
    Versions(load(FleetSettings, home=home).home / artifact.FILE_NAME).release()
    click.echo("new fits are served again")


def _table(points: Sequence[Mapping[str, Any]], samples: int) -> Table:
    table = Table(title=f"{samples} samples: error on the newest 40 %")
    for name in ("method", "trained on", "target", "regime", "rows", "MAPE", "median", "bias", "coverage of 90 %"):
        table.add_column(name, justify="left" if name in ("method", "target", "regime") else "right")
    for point in points:
        score = point["score"]
        figures = (score["mape"], score["median_ape"], score["bias"], score["coverage"])
        cells = ("-" if figure is None else f"{100 * figure:.1f} %" for figure in figures)
        table.add_row(point["method"], str(point["n"]), point["target"], point["regime"], str(score["n"]), *cells)
    return table


def _pool(history_url: str | None, home: Path | None, max_rows: int) -> Pool:
    url = load(FleetSettings, history_url=history_url, home=home).resolved_history_url()
    must_exist(url)
    return newest_pool(url, limit=max_rows)
