"""Artifacts by version in one folder: the served one, those before it, and whether it is pinned.

``model.json`` is what everybody reads: it is replaced in one step, and its checksum is its version, so all that serve
one file serve one version. ``models/`` keeps the last few. A roll-back puts an older one in place and pins it
(``model.pin``); until it is released, fits go on and are kept, and none is served.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fleet.errors import ConfigError
from predictor import artifact
from predictor.model import LatencyModel

KEEP: Final = 10
"""Versions kept besides the served one."""
_PIN: Final = "model.pin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """One artifact that could be served."""

    version: str
    fitted_at_s: float
    path: Path


class Versions:
    """The artifacts beside ``current`` (the served file's path)."""

    def __init__(self, current: Path) -> None:
        self.current, self.folder = current, current.parent / "models"
        self._pin = current.parent / _PIN

    @property
    def pinned(self) -> str:
        """The version that a roll-back chose; empty: the newest good fit is served."""
        try:
            return self._pin.read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            return ""

    def publish(self, model: LatencyModel) -> str:
        """Keep ``model`` and, unless another is pinned, serve it; its version.

        Raises: ArtifactError if a folder cannot be written.
        """
        version = artifact.version_of(artifact.to_dict(model))
        artifact.write(model, self.folder / f"{model.fitted_at_s:.3f}-{version}.json")
        if not self.pinned:
            artifact.write(model, self.current)
        for old in self._files()[:-KEEP]:
            old.unlink(missing_ok=True)
        return version

    def kept(self) -> Sequence[Version]:
        """What could be served, oldest first."""
        found = []
        for path in self._files():
            at_s, _, version = path.stem.partition("-")
            found.append(Version(version=version, fitted_at_s=float(at_s), path=path))
        return found

    def roll_back(self, version: str = "") -> LatencyModel:
        """Serve an older version and pin it.

        Args:
            version: its beginning suffices; empty: the one before the served.
        Raises: ConfigError if there is none such; ArtifactError if it is refused or cannot be written.
        """
        chosen = self._before() if not version else self._named(version)
        model = artifact.read(chosen.path)
        artifact.write(model, self.current)
        self._pin.write_text(chosen.version, encoding="utf-8")
        return model

    def release(self) -> None:
        """Serve new fits again."""
        self._pin.unlink(missing_ok=True)

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("*-*.json"), key=_fitted_at) if self.folder.is_dir() else []

    def _before(self) -> Version:
        versions = self.kept()
        served = artifact.version_of(artifact.to_dict(artifact.read(self.current))) if self.current.exists() else ""
        position = next((i for i, one in enumerate(versions) if one.version == served), len(versions))
        if position == 0:
            raise _none("no older version is kept", versions)
        return versions[position - 1]

    def _named(self, version: str) -> Version:
        versions = self.kept()
        found = [one for one in versions if one.version.startswith(version)]
        if len(found) != 1:
            raise _none(f"{len(found)} versions begin with {version!r}", versions)
        return found[0]


def _fitted_at(path: Path) -> float:
    try:
        return float(path.stem.partition("-")[0])
    except ValueError:
        return 0.0


def _none(what: str, versions: Sequence[Version]) -> ConfigError:
    known = ", ".join(one.version for one in versions) or "none"
    return ConfigError(what, where="model versions", limit=known, next_step="Name one of these.")
