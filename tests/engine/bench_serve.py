"""Runs in vLLM's environment: ``vllm bench serve`` several times in one process.

Reads a JSON list of lists of arguments from standard input. Loading vLLM takes longer than a run.
"""

from __future__ import annotations

import json
import sys

from vllm.benchmarks.serve import add_cli_args, main
from vllm.utils.argparse_utils import FlexibleArgumentParser


def run(arguments: list[str]) -> None:
    """What ``vllm bench serve ARGUMENTS`` does."""
    parser = FlexibleArgumentParser()
    add_cli_args(parser)
    main(parser.parse_args(arguments))


if __name__ == "__main__":
    for each in json.load(sys.stdin):
        run(each)
