"""How a part takes SIGTERM and SIGINT: it leaves at once while it starts, and tidies up once it serves.

Light to import: the command line sets the first before it loads a part.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable


def on_stop(callback: Callable[[], None]) -> None:
    """Call ``callback`` once on SIGTERM or SIGINT."""

    def handle(_number: int, _frame: object) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        callback()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handle)


def leave_on_stop() -> None:
    """On SIGTERM or SIGINT end this process with code 0: right until a part serves, while it has nothing to tidy up.

    At once, not by an exception: raised amid an import, some extension modules turn it into a failed import. And not
    by the signal's own default: as a container's first process, a part without a handler is not ended by SIGTERM.
    """
    on_stop(lambda: os._exit(0))
