"""`LocalServer`: the Open Inference Protocol on localhost, for applications in any language. uvicorn in a thread of its own.

It listens on 127.0.0.1 unless told otherwise: there is no authentication. What it says is `runtime.oip_app`'s.
"""

from __future__ import annotations

import os
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import uvicorn

from runtime.errors import CannotListen
from runtime.host import ModelHost
from runtime.oip_app import BODY_BYTES, Application

_STOP_S = 5
_KEEP_ALIVE_S = 60
"""An application that asks once a minute keeps its connection."""
_POOL_THREADS = 4


class LocalServer:
    """Serves the models of `host`. `port` 0 takes a free one."""

    def __init__(self, host: ModelHost, *, address: str = "127.0.0.1", port: int = 0, body_bytes: int = BODY_BYTES) -> None:
        self._address = address
        self._port = port
        self._threads = ThreadPoolExecutor(min(_POOL_THREADS, os.cpu_count() or 1), thread_name_prefix="oip")
        self._server = _Server(
            uvicorn.Config(
                Application(host, self._threads, body_bytes=body_bytes),
                http="httptools",
                ws="none",
                loop="asyncio",
                lifespan="off",
                interface="asgi3",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_keep_alive=_KEEP_ALIVE_S,
                timeout_graceful_shutdown=_STOP_S,
            )
        )
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """Where it listens, such as `http://127.0.0.1:8080`; known once it is started."""
        name = f"[{self._address}]" if ":" in self._address else self._address
        return f"http://{name}:{self._port}"

    def start(self) -> None:
        """Listen, and return when requests are answered. Raises `CannotListen`."""
        listener = self._bind()
        self._port = int(listener.getsockname()[1])
        self._thread = threading.Thread(target=self._serve, args=(listener,), name="oip-server", daemon=True)
        self._thread.start()
        self._server.settled.wait()
        if not self._server.started:
            raise CannotListen(f"The server on {self.url} ended before it began; the log says why.")

    def stop(self) -> None:
        """Answer what is under way, then end. A second call does nothing."""
        self._server.should_exit = True
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._threads.shutdown()

    def _bind(self) -> socket.socket:
        family = socket.AF_INET6 if ":" in self._address else socket.AF_INET
        # asyncio sets TCP_NODELAY only on sockets that say they are TCP, which socket.create_server() leaves out: without it
        # every answer waits 40 ms for the client's delayed acknowledgement.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((self._address, self._port))
            listener.listen()
            return listener
        except (OSError, OverflowError) as error:
            listener.close()
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise CannotListen(
                f"Cannot listen on {self._address} port {self._port}: {reason}. Choose another port, or 0 for a free one."
            ) from error

    def _serve(self, listener: socket.socket) -> None:
        try:
            self._server.run(sockets=[listener])
        finally:
            listener.close()
            self._server.settled.set()


class _Server(uvicorn.Server):
    """uvicorn's server, which says when it has begun."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.settled = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """See `uvicorn.Server`."""
        await super().startup(sockets)
        self.settled.set()
