"""An ASGI application served by uvicorn in a thread of its own: listens before `start` returns, ends when `stop` does."""

from __future__ import annotations

import socket
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import uvicorn

from fleet_io.errors import ListenFailed

START_TIMEOUT_S: Final = 20.0
STOP_TIMEOUT_S: Final = 3
BACKLOG: Final = 512


@dataclass(frozen=True, slots=True)
class ServerCertificate:
    """A server's certificate and key (PEM files)."""

    certificate: Path
    key: Path


class HttpServer:
    """One application on one address. With a certificate it speaks HTTPS."""

    def __init__(self, app: Any, *, host: str, port: int, certificate: ServerCertificate | None = None) -> None:  # noqa: ANN401
        self._address = (host, port)
        self._scheme = "https" if certificate else "http"
        self._server = uvicorn.Server(
            uvicorn.Config(
                app,
                http="httptools",
                loop="asyncio",
                ws="none",
                lifespan="off",
                access_log=False,
                log_config=None,
                server_header=False,
                timeout_graceful_shutdown=STOP_TIMEOUT_S,
                ssl_certfile=None if certificate is None else certificate.certificate,
                ssl_keyfile=None if certificate is None else str(certificate.key),
            )
        )
        self._socket: socket.socket | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """Where it listens; after `start`."""
        assert self._socket is not None
        host, port = self._socket.getsockname()[:2]
        return f"{self._scheme}://{host}:{port}"

    def start(self) -> None:
        """Listen and serve. Raises `ListenFailed` when the address is taken or not ours."""
        self._socket = listening_socket(*self._address)
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [self._socket]}, name=f"http-{self._address[1]}", daemon=True
        )
        self._thread.start()
        waiting = threading.Event()
        for _ in range(int(START_TIMEOUT_S / 0.01)):
            if self._server.started or not self._thread.is_alive():
                break
            waiting.wait(0.01)
        if not self._server.started:
            self.stop()
            raise ListenFailed(f"The HTTP server on {self._address[0]}:{self._address[1]} did not start; its log says why.")

    def stop(self) -> None:
        """Answer what is under way, close, and end the thread."""
        self._server.should_exit = True
        if self._thread is not None:
            self._thread.join(STOP_TIMEOUT_S + 2.0)
            self._thread = None
        if self._socket is not None:
            self._socket.close()


def listening_socket(host: str, port: int) -> socket.socket:
    """A TCP socket that listens; port 0 takes a free one. Raises `ListenFailed`."""
    # The protocol is named because asyncio sets TCP_NODELAY only on sockets that say so: without it each answer costs 40 ms.
    made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind((host, port))
        made.listen(BACKLOG)
    except OSError as error:
        made.close()
        raise ListenFailed(
            f"Cannot listen on {host}:{port}: {error.strerror}. Stop the program that does, or choose another port."
        ) from error
    return made
