"""Loads servers that run as processes of their own, one at a time and in turn: requests per second and processor time of each.

The client is one thread with `CLIENTS` connections that wait for each answer: bare HTTP/1.1, or bare HTTP/2 with gRPC's frames,
so that it costs less than any server that it measures.
"""

from __future__ import annotations

import contextlib
import selectors
import signal
import socket
import statistics
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Protocol

import grpc
import httpx
import psutil

from tests.support import http2

CLIENTS: Final = 8
ROUNDS: Final = 7
SECONDS: Final = 1.0
REST_S: Final = 0.2
"""After each round: what was under way when its time was over is not answered in the next one's."""
START_S: Final = 120.0
OURS: Final = "edgeward"


@dataclass(frozen=True)
class Server:
    """A server process that listens. `first_s`: from its start to its first answer."""

    name: str
    port: int
    process: subprocess.Popen[bytes]
    first_s: float

    def _family(self) -> list[psutil.Process]:
        whole = psutil.Process(self.process.pid)
        return [whole, *whole.children(recursive=True)]

    def resident_bytes(self) -> int:
        """Memory of the process and its children."""
        return sum(each.memory_info().rss for each in self._family())

    def cpu_s(self) -> float:
        """Processor time that they took until now."""
        return sum(sum(each.cpu_times()[:2]) for each in self._family())


def compared(servers: list[Server], request: Request) -> dict[str, object]:
    """Medians of rounds in turn, and ours divided by each. A server that refuses is left out and named.

    Processor time a request says the same as the rate, and less of who else is busy on this machine.
    """
    statuses = {server.name: request.once(server.port) for server in servers}
    asked = [server for server in servers if statuses[server.name] == 200]
    rates: dict[str, list[float]] = {server.name: [] for server in asked}
    costs: dict[str, list[float]] = {server.name: [] for server in asked}
    for _ in range(ROUNDS):
        for server in asked:
            before = server.cpu_s()
            answers = rate(server.port, request)
            rates[server.name].append(answers)
            costs[server.name].append((server.cpu_s() - before) / (answers * SECONDS))
            threading.Event().wait(REST_S)
    rate_of = {name: statistics.median(each) for name, each in rates.items()}
    cost_of = {name: statistics.median(each) for name, each in costs.items()}
    return {
        "rate": {name: round(each, 1) for name, each in rate_of.items()},
        "rate_ratio": {name: round(rate_of[OURS] / each, 2) for name, each in rate_of.items()},
        "cpu_ms": {name: round(cost * 1000, 3) for name, cost in cost_of.items()},
        "cpu_ratio": {name: round(cost_of[OURS] / cost, 3) for name, cost in cost_of.items()},
        **{name: f"answers {status}" for name, status in statuses.items() if status != 200},
    }


class Connection(Protocol):
    """One client: sends the request, waits for the whole answer, sends again."""

    @property
    def socket(self) -> socket.socket:
        """Where it asks."""
        ...

    @property
    def answered(self) -> int:
        """How often it was."""
        ...

    def write(self) -> bool:
        """Send what fits; whether all is sent."""
        ...

    def read(self) -> bool:
        """Take what came; whether there is something to send."""
        ...


class Request(Protocol):
    """What a server is asked, and how."""

    def connect(self, port: int) -> Connection:
        """A client that asks it again and again."""
        ...

    def once(self, port: int) -> int:
        """Ask once: the HTTP status of the answer, 200 also for gRPC's OK; 0 when there is none."""
        ...


@dataclass(frozen=True)
class HttpRequest:
    """A whole request over HTTP/1.1, head and body."""

    content: bytes

    def connect(self, port: int) -> Connection:
        """See `Request`."""
        return HttpConnection(port, self.content)

    def once(self, port: int) -> int:
        """See `Request`."""
        head, _, body = self.content.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        url, headers = f"http://127.0.0.1:{port}{first.split()[1]}", dict(line.split(": ", 1) for line in lines)
        try:
            return httpx.post(url, content=body, headers=headers, timeout=10).status_code
        except httpx.HTTPError:
            return 0


@dataclass(frozen=True)
class GrpcRequest:
    """One message of a gRPC method."""

    path: str
    message: bytes

    def connect(self, port: int) -> Connection:
        """See `Request`."""
        return GrpcConnection(port, self)

    def once(self, port: int) -> int:
        """See `Request`."""
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            try:
                channel.unary_unary(self.path)(self.message, timeout=10)
            except grpc.RpcError as error:
                return 0 if error.code() == grpc.StatusCode.UNAVAILABLE else 500
        return 200


def _connected(port: int) -> socket.socket:
    connected = socket.create_connection(("127.0.0.1", port))
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connected.settimeout(0)
    return connected


class HttpConnection:
    """A client over HTTP/1.1."""

    def __init__(self, port: int, request: bytes) -> None:
        self.socket = _connected(port)
        self.request = memoryview(request)
        self.answered = 0
        self._sent = 0
        self._received = bytearray()

    def write(self) -> bool:
        """Send what fits; whether all is sent."""
        self._sent += self.socket.send(self.request[self._sent :])
        return self._sent == len(self.request)

    def read(self) -> bool:
        """Take what came; whether the answer is whole."""
        self._received += self.socket.recv(1 << 18)
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            return False
        head = bytes(self._received[:end]).lower()
        length = int(head.split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])
        if len(self._received) < end + 4 + length:
            return False
        if not head.startswith(b"http/1.1 200"):
            raise SystemExit(f"A server answered {head[:20]!r} in the middle of a measurement.")
        self.answered += 1
        self._sent = 0
        self._received.clear()
        return True


class GrpcConnection:
    """A client over HTTP/2, for messages that fit into the window that every server opens with (64 KiB)."""

    def __init__(self, port: int, request: GrpcRequest) -> None:
        self.socket = _connected(port)
        self.answered = 0
        self._request = request
        self._stream = -1
        self._sending = bytearray(http2.opening())
        self._received = bytearray()
        self._ask()

    def write(self) -> bool:
        """Send what fits; whether all is sent."""
        del self._sending[: self.socket.send(self._sending)]
        return not self._sending

    def read(self) -> bool:
        """Take what came; whether there is something to send."""
        received = self._received
        received += self.socket.recv(1 << 18)
        while len(received) >= 9 and len(received) >= (whole := 9 + int.from_bytes(received[:3], "big")):
            kind, flags, stream = received[3], received[4], int.from_bytes(received[5:9], "big")
            payload = bytes(received[9:whole])
            del received[:whole]
            self._take(kind, flags, stream, payload)
        return bool(self._sending)

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind in (http2.RESET, http2.GO_AWAY):
            raise SystemExit(f"A server hung up in the middle of a measurement: {payload!r}.")
        if kind in (http2.SETTINGS, http2.PING) and not flags & http2.ACK:
            self._sending += http2.frame(kind, http2.ACK, 0, payload if kind == http2.PING else b"")
        if kind == http2.HEADERS and flags & http2.END_STREAM and stream == self._stream:
            if b"grpc-status" in payload and b"grpc-status\x010" not in payload:
                raise SystemExit(f"A server refused in the middle of a measurement: {payload!r}.")
            self.answered += 1
            self._ask()

    def _ask(self) -> None:
        self._stream += 2
        self._sending += http2.request(self._request.path, http2.prefixed(self._request.message), stream=self._stream)


def rate(port: int, request: Request) -> float:
    """Answers per second to `CLIENTS` connections in `SECONDS`."""
    with contextlib.ExitStack() as stack, selectors.DefaultSelector() as selector:
        connections = [request.connect(port) for _ in range(CLIENTS)]
        for each in connections:
            stack.callback(each.socket.close)
            selector.register(each.socket, selectors.EVENT_WRITE, each)
        began = time.perf_counter()
        while (took := time.perf_counter() - began) < SECONDS:
            for key, events in selector.select(0.1):
                connection: Connection = key.data
                if events & selectors.EVENT_READ and not connection.read():
                    continue
                wanted = selectors.EVENT_READ if connection.write() else selectors.EVENT_WRITE
                if wanted != key.events:
                    selector.modify(key.fd, wanted, connection)
        return sum(each.answered for each in connections) / took


@contextlib.contextmanager
def running(name: str, command: list[str], port: int, request: Request) -> Iterator[Server]:
    """The server, from its first answer until it is told to stop."""
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while request.once(port) != 200:
            if process.poll() is not None or time.perf_counter() - began > START_S:
                raise SystemExit(f"{name} did not start: {' '.join(command)}")
        yield Server(name, port, process, time.perf_counter() - began)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
