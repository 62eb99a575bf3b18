"""`LocalServer`: the models of this device on localhost, over HTTP and gRPC, for applications in any language.

It listens on 127.0.0.1 unless told otherwise, and unless it has a token there is no authentication. What it says is
`runtime.local_server.local_app`'s and `runtime.local_server.grpc_app`'s; both ask the same `Answering`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from fleet_io.errors import ListenFailed
from fleet_io.http_server import HttpServer
from runtime.errors import CannotListen
from runtime.hosting.admission import HANG_S
from runtime.hosting.repository import Repository
from runtime.hosting.serving import Serving
from runtime.local_server.answering import TIMEOUT_S
from runtime.local_server.exchange import BODY_BYTES
from runtime.local_server.local_app import Application
from runtime.local_server.threads import DaemonThreads
from runtime.local_server.watchdog import Watchdog

if TYPE_CHECKING:
    from runtime.local_server.grpc_server import GrpcServer

log = logging.getLogger(__name__)

POOL_THREADS: Final = 64
"""Started when they are needed. What runs at the same time is bounded by model (`runtime.hosting.admission.Limits`); these
leave room for runs that hang."""


class LocalServer:
    """Serves the models of `host`. `port` 0 takes a free one. `grpc`: where gRPC listens, `127.0.0.1:0` or `unix:PATH`.

    `hung` is told once, on a thread of its own, when a model that hangs has held up a whole protocol for `hang_s` seconds.
    Nothing can end such a run but the end of the process; the default is to log it.
    """

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
        grpc: str | None = None,
        hung: Callable[[str], object] = log.critical,
        hang_s: float = HANG_S,
    ) -> None:
        self._threads = DaemonThreads(POOL_THREADS, name="oip")
        self._app = Application(
            host, self._threads, body_bytes=body_bytes, repository=repository, token=token, timeout_s=timeout_s
        )
        self._server = HttpServer(self._app, host=address, port=port)
        self._grpc_address = grpc
        self._grpc: GrpcServer | None = None
        self._repository, self._token = repository, token
        self._host, self._hung, self._hang_s = host, hung, hang_s
        self._watchdog: Watchdog | None = None

    @property
    def grpc_address(self) -> str | None:
        """Where gRPC listens, such as `127.0.0.1:8001`, known once it is started; None: nowhere."""
        return self._grpc_address if self._grpc is None else self._grpc.address

    @property
    def url(self) -> str:
        """Where it listens, such as `http://127.0.0.1:8080`; known once it is started."""
        return self._server.url

    def start(self) -> None:
        """Listen, and return when requests are answered. Raises `CannotListen`, or `ProtocolUnavailable` (no grpcio)."""
        if self._grpc_address is not None:  # first: who asks over HTTP meanwhile would wait for imports at every step
            self._grpc = self._started_grpc(self._grpc_address)
        try:
            self._server.start()
        except ListenFailed as error:
            self._stop_grpc()
            raise CannotListen(str(error)) from error
        loops = [each.loop for each in (self._server, self._grpc) if each is not None and each.loop is not None]
        self._watchdog = Watchdog(loops, self._tell_hung, hang_s=self._hang_s)
        self._watchdog.start()

    def stop(self) -> None:
        """Answer what is under way, then end. A second call does nothing.

        Where a model that hangs holds up the server, this would take for ever: `hung` is told then, too.
        """
        self._stop_grpc()
        self._server.stop()
        if self._watchdog is not None:
            self._watchdog.stop()
        self._threads.shutdown()

    def _tell_hung(self) -> None:
        running = [f"{each.identity.model} {each.identity.version}" for each in self._host.active() if each.running]
        self._hung(
            f"Nobody was answered for {self._hang_s:g} s: {', '.join(running) or 'something'} hangs on the server's own "
            "thread, where quick models run. Nothing can stop it but the end of this process; isolate the model that hangs."
        )

    def _started_grpc(self, address: str) -> GrpcServer:
        """Imported here: its messages cost whoever speaks HTTP alone some time and memory."""
        from runtime.local_server.grpc_app import GrpcApplication
        from runtime.local_server.grpc_server import GrpcServer

        methods = GrpcApplication(self._app.answering, self._repository, token=self._token)
        server = GrpcServer(methods, address=address, limit=self._app.answering.bodies.limit)
        server.start()
        return server

    def _stop_grpc(self) -> None:
        if self._grpc is not None:
            self._grpc.stop()
