"""Runs in vLLM's environment: does its own parser accept these command lines?

Reads a JSON object of command lines (after ``vllm serve``) from standard input and writes one of messages,
"" where it does.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys

from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser


def problem(arguments: list[str]) -> str:
    """What the parser complains about."""
    parser = make_arg_parser(FlexibleArgumentParser())
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            parser.parse_args(arguments)
    except SystemExit:
        return said.getvalue().strip().splitlines()[-1]
    return ""


def main() -> None:
    """All of them."""
    lines = json.load(sys.stdin)
    sys.stdout.write(json.dumps({name: problem(arguments) for name, arguments in lines.items()}) + "\n")


if __name__ == "__main__":
    main()
