"""The other workers of a router that has several: started, watched, started again, asked for their pages, stopped.

The first process is a worker like the others; it also serves the admin port. A worker that ends is started again after
a second; with the first, all end.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from router.shared import Board, size_bytes

log = logging.getLogger(__name__)

_AGAIN_S = 1.0
_ASK_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Which worker this is, and where they meet."""

    index: int
    count: int
    folder: Path

    @classmethod
    def parse(cls, text: str) -> Place:
        """From ``INDEX/COUNT/FOLDER``, the value of ``--worker``."""
        index, count, folder = text.split("/", 2)
        return cls(index=int(index), count=int(count), folder=Path("/" + folder.lstrip("/")))

    def argument(self) -> str:
        """The value that :meth:`parse` reads."""
        return f"{self.index}/{self.count}{self.folder}"

    def board(self) -> Board:
        """The memory they share."""
        return Board(self.folder / "board", worker=self.index, workers=self.count)

    def socket(self, index: int) -> Path:
        """Where a worker serves its admin pages to the first."""
        return self.folder / f"{index}.sock"


@contextlib.contextmanager
def meeting(count: int) -> Any:
    """A place for ``count`` workers, as the first of them sees it; it goes with the context."""
    with tempfile.TemporaryDirectory(prefix="fleet-router-") as name:
        folder = Path(name).resolve()
        with (folder / "board").open("wb") as file:
            file.truncate(size_bytes(count))
        yield Place(index=0, count=count, folder=folder)


class Workers:
    """All workers but the first, which this runs in.

    Args:
        place: the first one's.
        command: the command line of a worker at a place.
    """

    def __init__(self, place: Place, command: Callable[[Place], list[str]]) -> None:
        self._place, self._command = place, command
        self._tasks: list[asyncio.Task[None]] = []
        self._processes: dict[int, asyncio.subprocess.Process] = {}
        self._stopping = False
        self.restarts = 0

    def start(self) -> None:
        """Start them; they come up by themselves."""
        for index in range(1, self._place.count):
            self._tasks.append(asyncio.get_running_loop().create_task(self._keep(index)))

    async def _keep(self, index: int) -> None:
        place = Place(index=index, count=self._place.count, folder=self._place.folder)
        while not self._stopping:
            process = await asyncio.create_subprocess_exec(*self._command(place))
            self._processes[index] = process
            code = await process.wait()
            if self._stopping:
                return
            self.restarts += 1
            log.error("worker %d ended with code %d: starting another in %g s", index, code, _AGAIN_S)
            place.board().close()  # clears what it had in flight
            await asyncio.sleep(_AGAIN_S)

    async def ask(self, path: str) -> list[str]:
        """What the workers answer to ``path``; one that does not answer is left out."""
        found = await asyncio.gather(*(self._ask(index, path) for index in range(1, self._place.count)))
        return [text for text in found if text is not None]

    async def ask_json(self, path: str) -> list[Any]:
        """The same, read as JSON."""
        return [json.loads(text) for text in await self.ask(path)]

    async def _ask(self, index: int, path: str) -> str | None:
        connector = aiohttp.UnixConnector(str(self._place.socket(index)))
        timeout = aiohttp.ClientTimeout(total=_ASK_S)
        try:
            async with (
                aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
                session.get(f"http://worker{path}") as answer,
            ):
                return await answer.text() if answer.status == 200 else None
        except (aiohttp.ClientError, TimeoutError) as error:
            log.warning("worker %d does not answer: %s", index, error)
            return None

    def signal_stop(self) -> None:
        """Ask them to finish what they have and end."""
        self._stopping = True
        for process in self._processes.values():
            if process.returncode is None:
                process.terminate()

    async def stop(self, *, within_s: float) -> None:
        """Wait for them to end; then end them."""
        self.signal_stop()
        _, late = await asyncio.wait(self._tasks, timeout=within_s) if self._tasks else (set(), set())
        for process in self._processes.values():
            if process.returncode is None:
                process.kill()
        for task in late:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def command(place: Place, *, port: int) -> list[str]:
    """This program's own command line, as that worker of it."""
    return [
        sys.executable,
        "-m",
        "fleet.cli",
        *sys.argv[1:],
        "--port",
        str(port),
        "--worker",
        place.argument(),
        "--die-with-parent",
    ]
