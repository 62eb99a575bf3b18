"""`LocalServer`: the Open Inference Protocol on localhost, for applications in any language.

It listens on 127.0.0.1 unless told otherwise: there is no authentication. What it says is `runtime.local_app`'s.
"""

from __future__ import annotations

from typing import Final

from fleet_io.errors import ListenFailed
from fleet_io.http_server import HttpServer
from runtime.answering import TIMEOUT_S
from runtime.errors import CannotListen
from runtime.exchange import BODY_BYTES
from runtime.local_app import Application
from runtime.repository import Repository
from runtime.serving import Serving
from runtime.threads import DaemonThreads

POOL_THREADS: Final = 64
"""Started when they are needed. What runs at the same time is bounded by model (`runtime.admission.Limits`); these leave room
for runs that hang."""


class LocalServer:
    """Serves the models of `host`. `port` 0 takes a free one."""

    def __init__(
        self,
        host: Serving,
        *,
        address: str = "127.0.0.1",
        port: int = 0,
        body_bytes: int = BODY_BYTES,
        repository: Repository | None = None,
        token: str | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self._threads = DaemonThreads(POOL_THREADS, name="oip")
        app = Application(host, self._threads, body_bytes=body_bytes, repository=repository, token=token, timeout_s=timeout_s)
        self._server = HttpServer(app, host=address, port=port)

    @property
    def url(self) -> str:
        """Where it listens, such as `http://127.0.0.1:8080`; known once it is started."""
        return self._server.url

    def start(self) -> None:
        """Listen, and return when requests are answered. Raises `CannotListen`."""
        try:
            self._server.start()
        except ListenFailed as error:
            raise CannotListen(str(error)) from error

    def stop(self) -> None:
        """Answer what is under way, then end. A second call does nothing."""
        self._server.stop()
        self._threads.shutdown()
