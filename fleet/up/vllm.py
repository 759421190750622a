"""Real vLLM servers in the place of simulated ones: the fleet file that describes them."""

from __future__ import annotations

import json
import shlex
import shutil
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from fleet.errors import ConfigError
from fleet.hardware import GPUS, shape_of

START_S = 120.0
"""Assumed start-up of a server; it is ready when it says so."""
SMALLEST = "Llama-3.1-8B"
"""Shape for a model that the catalogue does not know; only simulated engines compute with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RealEngines:
    """What ``fleet up --vllm`` was asked for."""

    model: str
    """A folder or a hub name."""
    program: str = "vllm"
    arguments: str = ""
    gpu: str = "h100_sxm"
    gpus: int = 1
    """Of one replica."""
    replicas: int = 2
    """At most."""

    @property
    def served(self) -> str:
        """The name clients use: the hub name, or the folder's."""
        return Path(self.model).name if Path(self.model).is_dir() else self.model


def check(engines: RealEngines) -> None:
    """Refuse what cannot start.

    Raises: ConfigError in one line.
    """
    if shutil.which(engines.program) is None:
        raise ConfigError(f"no program {engines.program!r}", where="--vllm-bin",
                          next_step="Install vLLM (pip install 'llm-fleet[engine]') or give its path.")  # fmt: skip
    if engines.gpu not in GPUS:
        raise ConfigError(f"unknown GPU {engines.gpu!r}", where="--gpu", limit=", ".join(sorted(GPUS)),
                          next_step="It only sets the price: choose the nearest.")  # fmt: skip
    if engines.model.startswith((".", "/")) and not Path(engines.model).is_dir():
        raise ConfigError("no such folder", where=engines.model, next_step="Give the model's folder or its hub name.")


def context(engines: RealEngines) -> int | None:
    """The longest prompt and answer that the servers take together: as their arguments say, else the model's folder.

    ``None`` where neither says it in plain digits; vLLM then decides by itself (``auto``, ``32k``).
    """
    words = shlex.split(engines.arguments.replace("=", " "))
    asked = [value for flag, value in pairwise(words) if flag == "--max-model-len"]
    if asked:
        return int(asked[-1]) if asked[-1].isdigit() else None
    try:
        told = json.loads((Path(engines.model) / "config.json").read_text(encoding="utf-8"))
        return int(told["max_position_embeddings"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def fleet_file(engines: RealEngines) -> dict[str, Any]:
    """The fleet as ``fleet sim serve`` reads it: one variant that scales by processes."""
    shape = shape_of(engines.served)
    return {
        "model": engines.served,
        "gpus": {engines.gpu: engines.gpus * engines.replicas},
        "variants": [{
            "name": "vllm", "shape": shape.name if shape else SMALLEST, "accelerator": engines.gpu,
            "accelerator_count": engines.gpus, "min_replicas": 1, "max_replicas": engines.replicas,
            "startup_s": START_S,
        }],
    }  # fmt: skip


def write(engines: RealEngines, home: Path) -> Path:
    """The fleet file in ``home``."""
    home.mkdir(parents=True, exist_ok=True)
    path = home / "vllm-fleet.yaml"
    path.write_text(yaml.safe_dump(fleet_file(engines), sort_keys=False), encoding="utf-8")
    return path
