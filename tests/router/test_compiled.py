"""The hot path as native code: what is compiled is known to belong to its source, and does what its source does."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fleet.errors import ConfigError
from router import compiled

NAMES = ("router/one.py", "router/two.py")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Two sources, and a library of somebody else's."""
    (tmp_path / "router").mkdir()
    for name in NAMES:
        (tmp_path / name).write_text(f"NAME = {name!r}\n")
    (tmp_path / "_other.so").write_bytes(b"")
    return tmp_path


def compile_by_hand(tree: Path) -> None:
    (tree / "router/one.cpython-311.so").write_bytes(b"")
    (tree / "fleet_router__mypyc.so").write_bytes(b"")
    (tree / "router/compiled.sha256").write_text(compiled.digest(tree, NAMES) + "\n")


def test_plain_python_is_no_error(tree):
    assert compiled.check(tree, NAMES) is False


def test_modules_of_this_very_source_are_good(tree):
    compile_by_hand(tree)
    assert compiled.check(tree, NAMES) is True


@pytest.mark.parametrize("change", [
    pytest.param(lambda tree: (tree / NAMES[1]).write_text("NAME = 2\n"), id="a-source-changed"),
    pytest.param(lambda tree: (tree / "router/compiled.sha256").unlink(), id="nothing-says-what-was-compiled"),
])  # fmt: skip
def test_modules_of_another_source_are_refused(tree, change):
    compile_by_hand(tree)
    change(tree)
    with pytest.raises(ConfigError, match="make uncompile"):
        compiled.check(tree, NAMES)


def test_cleaning_leaves_plain_python_and_other_libraries(tree):
    compile_by_hand(tree)
    compiled.clean(tree)
    assert compiled.check(tree, NAMES) is False
    assert (tree / "_other.so").exists()


def test_every_module_to_be_compiled_is_there():
    assert [name for name in compiled.MODULES if not (compiled.ROOT / name).is_file()] == []


def test_other_words_are_refused(capsys):
    assert compiled.main(["--claen"]) == 2
    assert "usage" in capsys.readouterr().err


SCRIPT = """
import sys
from router import ledger, prefix
assert ledger.__file__.endswith(".so") and prefix.__file__.endswith(".so"), (ledger.__file__, prefix.__file__)
books = ledger.Ledger()
books.dispatch("u", 1, 10, 40, 7, adapter="sql")
books.dispatch("u", 2, 5, 20, 7)
books.token(2, 3)
assert books.of("u") == ledger.Load(2, 10, 63) and books.alike(7) == 2 and books.adapters("u") == {"sql"}
books.finish(1); books.finish(1); books.finish(2)
assert books.of("u") == ledger.Load(0, 0, 0) and not len(books) and not books.adapters("u")
index = prefix.PrefixIndex(4)
hashes = prefix.block_hashes(b"a" * 1024, seed=1)
index.record("u", hashes)
assert index.match([*hashes, 9], ["u", "v"]) == {"u": 4, "v": 0}
"""


@pytest.mark.integration
@pytest.mark.timeout(900)
@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs a C compiler")
def test_what_is_compiled_does_what_its_source_does(tmp_path):
    names = ("router/ledger.py", "router/prefix.py")
    (tmp_path / "router").mkdir()
    for name in ("router/__init__.py", *names):
        shutil.copyfile(compiled.ROOT / name, tmp_path / name)
    build = f"from pathlib import Path; from router import compiled; compiled.build(Path({str(tmp_path)!r}), {names!r})"
    subprocess.run([sys.executable, "-c", build], check=True, cwd=compiled.ROOT, capture_output=True)
    assert compiled.check(tmp_path, names) is True
    subprocess.run(
        [sys.executable, "-c", SCRIPT], check=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)}
    )
