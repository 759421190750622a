"""The endpoint picker as one process: the router's director behind a gRPC port instead of an HTTP one."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

from fleet.errors import ConfigError
from fleet.history import History
from router.picker_server.addresses import Addresses
from router.picker_server.objects_source import Watch, source
from router.picker_server.server import Server
from router.picker_server.session import Desk
from router.picker_server.settings import PickerSettings
from router.profile import Profile
from router.service import RouterService
from router.settings import RouterSettings


class PickerService(RouterService):
    """Start it, and it picks until it is stopped.

    Args:
        settings: addresses, limits, times.
        picker: how it meets its proxy.
        profile: how endpoints are chosen.
        home: folder with the predictor's artifact.
        history: where finished requests are recorded; ``None``: nowhere.
        slo_file: latency targets of requests that name none; ``None``: they have none.
    """

    def __init__(
        self, settings: RouterSettings, profile: Profile, *, picker: PickerSettings, home: Path,
        history: History | None = None, slo_file: Path | None = None,
    ) -> None:  # fmt: skip
        super().__init__(settings, profile, home=home, history=history, slo_file=slo_file)
        desk = Desk(director=self.director, addresses=Addresses(self.endpoints), fallbacks=picker.fallbacks,
                    emit_scores=picker.emit_scores, conformance=picker.conformance,
                    tracing=self.records.tracing)  # fmt: skip
        self.desk, self._tls = desk, _tls(picker)
        self.server = Server(desk)
        self._objects: Watch | None = None
        if picker.objects:
            self._objects = Watch(source(picker.objects), desk.names, self.director.tenants.also)
            self._objects.look()
            if self._objects.error:
                raise ConfigError(self._objects.error, where="--objects", next_step="Correct it.")

    async def _listen(self, loop: asyncio.AbstractEventLoop) -> asyncio.Server:
        return await loop.create_server(self.server.connection, sock=self._sockets[0], ssl=self._tls)

    def _tick(self) -> None:
        super()._tick()
        if self._objects is not None:
            self._objects.look()
        self.server.tick()

    def _drain(self) -> None:
        super()._drain()
        self.server.drain()

    def _busy(self) -> int:
        return self.server.calls

    def _abort(self) -> None:
        super()._abort()
        self.server.close()


def _tls(picker: PickerSettings) -> ssl.SSLContext | None:
    """The port's TLS.

    Raises: ConfigError for a file that cannot be used.
    """
    if picker.tls_cert is None or picker.tls_key is None:
        if picker.tls_cert or picker.tls_key:
            raise ConfigError("TLS needs a certificate and its key", where="picker", limit="--tls-cert and --tls-key",
                              next_step="Give both of them, or none.")  # fmt: skip
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(picker.tls_cert, picker.tls_key)
        if picker.tls_client_ca is not None:
            context.load_verify_locations(picker.tls_client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"TLS files cannot be used: {error}", where=str(picker.tls_cert),
                          next_step="Give PEM files that belong together.") from error  # fmt: skip
    context.set_alpn_protocols(["h2"])
    return context
