"""The hot path as native code, built in place from the same source where that is wanted (``docs/adr/0045-*``).

    python -m router.compiled            build: takes the extra ``compile``, a C compiler and a few minutes
    python -m router.compiled --clean    back to plain Python

Python imports a compiled module in place of its source, so one that is older than its source would be wrong in silence:
what was compiled is written down, and ``fleet router`` refuses to start on anything else.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from fleet.errors import ConfigError

MODULES: Final = (
    "predictor/few.py", "router/affinity.py", "router/delay.py", "router/director.py", "router/endpoints.py",
    "router/filters.py", "router/gate.py", "router/knowledge.py", "router/latency.py", "router/ledger.py",
    "router/metrics.py", "router/models.py", "router/pickers.py", "router/predict.py", "router/prefix.py",
    "router/profile.py", "router/recorder.py", "router/scorers.py", "router/scoring.py", "router/sessions.py",
    "router/shared.py", "router/sieve.py", "router/ticket.py", "router/traffic.py", "router/types.py",
    "router/dataplane/body.py", "router/dataplane/budget.py", "router/dataplane/chunks.py",
    "router/dataplane/client.py", "router/dataplane/exchange.py", "router/dataplane/gateway.py",
    "router/dataplane/heads.py", "router/dataplane/hub.py", "router/dataplane/local.py", "router/dataplane/observe.py",
    "router/dataplane/outbox.py", "router/dataplane/reader.py", "router/dataplane/replies.py",
    "router/dataplane/response.py", "router/dataplane/upstream.py",
)  # fmt: skip
"""What is compiled: all that a request passes through but the fields of its body, which are msgspec's."""
_FLAGS: Final = ("-fvisibility=hidden", "-fno-semantic-interposition", "-fno-plt")
"""One library that nobody links against: its functions may call and inline each other directly."""
_GROUP: Final = "fleet_router"
_RECORD: Final = "router/compiled.sha256"
ROOT: Final = Path(__file__).resolve().parent.parent


def digest(root: Path, modules: Sequence[str] = MODULES) -> str:
    """Of the sources, and of the kind of Python that they are compiled for."""
    found = hashlib.sha256(str(sysconfig.get_config_var("SOABI")).encode())
    for name in modules:
        found.update(name.encode() + b"\0" + (root / name).read_bytes() + b"\0")
    return found.hexdigest()


def built(root: Path = ROOT) -> list[Path]:
    """Compiled modules that are there."""
    folders = (root / "predictor", root / "router", root / "router/dataplane")
    return sorted([*root.glob(f"{_GROUP}__mypyc*.so"), *(path for folder in folders for path in folder.glob("*.so"))])


def check(root: Path = ROOT, modules: Sequence[str] = MODULES) -> bool:
    """Is the hot path compiled?

    Raises: ConfigError when it is, from other sources than those that are here.
    """
    if not built(root):
        return False
    try:
        known = (root / _RECORD).read_text().strip()
    except OSError:
        known = ""
    if known != digest(root, modules):
        raise ConfigError("compiled modules do not belong to this source or this Python", where=str(root),
                          next_step="Run make compile again, or make uncompile.")  # fmt: skip
    return True


def clean(root: Path = ROOT) -> None:
    """Back to plain Python."""
    for path in (*built(root), root / _RECORD):
        path.unlink(missing_ok=True)


def build(root: Path = ROOT, modules: Sequence[str] = MODULES, *, out: Path | None = None) -> None:
    """Compile ``modules`` of ``root``: in place, or into the folder ``out``, laid out as ``root`` is.

    Raises: ConfigError without what that takes.
    """
    try:
        from mypyc.build import mypycify  # noqa: PLC0415 - an optional package
        from setuptools import Distribution  # noqa: PLC0415
    except ImportError:
        raise ConfigError("compiling needs the packages mypy and setuptools", where="router.compiled",
                          next_step="pip install -e '.[compile]'.") from None  # fmt: skip
    if not any(map(shutil.which, ("cc", "gcc", "clang"))):
        raise ConfigError("compiling needs a C compiler", where="router.compiled", next_step="Install gcc.")
    if out is None:
        clean(root)
        out = root
    with tempfile.TemporaryDirectory() as name, contextlib.chdir(root):
        folder = Path(name)
        (folder / "mypy.ini").write_text("[mypy]\n")
        words = [f"--config-file={folder / 'mypy.ini'}", "--ignore-missing-imports", "--follow-imports=silent",
                 f"--cache-dir={folder / 'cache'}", *modules]  # fmt: skip
        extensions = mypycify(words, opt_level="3", debug_level="0", multi_file=True, group_name=_GROUP,
                              target_dir=str(folder / "c"))  # fmt: skip
        for extension in extensions:
            extension.extra_compile_args = [*extension.extra_compile_args, *_FLAGS]
        command = Distribution({"name": _GROUP, "ext_modules": extensions}).get_command_obj("build_ext")
        command.build_lib, command.build_temp = str(folder / "lib"), str(folder / "objects")
        command.parallel = os.cpu_count()
        command.ensure_finalized()
        command.run()
        for path in sorted((folder / "lib").rglob("*.so")):
            place = out / path.relative_to(folder / "lib")
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)
        (out / _RECORD).write_text(digest(root, modules) + "\n")


def main(words: Sequence[str]) -> int:
    """Build, or clean; 0 when that went well."""
    if list(words) not in ([], ["--clean"]):
        sys.stderr.write("usage: python -m router.compiled [--clean]\n")
        return 2
    try:
        clean() if words else build()
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
