"""`LocalServer`: the Open Inference Protocol on localhost, for applications in any language.

It listens on 127.0.0.1 unless told otherwise: there is no authentication. What it says is `runtime.local_app`'s.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from fleet_io.errors import ListenFailed
from fleet_io.http_server import HttpServer
from runtime.errors import CannotListen
from runtime.exchange import BODY_BYTES
from runtime.host import ModelHost
from runtime.local_app import Application
from runtime.repository import Repository

POOL_THREADS: Final = 4
"""Requests for slow models that run at the same time, at most; never more than there are cores."""


class LocalServer:
    """Serves the models of `host`. `port` 0 takes a free one."""

    def __init__(
        self,
        host: ModelHost,
        *,
        address: str = "127.0.0.1",
        port: int = 0,
        body_bytes: int = BODY_BYTES,
        repository: Repository | None = None,
        token: str | None = None,
    ) -> None:
        self._threads = ThreadPoolExecutor(min(POOL_THREADS, os.cpu_count() or 1), thread_name_prefix="oip")
        app = Application(host, self._threads, body_bytes=body_bytes, repository=repository, token=token)
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
