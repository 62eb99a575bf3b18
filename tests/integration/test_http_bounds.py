"""What a client may send, or hold open, before its request reaches an application."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx
import pytest

from fleet_io import http_bounds, http_server
from fleet_io.http_server import HttpServer
from runtime.local_server.exchange import Receive, Scope, Send
from tests.support.waiting import until

SLICE = 64 * 1024
LARGE = 32_000_000


async def measure(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers how many bytes the body had; `/large` answers `LARGE` ones."""
    took, more = 0, True
    while more:
        message = await receive()
        took, more = took + len(message.get("body", b"")), message.get("more_body", False)
    body = bytes(LARGE) if scope["path"] == "/large" else str(took).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture
def server() -> Iterator[HttpServer]:
    running = HttpServer(measure, host="127.0.0.1", port=0)
    running.start()
    yield running
    running.stop()


def connect(server: HttpServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", urlsplit(server.url).port or 0), timeout=20)


def answer(connection: socket.socket) -> str:
    """Everything that comes until the server closes the connection; what a reset destroys is missing."""
    got = b""
    with contextlib.suppress(ConnectionError):
        while piece := connection.recv(SLICE):
            got += piece
    return got.decode()


def ask(connection: socket.socket) -> None:
    """A request that is answered whole, on a connection that stays."""
    connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
    got = b""
    while not got.endswith(b"\r\n\r\n0"):
        got += connection.recv(SLICE)


@pytest.mark.parametrize(
    "begun",
    [
        pytest.param(b"GET /", id="path"),
        pytest.param(b"GET / HTTP/1.1\r\nX: ", id="one header"),
        pytest.param(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX: ", id="trailer"),
    ],
)
def test_headers_that_do_not_end_are_refused_while_they_come(server: HttpServer, begun: bytes) -> None:
    with connect(server) as connection:
        connection.sendall(begun)
        took = 0
        with contextlib.suppress(ConnectionError):
            while took < 64 * http_bounds.HEAD_BYTES:
                took += connection.send(b"a" * SLICE)
        assert took < 64 * http_bounds.HEAD_BYTES
    assert httpx.get(server.url).text == "0"


def test_who_sends_large_headers_is_told_what_is_too_large(server: HttpServer) -> None:
    with connect(server) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nX: " + b"a" * http_bounds.HEAD_BYTES)
        head, _, body = answer(connection).partition("\r\n\r\n")
    assert head.startswith("HTTP/1.1 431 ")
    assert json.loads(body)["error"].startswith("The request's headers are larger than 65536 bytes.")


def test_large_bodies_in_small_and_large_pieces_are_no_headers(server: HttpServer) -> None:
    def chunks() -> Iterator[bytes]:
        yield from [b"a"] * 50
        yield b"a" * 1_000_000

    assert httpx.post(server.url, content=chunks()).text == "1000050"
    assert httpx.post(server.url, content=bytes(3_000_000)).text == "3000000"


def test_requests_one_behind_the_other_are_each_given_their_headers(server: HttpServer) -> None:
    one = b"POST / HTTP/1.1\r\nX: " + b"a" * 40_000 + b"\r\nContent-Length: 3\r\n\r\nabc"
    with connect(server) as connection:
        connection.sendall(one * 5 + one.replace(b"\r\nX", b"\r\nConnection: close\r\nX"))
        assert answer(connection).count("HTTP/1.1 200 OK") == 6


@pytest.mark.parametrize(
    ("begun", "told"), [(b"", ""), (b"GET / HTTP/1.1\r\nX: ", "HTTP/1.1 408 Request Timeout")], ids=["silent", "slow"]
)
def test_a_client_that_never_ends_its_headers_is_let_go(
    server: HttpServer, monkeypatch: pytest.MonkeyPatch, begun: bytes, told: str
) -> None:
    monkeypatch.setattr(http_bounds, "HEAD_TIMEOUT_S", 0.2)
    with connect(server) as connection:
        connection.sendall(begun)
        assert answer(connection).startswith(told)


def test_each_request_of_a_connection_has_its_own_time(server: HttpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with connect(server) as connection:
        ask(connection)
        monkeypatch.setattr(http_bounds, "HEAD_TIMEOUT_S", 0.2)
        connection.sendall(b"GET / HTTP/1.1\r\n")
        assert answer(connection).startswith("HTTP/1.1 408 Request Timeout")


def test_connections_are_bounded_and_who_comes_too_many_is_told(server: HttpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_bounds, "CONNECTIONS", 2)
    with contextlib.ExitStack() as held:
        first, _ = (held.enter_context(connect(server)) for _ in range(2))
        ask(first)
        with connect(server) as third:
            assert answer(third).startswith("HTTP/1.1 503 Service Unavailable")
        first.sendall(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n")
        assert answer(first).startswith("HTTP/1.1 200 OK")
    assert httpx.get(server.url).status_code == 200


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="a bound of Linux's")
def test_a_client_that_does_not_take_its_answer_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "UNTAKEN_S", 0.2)
    monkeypatch.setattr(http_bounds, "CONNECTIONS", 1)
    server = HttpServer(measure, host="127.0.0.1", port=0)
    server.start()
    try:
        with connect(server) as connection:
            connection.sendall(b"GET /large HTTP/1.1\r\n\r\n")
            assert connection.recv(SLICE, socket.MSG_PEEK)
            until(lambda: httpx.get(server.url).status_code == 200, "its place is free")
            assert len(answer(connection)) < LARGE
    finally:
        server.stop()
