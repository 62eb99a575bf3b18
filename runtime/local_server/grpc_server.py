"""`GrpcServer`: the local server's gRPC side, on grpc.aio in a thread of its own, with uvloop where that is installed.

What it says is `runtime.local_server.grpc_app`'s. Methods read their message themselves, so that a token is looked at before a
message is taken, and a message that comes too slowly ends its call. Bodies are not inflated: a small message could claim much
memory. grpcio is the extra `edgeward[grpc]`, and is imported only here, when a server starts.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Final

from fleet_io.http_server import SOCKET_MODE, STOP_S, UNIX, nobody_listens
from runtime.errors import CannotListen, ProtocolUnavailable
from runtime.local_server.grpc_app import MODELS, OPEN_INFERENCE, PREDICTION, GrpcApplication, GrpcRefusal

CONCURRENT: Final = 32
"""Calls under way at once; one more is refused. Each may hold one message that is not wholly here yet."""
CONNECTIONS: Final = 256
"""At once. With HTTP's (`fleet_io.http_bounds`), fewer than the 1,024 files that a process may usually have open."""
METADATA_BYTES: Final = 16 * 1024
_KEEP_ALIVE_MS: Final = 60_000
_IDENTITY_ONLY: Final = 1


class GrpcServer:
    """Serves `app` on `address`, `127.0.0.1:8001` (port 0: a free one) or `unix:PATH`; messages of at most `limit` bytes."""

    def __init__(self, app: GrpcApplication, *, address: str, limit: int) -> None:
        self._app = app
        self._address = address
        self._limit = limit
        self._settled = threading.Event()
        self._refusal: CannotListen | None = None
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None

    @property
    def address(self) -> str:
        """Where it listens, as gRPC's clients name it; with port 0 known once it is started."""
        return self._address

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The event loop that it runs on, once it is started."""
        return self._loop

    def start(self) -> None:
        """Listen, and return when calls are answered. Raises `CannotListen`, or `ProtocolUnavailable` without grpcio."""
        _grpc()
        self._thread = threading.Thread(target=self._run, name="grpc", daemon=True)
        self._thread.start()
        self._settled.wait()
        if self._refusal is not None:
            self._thread.join()
            raise self._refusal

    def stop(self) -> None:
        """Answer what is under way, then end. A second call does nothing."""
        if self._thread is None:
            return
        if self._loop is not None and self._stopping is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed already
                self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()
        self._thread = None

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=_loop_factory()) as runner:
                runner.run(self._serve())
            if self._address.startswith(UNIX):
                Path(self._address.removeprefix(UNIX)).unlink(missing_ok=True)
        except CannotListen as error:
            self._refusal = error
        finally:
            self._settled.set()

    async def _serve(self) -> None:
        grpc = _grpc()
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        server = grpc.aio.server(options=_options(self._limit), maximum_concurrent_rpcs=CONCURRENT)
        server.add_generic_rpc_handlers(_handlers(grpc, self._app))
        self._address = _bound(server, self._address)
        await server.start()
        self._settled.set()
        try:
            await self._stopping.wait()
        finally:
            await server.stop(STOP_S)


def _options(limit: int) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", limit),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_metadata_size", METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", METADATA_BYTES),
        ("grpc.max_concurrent_streams", CONCURRENT),
        ("grpc.max_allowed_incoming_connections", CONNECTIONS),
        ("grpc.compression_enabled_algorithms_bitset", _IDENTITY_ONLY),
        ("grpc.so_reuseport", 0),  # else a second server would take half of the first one's calls
        ("grpc.keepalive_time_ms", _KEEP_ALIVE_MS),
    ]


def _bound(server: Any, address: str) -> str:  # noqa: ANN401  # a `grpc.aio.Server`
    """Listen on that address; what it is in full. Raises `CannotListen`."""
    path = Path(address.removeprefix(UNIX)) if address.startswith(UNIX) else None
    if path is not None and path.exists() and not nobody_listens(path):  # grpc would take it from whoever has it
        raise CannotListen(f"Cannot listen on {address}: it is in use. Stop the program that does, or choose another path.")
    try:
        port = server.add_insecure_port(address)
    except RuntimeError as error:
        raise _cannot_listen(address) from error
    if not port:
        raise _cannot_listen(address)
    if path is not None:
        path.chmod(SOCKET_MODE)
        return address
    return f"{address.rpartition(':')[0]}:{port}"


def _cannot_listen(address: str) -> CannotListen:
    return CannotListen(f"Cannot listen for gRPC on {address}. Stop the program that does, or choose another address or port.")


def _handlers(grpc: Any, app: GrpcApplication) -> tuple[Any, ...]:  # noqa: ANN401  # grpcio has no types
    """The handlers of grpcio, by service. Messages stay bytes."""
    by_service: dict[str, dict[str, Any]] = {OPEN_INFERENCE: {}, PREDICTION: {}, MODELS: {}}
    for path in app.methods:
        _, service, method = path.split("/")
        by_service[service][method] = grpc.stream_unary_rpc_method_handler(_one(grpc, app, path))
    _, service, method = app.stream.split("/")
    by_service[service][method] = grpc.stream_stream_rpc_method_handler(_many(grpc, app))
    return tuple(grpc.method_handlers_generic_handler(service, methods) for service, methods in by_service.items())


def _one(grpc: Any, app: GrpcApplication, path: str) -> Callable[[Any, Any], Any]:  # noqa: ANN401
    """A method of one message and one answer. A stream of one is the same on the wire, and leaves the reading to us."""

    async def answer(_messages: object, context: Any) -> bytes | None:  # noqa: ANN401
        try:
            return await app.answer(path, context.read, context)
        except GrpcRefusal as refusal:
            await context.abort(grpc.StatusCode[refusal.code], str(refusal))
            return None

    return answer


def _many(grpc: Any, app: GrpcApplication) -> Callable[[Any, Any], Any]:  # noqa: ANN401
    async def answer(_messages: object, context: Any) -> AsyncIterator[bytes]:  # noqa: ANN401
        try:
            async for response in app.answer_stream(context.read, context):
                yield response
        except GrpcRefusal as refusal:
            await context.abort(grpc.StatusCode[refusal.code], str(refusal))

    return answer


def _grpc() -> Any:  # noqa: ANN401  # grpcio has no types
    """The package. Raises `ProtocolUnavailable`."""
    try:
        import grpc
        import grpc.aio
    except ImportError as error:
        raise ProtocolUnavailable("gRPC needs grpcio, which is not installed: pip install 'edgeward[grpc]'.") from error
    return grpc


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    """uvloop's, with which gRPC answers a third more calls, or else asyncio's own."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop
    return uvloop.new_event_loop
