"""``fleet predictor``: serve, train, evaluate."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import uvicorn
from rich.console import Console
from rich.table import Table
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from fleet.errors import ConfigError
from fleet.settings import FleetSettings, load
from fleet.shell import bind, die_with_parent, on_stop, setup_logging
from predictor import artifact
from predictor.evaluate import GAP_ROWS, SIZES, TEST_SHARE, Point, learning_curve
from predictor.fit import fit_once
from predictor.learner import Learner
from predictor.model import TARGETS
from predictor.pool import Pool
from predictor.samples import dataset
from predictor.server import make_app
from predictor.settings import PredictorSettings
from predictor.train import newest_pool

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


@predictor.command()
@click.option("--host", help="Address to listen on (default 127.0.0.1).")
@click.option("--port", type=int, help="Port, 0 for any free one (default 8090).")
@click.option("--refit-s", type=float, help="Seconds between looks at new rows (default 5).")
@click.option("--min-samples", type=int, help="Samples before the first model (default 30).")
@click.option("--die-with-parent", "mortal", is_flag=True, help="Stop when the parent process dies (Linux).")
@_history
@_home
def serve(
    *, host: str | None, port: int | None, refit_s: float | None, min_samples: int | None, mortal: bool,
    history_url: str | None, home: Path | None,
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
    settings = load(PredictorSettings, host=host, port=port, refit_s=refit_s, min_samples=min_samples)
    fleet = load(FleetSettings, history_url=history_url, home=home)
    sock = bind(settings.host, settings.port, what="predictor", setting="--port or PREDICTOR_PORT")
    url = _checked_url(fleet.resolved_history_url())
    learner = Learner(settings, history_url=url, model_path=fleet.home / artifact.FILE_NAME)
    server = uvicorn.Server(uvicorn.Config(make_app(learner), log_level="warning", access_log=False,
                                           timeout_graceful_shutdown=2))  # fmt: skip
    click.echo(f"predictor listens on http://{settings.host}:{sock.getsockname()[1]}", err=True)
    learner.start()
    try:
        asyncio.run(_serve(server, sock))
    finally:
        learner.stop()
        sock.close()


def _checked_url(url: str) -> str:
    """``url`` as it is: a history that is away is waited for, one that can never be is refused now."""
    try:
        make_url(url)
    except ArgumentError:
        raise ConfigError("is no SQLAlchemy URL", where=repr(url),
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


@predictor.command()
@_history
@_home
@_rows
@_json
def evaluate(*, history_url: str | None, home: Path | None, max_rows: int | None, as_json: bool) -> None:
    """How good it would have been after 20, 50, 100 ... samples, on later requests.

    Trains on the rows just before the newest 40 % of the history (with a gap), and predicts these. MAPE, median and
    bias are relative errors; coverage is that of the 90 % interval.

    \b
    Examples:
      fleet predictor evaluate
      fleet predictor evaluate --history-url sqlite:///run7.sqlite3 --json
    """
    settings = load(PredictorSettings, max_rows=max_rows)
    pool = _pool(history_url, home, settings.max_rows)
    points = learning_curve(dataset(pool.samples()))
    if not points:
        least = math.ceil((min(SIZES) + GAP_ROWS) / (1 - TEST_SHARE))
        raise ConfigError(f"{len(pool)} samples are too few to evaluate", where="history", limit=f">= {least}",
                          next_step="Send more streaming requests through the router.")  # fmt: skip
    if as_json:
        rejected = {reason.value: count for reason, count in pool.rejected.items()}
        click.echo(json.dumps({"samples": len(pool), "rejected": rejected, "curve": [asdict(p) for p in points]}))
    else:
        Console(width=100).print(_table(points, len(pool)))


def _table(points: Sequence[Point], samples: int) -> Table:
    table = Table(title=f"{samples} samples: error on the newest 40 %")
    for name in ("trained on", "target", "regime", "rows", "MAPE", "median", "bias", "coverage of 90 %"):
        table.add_column(name, justify="left" if name in ("target", "regime") else "right")
    for point in points:
        figures = (point.score.mape, point.score.median_ape, point.score.bias, point.score.coverage)
        cells = ("-" if figure is None else f"{100 * figure:.1f} %" for figure in figures)
        table.add_row(str(point.n), point.target, point.regime, str(point.score.n), *cells)
    return table


def _pool(history_url: str | None, home: Path | None, max_rows: int) -> Pool:
    return newest_pool(load(FleetSettings, history_url=history_url, home=home).resolved_history_url(), limit=max_rows)
