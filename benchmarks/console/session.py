"""Viewers without a browser: sessions that speak Streamlit's own protocol and ask anew as often as the page says."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from websockets.exceptions import WebSocketException
from websockets.sync.client import ClientConnection, connect

_PANELS = (b"fl-tile", b"fl-empty", b"fl-panel-title")
_OPEN_S = 60.0
_MOST_BYTES = 64 * 2**20


@dataclass(slots=True, kw_only=True)
class Viewer:
    """One session on one page, kept live until it is told to leave."""

    address: str
    page: str
    """Path with its leading slash."""
    query: str
    seen: threading.Event = field(default_factory=threading.Event)
    """The page's heading and a panel have come."""
    leave: threading.Event = field(default_factory=threading.Event)
    problem: str = ""
    asked: int = 0
    """How often it asked for a fragment anew."""
    _due: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Fragment -> (when to ask for it, every how many seconds)."""
    _script: str = ""
    _heading: bool = False

    def run(self) -> None:
        """Look at the page until told to leave."""
        url = self.address.replace("http", "ws", 1) + "/_stcore/stream"
        try:
            with connect(url, subprotocols=["streamlit"], max_size=_MOST_BYTES, open_timeout=_OPEN_S) as socket:  # type: ignore[list-item]  # a NewType of str
                self._ask(socket, "")
                while not self.leave.is_set():
                    self._turn(socket)
        except (OSError, WebSocketException) as error:
            self.problem = f"{type(error).__name__}: {error}"

    def _ask(self, socket: ClientConnection, fragment: str) -> None:
        message = BackMsg()
        state = message.rerun_script
        state.query_string, state.page_name, state.page_script_hash = self.query, self.page.strip("/"), self._script
        state.fragment_id, state.is_auto_rerun = fragment, bool(fragment)
        socket.send(message.SerializeToString())

    def _turn(self, socket: ClientConnection) -> None:
        """Take a message, or ask for what is due."""
        now = time.monotonic()
        for fragment, (at, every) in list(self._due.items()):
            if at <= now:
                self._ask(socket, fragment)
                self.asked += 1
                self._due[fragment] = (now + every, every)
        wait = min((at for at, _ in self._due.values()), default=now + 0.5) - time.monotonic()
        try:
            raw = socket.recv(timeout=min(0.5, max(0.0, wait)))
        except TimeoutError:
            return
        if isinstance(raw, bytes):
            self._take(raw)

    def _take(self, raw: bytes) -> None:
        message = ForwardMsg.FromString(raw)
        kind = message.WhichOneof("type")
        if kind == "new_session":
            self._script = message.new_session.page_script_hash
        elif kind == "navigation":
            self._script = message.navigation.page_script_hash
        elif kind == "auto_rerun":
            every = float(message.auto_rerun.interval)
            self._due[message.auto_rerun.fragment_id] = (time.monotonic() + every, every)
        elif kind == "stop_auto_rerun":
            self._due.pop(message.stop_auto_rerun.fragment_id, None)
        elif kind == "delta":
            self._heading = self._heading or b"fl-title" in raw
            if self._heading and any(word in raw for word in _PANELS):
                self.seen.set()


class Viewers:
    """Several of them, each in a thread of its own."""

    def __init__(self, address: str, pages: Sequence[str], query: str) -> None:
        self.all = [Viewer(address=address, page=page, query=query) for page in pages]
        self._threads = [threading.Thread(target=one.run, daemon=True) for one in self.all]
        for thread in self._threads:
            thread.start()

    def wait(self, limit_s: float) -> int:
        """How many have seen their page after at most so long."""
        until = time.monotonic() + limit_s
        return sum(one.seen.wait(max(0.0, until - time.monotonic())) for one in self.all)

    def close(self) -> None:
        """All leave."""
        for one in self.all:
            one.leave.set()
        for thread in self._threads:
            thread.join(5)


@contextmanager
def crowd(address: str, pages: Sequence[str], query: str) -> Iterator[Viewers]:
    """Viewers of some pages for as long as the block runs."""
    viewers = Viewers(address, pages, query)
    try:
        yield viewers
    finally:
        viewers.close()
