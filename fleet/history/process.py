"""A writer process, so that no event loop shares its interpreter with the database.

A thread that encodes JSON and drives the database takes the interpreter from the event loop again and again; a process
does not. Rows go to it in frames (:mod:`fleet.history.wire`) over a socket pair; after each transaction it answers how
many frames are on disk. What is not on disk yet is kept here, bounded, and given to a new process when one dies.

The writer process has its socket as standard input, and the database's URL as its first frame. It ends when the
socket is closed and everything is written.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from typing import Final

from sqlalchemy.exc import SQLAlchemyError

from fleet.errors import HistoryError
from fleet.history.store import History
from fleet.history.wire import LENGTH, UNSENDABLE, WRITTEN, Flat, Row, flat, frame, rows_of
from fleet.shell import setup_logging

log = logging.getLogger(__name__)

_FRAME_ROWS: Final = 64
"""So many rows go at once; fewer with the next :meth:`ProcessWriter.flush`."""
_AGAIN_S: Final = 1.0
"""Between two starts of the process; twice as long each time that it wrote nothing before it died."""
_AGAIN_MOST_S: Final = 32.0
_SEND_BYTES: Final = 1 << 20
_GOOD_ROWS: Final = 500
"""The process writes so many without waiting for more."""
_COMMAND: Final = (sys.executable, "-c", "import sys; from fleet.history.process import main; sys.exit(main())")
_LAST_S: Final = 4.0
"""At the end the process tries for so long to write what it has."""
_NICE: Final = 5


class ProcessWriter:
    """Hands rows to a process of its own that writes them; nothing here blocks but :meth:`close`.

    The first :meth:`flush` starts the process.

    Args:
        url: the history's SQLAlchemy URL; it must have been opened before, which brings its schema up to date.
        max_rows: rows held that are not on disk; beyond it the newest are dropped and counted, never silently.

    Call :meth:`flush` several times a second. A row written just before the process was killed may be there twice.
    """

    def __init__(self, url: str, *, max_rows: int = 50_000) -> None:
        self._url, self._max_rows = url, max_rows
        self._new: list[Flat] = []
        self._unsent: deque[tuple[bytes, int]] = deque()
        """Frames, each with its number of rows."""
        self._sent: deque[tuple[bytes, int]] = deque()
        """Frames that were sent, and are not known to be on disk."""
        self._offset = 0
        """Bytes of the first unsent frame that were sent."""
        self._held = 0
        """Rows in all of them."""
        self._heard = b""
        self.written = 0
        self.dropped = 0
        self.restarts = 0
        self._told = 0
        self._again_s = _AGAIN_S
        self._process: subprocess.Popen[bytes] | None = None
        self._started_s = -math.inf

    def put(self, row: Row) -> None:
        """Hand over a row."""
        if self._held >= self._max_rows:
            self.dropped += 1
            return
        self._held += 1
        self._new.append(flat(row))
        if len(self._new) >= _FRAME_ROWS:
            self.flush()

    def flush(self) -> None:
        """Send what there is, as far as the process takes it; hear what is on disk; look after the process."""
        self._pack()
        if self._process is None:
            if time.monotonic() - self._started_s >= self._again_s:
                self._again()
            return
        try:
            self._hear()
            self._send()
        except OSError as error:
            self._died(error)
        if self.dropped > self._told:
            log.error("history: %d rows dropped, the writer is too slow", self.dropped - self._told)
            self._told = self.dropped

    def close(self, timeout_s: float = 10.0) -> None:
        """Have everything written, and end the process; one that takes longer is left to finish by itself."""
        deadline_s = time.monotonic() + timeout_s
        self._pack()
        while self._held and time.monotonic() < deadline_s:
            self.flush()
            if self._process is None:
                time.sleep(0.02)
            else:
                _ready(self._socket, 0.05, sending=bool(self._unsent))
        process, self._process = self._process, None
        if process is not None:
            self._socket.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.1, deadline_s - time.monotonic()))
        given = sum(rows for _, rows in self._sent) if process is not None and process.returncode is None else 0
        if given:
            log.warning("history: process %d has %d rows still to write", process.pid if process else 0, given)
        if lost := self._held - given:
            log.error("history: %d rows lost at shutdown", lost)
            self.dropped += lost
        self._held = 0

    @property
    def pid(self) -> int:
        """Of the process; 0 while there is none."""
        return self._process.pid if self._process is not None else 0

    def _pack(self) -> None:
        rows, self._new = self._new, []
        if not rows:
            return
        try:
            self._unsent.append((frame(rows), len(rows)))
        except UNSENDABLE:
            for row in rows:
                self._pack_one(row)

    def _pack_one(self, row: Flat) -> None:
        """A row of a batch that does not go: perhaps it is this one that does not."""
        try:
            self._unsent.append((frame([row]), 1))
        except UNSENDABLE as error:
            self._held -= 1
            self.dropped += 1
            self._told += 1
            log.error("history: a row that cannot be written was dropped: %s", error)

    def _again(self) -> None:
        """Start the process, for the first time or after it died."""
        if self._started_s > -math.inf:
            self.restarts += 1
            self._again_s = min(2.0 * self._again_s, _AGAIN_MOST_S)
        self._start()

    def _start(self) -> None:
        self._started_s = time.monotonic()
        ours, theirs = socket.socketpair()
        with theirs:
            for one in (ours, theirs):
                one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BYTES)
            try:
                self._process = subprocess.Popen(_COMMAND, stdin=theirs.fileno(), stdout=subprocess.DEVNULL)
            except OSError as error:  # for want of memory or descriptors: tried again
                ours.close()
                log.error("history: the writer process cannot be started (%s): %d rows wait", error, self._held)
                return
        url = self._url.encode()
        ours.sendall(LENGTH.pack(len(url)) + url)  # into an empty buffer
        ours.setblocking(False)
        self._socket, self._heard, self._offset = ours, b"", 0
        self._unsent.extendleft(reversed(self._sent))
        self._sent.clear()

    def _send(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._unsent:
                data, _ = self._unsent[0]
                self._offset += self._socket.send(memoryview(data)[self._offset :])
                if self._offset == len(data):
                    self._offset = 0
                    self._sent.append(self._unsent.popleft())

    def _hear(self) -> None:
        """The process says after each transaction how many frames it dealt with, and what the database refused."""
        try:
            self._heard += (got := self._socket.recv(4096))
        except BlockingIOError:
            return
        while len(self._heard) >= WRITTEN.size:
            frames, refused = WRITTEN.unpack_from(self._heard)
            self._heard, self._again_s = self._heard[WRITTEN.size :], _AGAIN_S
            self.written -= refused
            self.dropped += refused
            self._told += refused  # the process told of them
            for _ in range(frames):
                _, rows = self._sent.popleft()
                self._held -= rows
                self.written += rows
        if not got:
            raise ConnectionResetError("it ended")

    def _died(self, error: OSError) -> None:
        """Begin anew a little later, with all that is not known to be on disk."""
        log.error("history: the writer process is gone (%s): %d rows wait for another", error, self._held)
        process, self._process = self._process, None
        self._socket.close()
        if process is not None:
            process.kill()
            process.wait()


def _ready(sock: socket.socket, within_s: float | None, *, sending: bool = False) -> bool:
    """Wait until there is something to read (or room to send); ``None``: for ever."""
    poll = select.poll()  # select() takes no descriptor above 1023
    poll.register(sock, select.POLLIN | (select.POLLOUT if sending else 0))
    return bool(poll.poll(None if within_s is None else within_s * 1e3))


class _Inside:
    """The process's side."""

    def __init__(self, sock: socket.socket, *, flush_s: float) -> None:
        self._socket, self._flush_s = sock, flush_s
        self._read = b""
        self.open = True
        """More may come."""

    def frame(self, wait_s: float | None) -> bytes | None:
        """The next frame's body; ``None`` when none came in time, or the socket was closed."""
        end_s = None if wait_s is None else time.monotonic() + wait_s
        while (body := self._cut()) is None and self.open:
            left_s = None if end_s is None else max(0.0, end_s - time.monotonic())
            if not _ready(self._socket, left_s):
                return None
            try:
                got = self._socket.recv(_SEND_BYTES)
            except ConnectionResetError:  # the other side died with words of ours unread
                got = b""
            self.open = bool(got)
            self._read += got
        return body

    def _cut(self) -> bytes | None:
        if len(self._read) < LENGTH.size:
            return None
        end = LENGTH.size + LENGTH.unpack_from(self._read)[0]
        if len(self._read) < end:
            return None
        body, self._read = self._read[LENGTH.size : end], self._read[end:]
        return body

    def run(self) -> int:
        """Write until the socket is closed; returns an exit code."""
        url = self.frame(None)
        if url is None:
            return 0
        history = History(url.decode())
        with contextlib.suppress(OSError):
            os.nice(_NICE)
        while True:
            bodies = self._batch()
            if bodies and not self._write(history, bodies):
                return 1
            if not bodies and not self.open:
                history.close()
                return 0

    def _batch(self) -> list[bytes]:
        """Frames enough for a transaction, or those of ``flush_s``."""
        first = self.frame(None)
        if first is None:
            return []
        bodies, end_s = [first], time.monotonic() + self._flush_s
        while len(bodies) < _GOOD_ROWS // _FRAME_ROWS:
            body = self.frame(max(0.0, end_s - time.monotonic()))
            if body is None:
                break
            bodies.append(body)
        return bodies

    def _write(self, history: History, bodies: list[bytes]) -> bool:
        """Write them in one transaction, tried again and again; False: it failed, and the other side is gone."""
        found = [(kind, rows) for body in bodies for kind, rows in rows_of(body).items()]
        count, last_s, said = sum(len(rows) for _, rows in found), None, ""
        while True:
            try:
                refused = history.keep(found)
            except SQLAlchemyError as error:
                cause = str(getattr(error, "orig", None) or error)
                if cause != said:  # once, not twice a second for as long as it lasts
                    log.warning("%d rows wait, the write failed and is tried again: %s", count, cause)
                said = cause
                if not self._still_there():
                    last_s = last_s or time.monotonic() + _LAST_S
                    if time.monotonic() > last_s:
                        log.error("%d rows lost at shutdown: %s", count, cause)
                        return False
                time.sleep(self._flush_s)
            else:
                if said:
                    log.info("the history can be written again")
                with contextlib.suppress(OSError):  # nobody waits for the word any more
                    self._socket.sendall(WRITTEN.pack(len(bodies), refused))
                return True

    def _still_there(self) -> bool:
        """Has the other side not closed yet? (What it sent meanwhile stays where it is.)"""
        if self.open and _ready(self._socket, 0.0):
            with contextlib.suppress(BlockingIOError):
                return bool(self._socket.recv(1, socket.MSG_PEEK))
        return self.open


def main() -> int:
    """The writer process."""
    for number in (signal.SIGTERM, signal.SIGINT):  # it ends when its socket does: nothing that was sent is lost
        signal.signal(number, signal.SIG_IGN)
    setup_logging("history-writer")
    with socket.socket(fileno=os.dup(sys.stdin.fileno())) as sock:
        try:
            return _Inside(sock, flush_s=0.5).run()
        except HistoryError as error:
            log.error("%s", error)
            return 1
