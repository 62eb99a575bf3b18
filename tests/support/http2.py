"""gRPC over a bare socket: as much of HTTP/2 as it takes to ask well, and badly."""

from __future__ import annotations

import socket
import struct
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RESET, SETTINGS, PING, GO_AWAY, WINDOW = 0, 1, 3, 4, 6, 7, 8
END_STREAM, END_HEADERS, ACK = 1, 4, 1
_PIECE: Final = 16_384


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """One frame."""
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def headers(path: str, *more: tuple[str, str]) -> bytes:
    """A request's header block, spelled out and without any compression."""
    pairs = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "localhost"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
        *more,
    ]
    return b"".join(b"\x00" + _text(name) + _text(value) for name, value in pairs)


def prefixed(message: bytes, *, claim: int | None = None) -> bytes:
    """A message as gRPC frames it; `claim`: the length that it says it has."""
    return b"\0" + struct.pack(">I", len(message) if claim is None else claim) + message


def opening() -> bytes:
    """What a client says first: it takes answers of any size."""
    settings = struct.pack(">HI", 4, 2**31 - 1)
    return PREFACE + frame(SETTINGS, 0, 0, settings) + frame(WINDOW, 0, 0, struct.pack(">I", 2**31 - 1 - 65_535))


def request(path: str, body: bytes, *more: tuple[str, str], stream: int = 1, ends: bool = True) -> bytes:
    """A whole request's frames."""
    pieces = [body[at : at + _PIECE] for at in range(0, len(body), _PIECE)] or [b""]
    data = [frame(DATA, END_STREAM if ends and piece is pieces[-1] else 0, stream, piece) for piece in pieces]
    return frame(HEADERS, END_HEADERS, stream, headers(path, *more)) + b"".join(data)


def ended(connection: socket.socket, *, stream: int = 1) -> bytes:
    """What comes until the stream or the connection ends, settings and pings answered. Raises `TimeoutError`."""
    received, at = b"", 0
    while True:
        came = connection.recv(1 << 16)
        if not came:
            return received
        received += came
        while len(received) >= at + 9 and len(received) >= at + 9 + int.from_bytes(received[at : at + 3], "big"):
            kind, flags = received[at + 3], received[at + 4]
            payload = received[at + 9 : at + 9 + int.from_bytes(received[at : at + 3], "big")]
            on = int.from_bytes(received[at + 5 : at + 9], "big")
            at += 9 + len(payload)
            if kind in (SETTINGS, PING) and not flags & ACK:
                connection.sendall(frame(kind, ACK, 0, payload if kind == PING else b""))
            if kind == GO_AWAY or (on == stream and (kind == RESET or (kind in (DATA, HEADERS) and flags & END_STREAM))):
                return received


def _text(value: str) -> bytes:
    encoded = value.encode()
    if len(encoded) < 127:
        return bytes([len(encoded)]) + encoded
    rest, length = len(encoded) - 127, b"\x7f"
    while rest >= 128:
        length, rest = length + bytes([rest % 128 + 128]), rest // 128
    return length + bytes([rest]) + encoded
