"""The model as a file: JSON with a schema version, the feature list and a checksum; replaced atomically, no pickle."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np

from fleet.errors import FleetError
from predictor.features import NAMES, WIDTH
from predictor.intervals import GROUPS, LEVELS, Width
from predictor.model import LatencyModel, Law, Score, Taught, build
from predictor.physics import TPOT_COLUMNS, TTFT_COLUMNS
from predictor.residual import AXES, BINS

log = logging.getLogger(__name__)

SCHEMA: Final = 3
_BEFORE: Final = 2
"""It is read as well: it knew fewer groups, and no widths of endpoints."""
_GROUPS_BEFORE: Final = ("idle", "pending", "queued")
FILE_NAME: Final = "model.json"
"""In the home folder (``FLEET_HOME``)."""

Key = TypeVar("Key", bound=Hashable)

_COLUMNS: Final = {"ttft": TTFT_COLUMNS, "tpot": TPOT_COLUMNS}


class ArtifactError(FleetError):
    """A model file that is not what it says, or that another version wrote."""


def to_dict(model: LatencyModel) -> dict[str, Any]:
    """Everything of ``model`` as plain JSON values, checksum included."""
    body: dict[str, Any] = {
        "schema": SCHEMA,
        "features": list(NAMES),
        "columns": {name: list(columns) for name, columns in _COLUMNS.items()},
        "levels": list(LEVELS),
        "groups": list(GROUPS),
        "axes": list(AXES),
        "fitted_at_s": model.fitted_at_s,
        "ranges": model.ranges.tolist(),
        "capacities": dict(model.capacities),
        "taught": {name: asdict(rows) for name, rows in model.taught.items()},
        "ttft": _law_to_dict(model.ttft),
        "tpot": _law_to_dict(model.tpot),
    }
    return signed(body)


def signed(body: Mapping[str, Any]) -> dict[str, Any]:
    """``body`` with its checksum."""
    return {**body, "checksum": _checksum(body)}


def version_of(data: Mapping[str, Any]) -> str:
    """Short name of an artifact's content: the beginning of its checksum."""
    return str(data["checksum"]).removeprefix("sha256:")[:12]


def _law_to_dict(law: Law) -> dict[str, Any]:
    return {
        "shared": law.shared.tolist(),
        "variants": {name: coefficients.tolist() for name, coefficients in law.variants.items()},
        "scales": [[endpoint, variant, factor] for (endpoint, variant), factor in law.scales.items()],
        "changed": [[endpoint, variant, rows] for (endpoint, variant), rows in law.changed.items()],
        "table": None if law.table is None else law.table.tolist(),
        "quantiles": law.quantiles.tolist(),
        "widths": [[endpoint, variant, *width] for (endpoint, variant), width in law.widths.items()],
        "samples": law.samples,
        "score": asdict(law.score),
    }


def _checksum(body: Mapping[str, Any]) -> str:
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def from_dict(data: Any, *, where: str = "model") -> LatencyModel:
    """The model that :func:`to_dict` wrote.

    Raises: ArtifactError if the schema, the features, the checksum or a shape is not as expected.
    """
    if not isinstance(data, dict):
        raise _refused("is no JSON object", where)
    body = {key: value for key, value in data.items() if key != "checksum"}
    schema = _BEFORE if body.get("schema") == _BEFORE else SCHEMA
    expected = {"schema": schema, "features": list(NAMES), "levels": list(LEVELS),
                "groups": list(_GROUPS_BEFORE if schema == _BEFORE else GROUPS), "axes": list(AXES),
                "columns": {name: list(columns) for name, columns in _COLUMNS.items()}}  # fmt: skip
    for key, value in expected.items():
        if body.get(key) != value:
            raise _refused(f"its {key} differ from this version's", where)
    try:
        if data.get("checksum") != _checksum(body):
            raise _refused("its checksum does not match its content", where)
        return build(ttft=_law(body["ttft"], len(TTFT_COLUMNS)), tpot=_law(body["tpot"], len(TPOT_COLUMNS)),
                     ranges=_array(body["ranges"], (2, WIDTH)), capacities=_factors(body["capacities"].items()),
                     fitted_at_s=float(body["fitted_at_s"]), taught=_taught(body.get("taught", {})))  # fmt: skip
    except (KeyError, TypeError, ValueError) as error:
        raise _refused(f"a value is missing or malformed: {error}", where) from None


def _law(data: Mapping[str, Any], width: int) -> Law:
    return Law(
        shared=_array(data["shared"], (width,)),
        variants={str(name): _array(values, (width,)) for name, values in data["variants"].items()},
        scales=_factors(((str(endpoint), str(variant)), factor) for endpoint, variant, factor in data["scales"]),
        quantiles=_ratios(data["quantiles"]),
        samples=int(data["samples"]),
        score=Score(**data["score"]),
        table=None if data["table"] is None else _table(data["table"]),
        changed={(str(endpoint), str(variant)): int(rows) for endpoint, variant, rows in data["changed"]},
        widths=_widths(data.get("widths", ())),
    )


def _widths(rows: Iterable[Any]) -> dict[tuple[str, str], Width]:
    found = {(str(endpoint), str(variant)): (float(below), float(above)) for endpoint, variant, below, above in rows}
    if not all(0 < value < float("inf") for width in found.values() for value in width):
        raise ValueError("expected finite numbers > 0")
    return found


def _ratios(rows: Sequence[Any]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """By group; rows ``behind`` were ``pending`` ones before that group was."""
    known = len(_GROUPS_BEFORE)
    array = _array([rows[0], rows[1], rows[1], rows[2]] if len(rows) == known else rows, (len(GROUPS), len(LEVELS)))
    if (array <= 0).any():
        raise ValueError("expected numbers > 0")
    return array


def _taught(data: Mapping[str, Any]) -> dict[str, Taught]:
    """What each variant's rows were; versions that did not write it are read as saying nothing."""
    found = {str(name): Taught(**values) for name, values in dict(data).items()}
    if not all(0 <= value < float("inf") for one in found.values() for value in asdict(one).values()):
        raise ValueError("expected finite numbers >= 0")
    return found


def _table(values: Any) -> np.ndarray[Any, np.dtype[np.float64]]:
    array = np.asarray(values, dtype=np.float64)
    if array.shape != (len(AXES), BINS) or not np.isfinite(array).all() or (np.diff(array, axis=1) < 0).any():
        raise ValueError(f"expected {(len(AXES), BINS)} finite numbers that never fall along a row")
    return array


def _factors(pairs: Iterable[tuple[Key, Any]]) -> dict[Key, float]:
    found = {key: float(value) for key, value in pairs}
    if not all(0 < value < float("inf") for value in found.values()):
        raise ValueError("expected finite numbers > 0")
    return found


def _array(values: Any, shape: tuple[int, ...]) -> np.ndarray[Any, np.dtype[np.float64]]:
    array = np.asarray(values, dtype=np.float64)
    if array.shape != shape or not np.isfinite(array).all() or (array < 0).any():
        raise ValueError(f"expected {shape} finite numbers >= 0")
    return array


def _refused(what: str, where: str) -> ArtifactError:
    return ArtifactError(f"model refused: {what}", where=where,
                         next_step="Delete it, or train again with: fleet predictor train.")  # fmt: skip


def write(model: LatencyModel, path: Path) -> None:
    """Write ``model`` so that a reader sees the old file or the new one, never half of one.

    Raises: ArtifactError if the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(to_dict(model), allow_nan=False), encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise ArtifactError(f"cannot be written: {error.strerror}", where=str(path),
                            next_step="Check its folder's permissions and the disk.") from None  # fmt: skip


def read(path: Path) -> LatencyModel:
    """The model in ``path``.

    Raises: FileNotFoundError if there is none; ArtifactError if it is refused.
    """
    try:
        data = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _refused(f"cannot be read: {error.strerror}", str(path)) from None
    except ValueError:
        raise _refused("is no JSON", str(path)) from None
    return from_dict(data, where=str(path))


def load(path: Path) -> LatencyModel | None:
    """The model in ``path``, or ``None`` where there is none or it is refused (logged on one line)."""
    try:
        return read(path)
    except FileNotFoundError:
        return None
    except ArtifactError as error:
        log.warning("%s", error)
        return None
