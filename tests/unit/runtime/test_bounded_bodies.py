"""How bodies are read: bounded one by one and all together, and let go of however reading ends."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import pytest

from runtime.local_server import exchange
from runtime.local_server.exchange import (
    ANSWERED_S,
    HELD_BODIES,
    LARGE_BYTES,
    TRIM_AFTER_BYTES,
    Bodies,
    Exchange,
    Gone,
    Message,
    Refused,
)

LIMIT = 100


class Client:
    """Sends pieces of a body, each when it is asked for; then it hangs up, or says nothing more where it is `silent`."""

    def __init__(self, pieces: Iterable[bytes] = (), *, ends: bool = True, silent: bool = False) -> None:
        sent = list(pieces)
        self.left = [
            {"type": "http.request", "body": piece, "more_body": not ends or at < len(sent) - 1}
            for at, piece in enumerate(sent)
        ]
        self._silent = silent

    async def receive(self) -> Message:
        if self.left:
            return self.left.pop(0)
        if self._silent:
            await asyncio.Event().wait()
        return {"type": "http.disconnect"}


def asked(client: Client, **headers: bytes) -> Exchange:
    said = [(name.replace("_", "-").encode(), value) for name, value in headers.items()]
    return Exchange({"path": "/v2", "method": "POST", "headers": said}, client.receive)


def read(bodies: Bodies, client: Client, *, lead_in: int | None = None, **headers: bytes) -> bytes:
    return bytes(asyncio.run(bodies.read(asked(client, **headers), lead_in=lead_in)))


@pytest.mark.parametrize("pieces", [[b"a" * LIMIT], [b"a" * 60, b"a" * 40], [b"", b"a" * 99, b"", b"a"]])
@pytest.mark.parametrize("lead_in", [None, 3])
def test_a_body_of_the_limit_is_taken_however_it_comes_and_held_until_it_is_released(
    pieces: list[bytes], lead_in: int | None
) -> None:
    bodies = Bodies(LIMIT)
    body = read(bodies, Client(pieces), lead_in=lead_in)
    assert body == b"a" * LIMIT
    assert bodies.held == LIMIT
    bodies.release(body)
    assert bodies.held == 0


@pytest.mark.parametrize("pieces", [[b"a" * 101], [b"a" * 60, b"a" * 41], [b"a" * 50, b"a" * 50, b"a"]])
def test_a_body_of_one_byte_more_is_refused_and_not_held(pieces: list[bytes]) -> None:
    bodies = Bodies(LIMIT)
    with pytest.raises(Refused) as refused:
        read(bodies, Client(pieces))
    assert refused.value.response.status == 413
    assert bodies.held == 0


@pytest.mark.parametrize("length", [b"101", b"99999999999999999999"])
def test_a_body_that_claims_to_be_too_large_is_not_read(length: bytes) -> None:
    client = Client([b"a"])
    with pytest.raises(Refused) as refused:
        read(Bodies(LIMIT), client, content_length=length)
    assert refused.value.response.status == 413
    assert client.left
    assert read(Bodies(LIMIT), client, content_length=b"100") == b"a"


def test_all_bodies_together_are_bounded_and_room_comes_back() -> None:
    bodies = Bodies(LIMIT)
    held = [read(bodies, Client([b"a" * LIMIT])) for _ in range(HELD_BODIES)]
    with pytest.raises(Refused) as refused:
        read(bodies, Client([b"a"]))
    assert refused.value.response.status == 503
    assert (b"retry-after", b"1") in refused.value.response.headers
    assert bodies.held == HELD_BODIES * LIMIT
    bodies.release(held[0])
    assert read(bodies, Client([b"a"])) == b"a"


@pytest.mark.parametrize("lead_in", [None, 3])
def test_what_a_client_sent_that_hung_up_is_not_held(lead_in: int | None) -> None:
    bodies = Bodies(LIMIT)
    with pytest.raises(Gone):
        read(bodies, Client([b"a" * 60], ends=False), lead_in=lead_in)
    assert bodies.held == 0


def test_what_a_slow_client_sent_is_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "BODY_TIMEOUT_S", 0.01)
    bodies = Bodies(LIMIT)
    with pytest.raises(Refused, match=r"did not arrive within 0\.01 s") as refused:
        read(bodies, Client([b"a" * 60], ends=False, silent=True))
    assert refused.value.response.status == 408
    assert bodies.held == 0


@pytest.mark.parametrize("encoding", [b"gzip", b"deflate", b"br"])
def test_a_compressed_body_is_refused(encoding: bytes) -> None:
    with pytest.raises(Refused) as refused:
        read(Bodies(LIMIT), Client([b"a"]), content_encoding=encoding)
    assert refused.value.response.status == 415
    assert read(Bodies(LIMIT), Client([b"a"]), content_encoding=b"Identity") == b"a"


def unread(client: Client, **headers: bytes) -> int:
    """How many pieces are left after a refusal."""
    asyncio.run(asked(client, **headers).let_finish())
    return len(client.left)


def test_a_refused_client_may_finish_what_it_sends() -> None:
    assert unread(Client([b"a"] * 5)) == 0


def test_a_refused_client_that_waits_to_be_asked_is_not_waited_for() -> None:
    assert unread(Client([b"a"] * 5), expect=b"100-continue") == 5


def test_a_refused_client_that_has_sent_everything_is_not_waited_for() -> None:
    client = Client([b"a"], silent=True)
    was_read = asked(client)
    asyncio.run(asyncio.wait_for(_read_and_finish(was_read), 5))


async def _read_and_finish(of: Exchange) -> None:
    await Bodies(LIMIT).read(of)
    await of.let_finish()


@pytest.mark.parametrize(("name", "value"), [("_UNREAD_BYTES", 3), ("_UNREAD_TIMEOUT_S", 0.01)])
def test_a_refused_client_that_never_finishes_is_let_go(name: str, value: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, name, value)
    left = unread(Client([b"a"] * 5, ends=False, silent=True))
    assert left == (2 if name == "_UNREAD_BYTES" else 0)


def test_after_many_large_bodies_memory_is_given_back_once_none_is_held() -> None:
    given: list[float] = []
    bodies = Bodies(give_back=given.append)
    large, small = bytes(LARGE_BYTES), bytes(LARGE_BYTES - 1)
    rounds = TRIM_AFTER_BYTES // LARGE_BYTES
    bodies.hold(1)
    for _ in range(rounds):
        bodies.hold(len(large))
        bodies.release(large)
    assert given == [], "one is held still"
    bodies.release(b"a")
    bodies.hold(len(large))
    bodies.release(large)
    assert given == [ANSWERED_S]
    for _ in range(4 * rounds):
        bodies.hold(len(small))
        bodies.release(small)
    assert given == [ANSWERED_S]
