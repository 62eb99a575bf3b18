"""What is written in one step goes out in one piece, and nothing stays behind."""

from __future__ import annotations

import asyncio

import pytest

from fleet_io.http_writes import JOINED_BYTES, JoinedWrites

HEAD, BODY = b"HTTP/1.1 200 OK\r\n\r\n", b"{}"


class Recorder(asyncio.Transport):
    """A transport that keeps what is written, and says when it is closed."""

    def __init__(self) -> None:
        super().__init__({"peername": "them"})
        self.sent: list[bytes] = []
        self.closing = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.closing, "written after it was closed"
        self.sent.append(bytes(data))

    def close(self) -> None:
        self.closing = True

    def is_closing(self) -> bool:
        return self.closing


def sent(*steps: list[bytes], then_close: bool = False) -> list[bytes]:
    """What goes out when each of the steps writes so, one turn of the loop after the other."""
    under = Recorder()

    async def write() -> None:
        transport = JoinedWrites(under, asyncio.get_running_loop())
        for step in steps:
            for data in step:
                transport.write(data)
            if then_close:
                transport.close()
            await asyncio.sleep(0)

    asyncio.run(write())
    return under.sent


def test_a_head_and_its_body_go_out_in_one_piece() -> None:
    assert sent([HEAD, BODY]) == [HEAD + BODY]
    assert sent([HEAD, b""]) == [HEAD]
    assert sent([HEAD, BODY], [HEAD, BODY]) == [HEAD + BODY] * 2


def test_a_head_does_not_wait_for_a_body_that_is_late() -> None:
    assert sent([HEAD], [BODY]) == [HEAD, BODY]
    assert sent([HEAD, BODY, BODY], []) == [HEAD + BODY, BODY]


def test_a_large_body_is_not_copied() -> None:
    large = bytes(JOINED_BYTES + 1)
    assert sent([HEAD, large]) == [HEAD, large]
    assert sent([b"", large], []) == [large]


@pytest.mark.parametrize("step", [[HEAD], [HEAD, BODY], []])
def test_what_was_written_is_sent_before_the_end(step: list[bytes]) -> None:
    assert b"".join(sent(step, then_close=True)) == b"".join(step)


def test_what_is_held_when_the_connection_breaks_is_dropped() -> None:
    under = Recorder()

    async def write() -> None:
        transport = JoinedWrites(under, asyncio.get_running_loop())
        transport.write(HEAD)
        under.closing = True
        await asyncio.sleep(0)
        assert transport.get_extra_info("peername") == "them"

    asyncio.run(write())
    assert under.sent == []
