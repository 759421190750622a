"""Builds the wheel: plain Python, or with the router's hot path as native code where ``LLM_FLEET_COMPILE=1`` says so.

The latter is a wheel for one platform and one version of Python (``docs/adr/0045-*``). Everything else, editable
installs included, is what it would be without this hook.
"""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

WISH = "LLM_FLEET_COMPILE"
_NEEDS = ("mypy", "setuptools", "httptools", "msgspec", "numpy", "prometheus-client", "pydantic", "xxhash")
"""What compiling takes: mypyc, and the packages whose types the compiled modules use."""


class NativeHotPath(BuildHookInterface[Any]):
    """See the module."""

    PLUGIN_NAME = "custom"
    _folder: tempfile.TemporaryDirectory[str] | None = None

    def _wished(self) -> bool:
        wish = os.environ.get(WISH, "")
        if wish not in ("", "0", "1"):
            raise ValueError(f"{WISH} is {wish!r} (limit: 1 for native code, 0 or nothing for plain Python)")
        return wish == "1"

    def dependencies(self) -> list[str]:
        """What has to be installed to build."""
        return list(_NEEDS) if self._wished() else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and have what came of it put into the wheel."""
        if version == "editable" or not self._wished():
            return
        sys.path.insert(0, self.root)
        try:
            compiled = importlib.import_module("router.compiled")
        finally:
            sys.path.remove(self.root)
        self._folder = tempfile.TemporaryDirectory()
        out = Path(self._folder.name)
        compiled.build(Path(self.root), compiled.MODULES, out=out)
        found = {str(path): path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
        build_data["force_include"].update(found)
        build_data["pure_python"], build_data["infer_tag"] = False, True

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Let go of the folder."""
        del version, build_data, artifact_path
        if self._folder is not None:
            self._folder.cleanup()
