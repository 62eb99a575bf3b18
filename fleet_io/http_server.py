"""An ASGI application served by uvicorn in a thread of its own: listens before `start` returns, ends when `stop` does.

A host `unix:PATH` is a Unix socket: it has no port, and its file's permissions say who may connect.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import uvicorn

from fleet_io.errors import ListenFailed
from fleet_io.http_bounds import BoundedProtocol

STOP_S: Final = 5
"""So long answers that are under way may take when the server is told to stop."""
KEEP_ALIVE_S: Final = 60
"""A client that asks once a minute keeps its connection."""
UNTAKEN_S: Final = 60
"""A client that takes nothing of its answer for so long is cut off."""
BACKLOG: Final = 512
UNIX: Final = "unix:"
SOCKET_MODE: Final = 0o660
"""A Unix socket's owner and group may connect."""


@dataclass(frozen=True, slots=True)
class ServerCertificate:
    """A server's certificate and key (PEM files)."""

    certificate: Path
    key: Path


class HttpServer:
    """One ASGI 3 application on one address; port 0 takes a free one. With a certificate it speaks HTTPS."""

    def __init__(self, app: Any, *, host: str, port: int, certificate: ServerCertificate | None = None) -> None:  # noqa: ANN401
        self._host, self._port = host, port
        self._scheme = "https" if certificate else "http"
        self._server = _Server(
            uvicorn.Config(
                app,
                http=BoundedProtocol,
                ws="none",
                loop="auto",
                lifespan="off",
                interface="asgi3",
                log_config=None,
                access_log=False,
                log_level="error",  # its warnings are about what clients sent, who could fill the log
                proxy_headers=False,
                server_header=False,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=STOP_S,
                ssl_certfile=None if certificate is None else certificate.certificate,
                ssl_keyfile=None if certificate is None else str(certificate.key),
            )
        )
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """Where it listens, `http://127.0.0.1:8080` or `unix:/run/app.sock`; with port 0 known once it is started."""
        if self._host.startswith(UNIX):
            return self._host
        name = f"[{self._host}]" if ":" in self._host else self._host
        return f"{self._scheme}://{name}:{self._port}"

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The event loop that it runs on, once it is started."""
        return self._server.loop

    def start(self) -> None:
        """Listen, and return when requests are answered. Raises `ListenFailed` when the address is taken or not ours."""
        if self._host.startswith(UNIX):
            listener = listening_unix_socket(Path(self._host.removeprefix(UNIX)))
        else:
            listener = listening_socket(self._host, self._port)
            self._port = int(listener.getsockname()[1])
        self._thread = threading.Thread(target=self._serve, args=(listener,), name=f"http-{self._port}", daemon=True)
        self._thread.start()
        self._server.settled.wait()
        if not self._server.started:
            raise ListenFailed(f"The server on {self.url} ended before it began; the log says why.")

    def stop(self) -> None:
        """Answer what is under way, then end. A second call does nothing."""
        self._server.should_exit = True
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _serve(self, listener: socket.socket) -> None:
        try:
            self._server.run(sockets=[listener])
        finally:
            listener.close()
            if self._host.startswith(UNIX):
                Path(self._host.removeprefix(UNIX)).unlink(missing_ok=True)
            self._server.settled.set()


class _Server(uvicorn.Server):
    """uvicorn's server, which says when it has begun."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.settled = threading.Event()
        self.loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """See `uvicorn.Server`."""
        self.loop = asyncio.get_running_loop()
        await super().startup(sockets)
        self.settled.set()


def listening_socket(host: str, port: int) -> socket.socket:
    """A TCP socket that listens; port 0 takes a free one. Raises `ListenFailed`."""
    if not host:  # to sockets it means every address of this machine
        raise ListenFailed("Cannot listen on an empty address. Choose one of this machine, or 0.0.0.0 for all.")
    # asyncio sets TCP_NODELAY only on sockets that say they are TCP, which socket.create_server() leaves out: without it
    # every answer waits for the client's delayed acknowledgement.
    made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux; accepted sockets inherit it
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(UNTAKEN_S * 1000))
        made.bind((host, port))
        made.listen(BACKLOG)
    except (OSError, OverflowError) as error:
        made.close()
        reason = error.strerror if isinstance(error, OSError) else str(error)
        taken = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
        hint = "Stop the program that does, or choose another port" if taken else "Choose an address of this machine"
        raise ListenFailed(f"Cannot listen on {host}:{port}: {reason}. {hint}.") from error
    return made


def listening_unix_socket(path: Path) -> socket.socket:
    """A Unix socket that listens; a file that a killed server left there is replaced. Raises `ListenFailed`."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if nobody_listens(path):
            path.unlink(missing_ok=True)
        made.bind(str(path))
        path.chmod(SOCKET_MODE)  # before it listens, so that nobody else connects meanwhile
        made.listen(BACKLOG)
    except OSError as error:
        made.close()
        reason = error.strerror or str(error)
        taken = error.errno == errno.EADDRINUSE
        hint = "Stop the program that does, or choose another path" if taken else "Choose another path"
        raise ListenFailed(f"Cannot listen on {UNIX}{path}: {reason}. {hint}.") from error
    return made


def nobody_listens(path: Path) -> bool:
    """Whether a socket is there that refuses connections: its server was killed."""
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as asking:
        try:
            asking.connect(str(path))
        except OSError as error:
            return error.errno == errno.ECONNREFUSED and path.is_socket()
    return False
