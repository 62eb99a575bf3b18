"""Content addresses: `sha256:` and 64 hex digits, and the list of chunk digests that lets one bad chunk cost one chunk."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Annotated, Final

import msgspec

from fleet_protocol.errors import MalformedMessage

DIGEST_PATTERN: Final = r"^sha256:[0-9a-f]{64}\Z"
CHUNK_DIGEST_BYTES: Final = 32

Digest = Annotated[str, msgspec.Meta(pattern=DIGEST_PATTERN)]
"""An OCI-style content digest; only SHA-256 is spoken."""


def digest_of(content: bytes | memoryview) -> str:
    """`sha256:<hex>` of the whole content."""
    return "sha256:" + hashlib.sha256(content).hexdigest()


def digest_of_stream(pieces: Iterable[bytes]) -> str:
    """`sha256:<hex>` of content that arrives in pieces."""
    state = hashlib.sha256()
    for piece in pieces:
        state.update(piece)
    return "sha256:" + state.hexdigest()


def hex_of(digest: str) -> str:
    """The 64 hex digits: the name of a blob in a directory."""
    scheme, _, value = digest.partition(":")
    if scheme != "sha256" or len(value) != 64 or not set(value) <= set("0123456789abcdef"):
        raise MalformedMessage(f"{digest!r} is not a digest: expected sha256: and 64 lower-case hex digits")
    return value


def chunk_count(size: int, chunk_size: int) -> int:
    """How many chunks a blob of `size` bytes has; an empty blob has none."""
    return -(-size // chunk_size)


def chunk_digests(pieces: Iterable[bytes]) -> bytes:
    """The SHA-256 of each chunk, concatenated: 32 bytes a chunk."""
    return b"".join(hashlib.sha256(piece).digest() for piece in pieces)


def chunk_matches(chunk: bytes | memoryview, index: int, digests: bytes) -> bool:
    """Whether `chunk` is the one that the signed list names at `index`."""
    at = index * CHUNK_DIGEST_BYTES
    return index >= 0 and hashlib.sha256(chunk).digest() == digests[at : at + CHUNK_DIGEST_BYTES]


def split(content: bytes, chunk_size: int) -> Iterator[bytes]:
    """The chunks of `content`, in order; the last may be short."""
    for start in range(0, len(content), chunk_size):
        yield content[start : start + chunk_size]
