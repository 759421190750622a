"""Settings from the environment, checked at start-up, and the files every package reads.

Each package subclasses :class:`Settings` with its own prefix; :func:`load` refuses an unknown variable with that
prefix (pydantic-settings alone ignores it) and says which one was probably meant.
"""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from fleet.errors import ConfigError
from fleet.slo import DEFAULT_SLOS, SloBook, parse_slos


class Settings(BaseSettings):
    """Base of all settings: frozen, no unknown keys."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid")


class FleetSettings(Settings):
    """What every part shares; environment prefix ``FLEET_``."""

    model_config = SettingsConfigDict(env_prefix="FLEET_", frozen=True, extra="forbid")

    home: Path = Path(".fleet")
    """Where history, the model artifact and logs are kept. Default: ``.fleet`` in the working directory."""
    history_url: str = ""
    """SQLAlchemy URL of the history; empty: a SQLite file (WAL) in ``home``. PostgreSQL takes the same setting."""
    history_keep_s: float = Field(default=14 * 86_400.0, gt=0)
    """Rows older than this are pruned (default two weeks: one more than the console's longest range)."""
    slo_file: Path | None = None
    """The SLO file; unset: the built-in defaults (TTFT P95 < 0.2 s, > 10 000 tok/s, > 99.9 % success)."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """What is logged; ``DEBUG`` is for our own parts only, and shows no credential either."""
    traces: Path | None = None
    """Folder of trace files (azure2023_conv.csv.gz ...); unset: the committed profile stands in."""

    def resolved_history_url(self) -> str:
        """The URL, with the default filled in."""
        return self.history_url or f"sqlite:///{(self.home / 'history.sqlite3').absolute()}"


SettingsT = TypeVar("SettingsT", bound=Settings)


def load(cls: type[SettingsT], **overrides: Any) -> SettingsT:
    """An instance of ``cls`` from the environment; ``overrides`` (the command line) win, ``None`` means not given.

    Raises: ConfigError with one line: the variable, its value, what was expected.
    """
    prefix = str(cls.model_config.get("env_prefix", ""))
    known = {prefix + name.upper() for name in cls.model_fields}
    for name in os.environ if prefix else ():
        if name.startswith(prefix) and name.upper() not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"Did you mean {near[0]}?" if near else f"Known: {', '.join(sorted(known))}."
            raise ConfigError(f"unknown setting {name}", where="environment", next_step=hint)
    try:
        return cls(**{key: value for key, value in overrides.items() if value is not None})
    except ValidationError as error:
        raise _one_line(error, prefix) from None


def _one_line(error: ValidationError, prefix: str) -> ConfigError:
    first = error.errors()[0]
    name = prefix + ".".join(str(part) for part in first["loc"]).upper()
    return ConfigError(
        f"{first['input']!r}: {first['msg']}", where=name, next_step="Correct the setting and start again."
    )


def read_yaml(path: Path) -> Any:
    """A YAML document.

    Raises: ConfigError if the file is missing or does not parse (with the line).
    """
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError("no such file", where=str(path), next_step="Check the path.") from None
    except UnicodeDecodeError:
        raise ConfigError("is no text (UTF-8)", where=str(path), next_step="Give a YAML file.") from None
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", where=str(path),
                          next_step="Check the path and its permissions.") from None  # fmt: skip
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path} line {mark.line + 1}" if mark else str(path)
        raise ConfigError(
            f"is no YAML: {getattr(error, 'problem', error)}", where=where, next_step="Correct that line."
        ) from None


def load_slos(path: Path | None) -> SloBook:
    """The SLO file, or the built-in defaults when ``path`` is None."""
    return DEFAULT_SLOS if path is None else parse_slos(read_yaml(path), where=str(path))
