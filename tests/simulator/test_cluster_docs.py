"""The documentation's example runs and says what it should."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "simulated-clusters.md"


def test_the_example_of_the_page_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    exec(compile(example, str(PAGE), "exec"), {})  # noqa: S102  # our own page
    assert re.fullmatch(r"3000 ended, \d+ lost to \{'crash'\} with \d engines and \d+ engine-seconds\n",
                        capsys.readouterr().out)  # fmt: skip
