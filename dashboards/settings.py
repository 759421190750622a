"""The console's settings; environment prefix ``CONSOLE_``."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict
from sqlalchemy.engine import make_url

from fleet.settings import FleetSettings, Settings, load


class ConsoleSettings(Settings):
    """Where the console listens and where it reads."""

    model_config = SettingsConfigDict(env_prefix="CONSOLE_", frozen=True, extra="forbid")

    host: str = "127.0.0.1"
    """Address to listen on; without ``login_header`` there is no login: keep it on loopback then."""
    login_header: str = ""
    """Header in which a reverse proxy names the user (``X-Forwarded-User``): without it 401; empty: no login."""
    oidc: Path | None = None
    """TOML file with Streamlit's section ``[auth]``: people sign in at that OpenID Connect provider; unset: nobody is
    asked to. Needs llm-fleet[oidc]."""
    oidc_allow: str = ""
    """Who may look of those who sign in: e-mail addresses and ``@domains``, comma-separated; empty: all of them."""
    port: int = Field(default=8501, ge=0, le=65_535)
    """Port to listen on; 0: any free one."""
    history_url: str = ""
    """SQLAlchemy URL of the history; empty: the one ``FLEET_HISTORY_URL`` or ``FLEET_HOME`` names."""
    summaries: str = ""
    """File of the console's summaries of the history, which make long ranges quick; empty: beside an SQLite history,
    else ``console.sqlite3`` in ``FLEET_HOME``; ``-``: none, long ranges read single rows."""
    prometheus_url: str = ""
    """Base URL of a Prometheus (Thanos, Mimir) API: series come from it by the alerts' own expressions, the rest from
    the history where there is one; empty: all comes from the history."""
    prometheus_timeout_s: float = Field(default=10.0, gt=0, le=120)
    """Longest wait for one answer of Prometheus, which is told to give up by then, too."""
    prometheus_max_samples: int = Field(default=200_000, ge=1_000)
    """Samples that one answer of Prometheus may hold; more is an error that says so, never a cut answer."""
    wva: str = "http://127.0.0.1:8070"
    """Controller's address; empty: there is none, nothing is asked."""
    router: str = "http://127.0.0.1:8081"
    """Router's admin address; empty: none."""
    predictor: str = "http://127.0.0.1:8090"
    """Predictor's address; empty: none."""
    alerts: str = "http://127.0.0.1:8095"
    """Alert watcher's address; empty: none."""
    actions: bool = False
    """Let viewers pause variants, narrow bounds and switch to a dry run, where the controller takes that
    (``WVA_ALLOW_OVERRIDES``); the default only reads."""
    wva_token: SecretStr = SecretStr("")
    """Token that the controller asks for (``WVA_OVERRIDES_TOKEN``)."""
    slo: Path | None = None
    """SLO file; unset: the one ``FLEET_SLO_FILE`` names, else the built-in promises."""
    timeout_s: float = Field(default=0.5, gt=0, le=30)
    """Longest wait for a part's answer; a page never waits longer than this for all of them together."""
    refresh_s: float = Field(default=2.0, ge=0.5, le=3600)
    """Time between refreshes of a live page; long ranges refresh less often."""

    def resolved_history_url(self) -> str:
        """The history's URL with the shared default filled in."""
        return self.history_url or load(FleetSettings).resolved_history_url()

    def resolved_summaries(self) -> Path | None:
        """The summaries' file; None: none are kept, or there is no history yet to keep them beside."""
        if self.summaries:
            return None if self.summaries == "-" else Path(self.summaries)
        parsed = make_url(self.resolved_history_url())
        if parsed.get_backend_name() != "sqlite":
            return load(FleetSettings).home / "console.sqlite3"
        path = Path(parsed.database) if parsed.database else None
        return path.with_suffix(".console.sqlite3") if path is not None and path.is_file() else None

    def resolved_slo_file(self) -> Path | None:
        """The SLO file with the shared default filled in."""
        return self.slo or load(FleetSettings).slo_file

    def parts(self) -> dict[str, str]:
        """Name and base URL of each part that is configured."""
        urls = {"controller": self.wva, "router": self.router, "predictor": self.predictor, "alerts": self.alerts}
        return {name: url.rstrip("/") for name, url in urls.items() if url}
