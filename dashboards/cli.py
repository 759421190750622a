"""``fleet console``: the console in a browser."""

from __future__ import annotations

import os
from pathlib import Path

import click

from dashboards.login import check_oidc
from dashboards.settings import ConsoleSettings
from fleet.errors import ConfigError
from fleet.history import parse_url
from fleet.settings import load, load_slos
from fleet.shell import bind, die_with_parent, setup_logging
from fleet.sources.prometheus import checked_url


def _checked(settings: ConsoleSettings) -> ConsoleSettings:
    parse_url(settings.resolved_history_url())
    for name, url in settings.parts().items():
        if not url.startswith(("http://", "https://")):
            raise ConfigError(
                f"{url!r} is no address",
                where="--wva" if name == "controller" else f"--{name}",
                limit="http:// or https://",
                next_step="Write http://host:port, or '' for none.",
            )
    if settings.prometheus_url:
        checked_url(settings.prometheus_url)
    check_oidc(settings)
    load_slos(settings.resolved_slo_file())  # a broken file is said here, once, not on every page
    return settings


def _hand_over(settings: ConsoleSettings, port: int) -> None:
    """Give the page scripts the resolved settings: Streamlit runs them without arguments."""
    values = settings.model_dump(exclude_none=True) | {"port": port, "history_url": settings.resolved_history_url()}
    values["wva_token"] = settings.wva_token.get_secret_value()
    os.environ.update({f"CONSOLE_{name.upper()}": str(value) for name, value in values.items()})


@click.command()
@click.option("--host", help="Address to listen on (default 127.0.0.1).")
@click.option("--port", type=int, help="Port to listen on (default 8501; 0: any free one).")
@click.option("--history-url", help="SQLAlchemy URL of the history (default: FLEET_HISTORY_URL, else .fleet).")
@click.option("--prometheus-url", help="Prometheus that series are read from (default: all from the history).")
@click.option("--wva", help="Controller's address (default http://127.0.0.1:8070; '' for none).")
@click.option("--router", help="Router's admin address (default http://127.0.0.1:8081; '' for none).")
@click.option("--predictor", help="Predictor's address (default http://127.0.0.1:8090; '' for none).")
@click.option("--alerts", help="Alert watcher's address (default http://127.0.0.1:8095; '' for none).")
@click.option("--login-header", help="Refuse requests without this header of a reverse proxy (default: no login).")
@click.option("--actions", is_flag=True, default=None, help="Let viewers pause variants, narrow bounds, dry-run.")
@click.option("--oidc", type=click.Path(dir_okay=False, path_type=Path), help="TOML file with [auth]: OIDC login.")
@click.option("--oidc-allow", help="E-mail addresses and @domains that may look (default: all who sign in).")
@click.option("--slo", type=click.Path(dir_okay=False, path_type=Path), help="SLO file (default: built-in promises).")
@click.option("--die-with-parent", "follow", is_flag=True, help="Stop when the process that started this one dies.")
def console(follow: bool, **options: str | int | Path | None) -> None:
    """See, understand and decide: the console in a browser.

    One page per layer (business, vLLM, resources, infrastructure), autoscaling, routing and alerts, live from the
    history. Liveness: /healthz (and Streamlit's own /_stcore/health); metrics: /metrics.

    \b
    Examples:
      fleet console
      fleet console --port 0 --history-url sqlite:////var/lib/fleet/history.sqlite3
      fleet console --prometheus-url http://prometheus:9090 --wva http://fleet-wva:8070
      fleet console --host 0.0.0.0 --slo slos.yaml --alerts ''
    """
    setup_logging("console")
    settings = _checked(load(ConsoleSettings, **options))
    sock = bind(settings.host, settings.port, what="console", setting="--port")
    if follow:
        die_with_parent()
    _hand_over(settings, sock.getsockname()[1])
    from dashboards.server import serve  # noqa: PLC0415  # Streamlit costs a second: only when it is about to run

    serve(sock)
