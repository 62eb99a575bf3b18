"""What every `BlobStore` must do, whatever keeps its bytes. A new store joins by one line in `STORES`."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet_protocol.digests import digest_of
from fleet_protocol.errors import MalformedMessage
from model_registry.blobs import BlobStore, DirectoryBlobStore
from model_registry.errors import BlobMissing, BlobRefused, Damaged, StoreFailed

STORES: dict[str, Callable[[Path], BlobStore]] = {"directory": DirectoryBlobStore}

CONTENT = bytes(range(256)) * 10
DIGEST = digest_of(CONTENT)
NOT_DIGESTS = [
    "",
    "sha256:",
    "sha256:" + "g" * 64,
    "sha256:" + "a" * 63,
    "sha512:" + "a" * 64,
    "sha256:../../etc/passwd",
    "x" * 71,
]


@pytest.fixture(params=sorted(STORES))
def store(request: pytest.FixtureRequest, tmp_path: Path) -> BlobStore:
    return STORES[request.param](tmp_path / "blobs")


def in_pieces(content: bytes, size: int = 100) -> Iterator[bytes]:
    for at in range(0, len(content), size):
        yield content[at : at + size]


def test_what_was_put_is_what_comes_back(store: BlobStore) -> None:
    assert store.put(DIGEST, in_pieces(CONTENT)) == len(CONTENT)
    assert store.size(DIGEST) == len(CONTENT)
    assert store.read(DIGEST, limit=len(CONTENT)) == CONTENT


def test_an_empty_blob_is_a_blob(store: BlobStore) -> None:
    empty = digest_of(b"")
    store.put(empty, [])
    assert store.size(empty) == 0
    assert store.read_chunk(empty, 0, 100) == (b"", 0)


def test_what_was_never_put_is_missing(store: BlobStore) -> None:
    assert store.size(DIGEST) is None
    with pytest.raises(BlobMissing):
        store.read(DIGEST, limit=1)
    with pytest.raises(BlobMissing):
        store.read_chunk(DIGEST, 0, 1)


def test_bytes_that_do_not_fit_their_digest_leave_nothing(store: BlobStore) -> None:
    with pytest.raises(BlobRefused, match=r"they hash to sha256:"):
        store.put(DIGEST, [CONTENT, b"!"])
    assert store.size(DIGEST) is None


def test_refused_bytes_do_not_harm_what_is_there(store: BlobStore) -> None:
    store.put(DIGEST, [CONTENT])
    with pytest.raises(BlobRefused):
        store.put(DIGEST, [b"other"])
    assert store.read(DIGEST, limit=len(CONTENT)) == CONTENT


def test_too_many_bytes_are_refused_as_soon_as_they_are_too_many(store: BlobStore) -> None:
    seen = 0

    def endless() -> Iterator[bytes]:
        nonlocal seen
        while True:
            seen += 1
            yield b"x" * 100

    with pytest.raises(BlobRefused, match="larger than 250 bytes"):
        store.put(DIGEST, endless(), limit=250)
    assert seen == 3
    assert store.size(DIGEST) is None


def test_an_upload_that_breaks_off_leaves_nothing(store: BlobStore) -> None:
    def broken() -> Iterator[bytes]:
        yield CONTENT[:100]
        raise ConnectionResetError

    with pytest.raises((ConnectionResetError, StoreFailed)):
        store.put(DIGEST, broken())
    assert store.size(DIGEST) is None


def test_what_is_whole_has_its_size_and_what_is_not_there_none(store: BlobStore) -> None:
    assert store.whole_size(DIGEST) is None
    store.put(DIGEST, [CONTENT])
    assert store.whole_size(DIGEST) == len(CONTENT)


def test_putting_twice_is_putting_once(store: BlobStore) -> None:
    store.put(DIGEST, [CONTENT])
    assert store.put(DIGEST, [CONTENT]) == len(CONTENT)
    assert store.read(DIGEST, limit=len(CONTENT)) == CONTENT


def test_many_may_put_the_same_at_once(store: BlobStore) -> None:
    together = threading.Barrier(4)

    def put(_at: int) -> int:
        together.wait(10)
        return store.put(DIGEST, in_pieces(CONTENT))

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(put, range(4))) == {len(CONTENT)}
    assert store.read(DIGEST, limit=len(CONTENT)) == CONTENT


def test_more_than_the_limit_is_not_read(store: BlobStore) -> None:
    store.put(DIGEST, [CONTENT])
    with pytest.raises(BlobRefused, match="at most 100"):
        store.read(DIGEST, limit=100)


@pytest.mark.parametrize("digest", NOT_DIGESTS)
def test_what_is_no_digest_touches_nothing(store: BlobStore, digest: str) -> None:
    for attempt in (
        lambda: store.size(digest),
        lambda: store.whole_size(digest),
        lambda: store.put(digest, [b""]),
        lambda: store.read(digest, limit=1),
        lambda: store.read_chunk(digest, 0, 1),
    ):
        with pytest.raises(MalformedMessage):
            attempt()


@pytest.mark.parametrize("name", sorted(STORES))
@given(content=st.binary(max_size=2000), chunk_size=st.integers(1, 700))
@settings(max_examples=30, deadline=None)
def test_chunks_joined_are_the_whole(
    tmp_path_factory: pytest.TempPathFactory, name: str, content: bytes, chunk_size: int
) -> None:
    store = STORES[name](tmp_path_factory.mktemp("blobs"))
    store.put(digest_of(content), [content])
    chunks = [store.read_chunk(digest_of(content), at, chunk_size) for at in range(len(content) // chunk_size + 2)]
    assert b"".join(chunk for chunk, _ in chunks) == content
    assert {size for _, size in chunks} == {len(content)}
    assert chunks[-1][0] == b""


def blob_file(directory: Path) -> Path:
    return directory / DIGEST.removeprefix("sha256:")[:2] / DIGEST.removeprefix("sha256:")


def test_a_blob_that_changed_on_the_disk_is_named_and_not_handed_out(tmp_path: Path) -> None:
    store = DirectoryBlobStore(tmp_path)
    store.put(DIGEST, [CONTENT])
    blob_file(tmp_path).write_bytes(b"?" + CONTENT[1:])
    with pytest.raises(Damaged, match=DIGEST.removeprefix("sha256:")):
        store.read(DIGEST, limit=len(CONTENT))
    assert store.whole_size(DIGEST) is None
    store.put(DIGEST, [CONTENT])
    assert store.whole_size(DIGEST) == len(CONTENT)


def test_a_disk_that_refuses_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    store = DirectoryBlobStore(tmp_path)

    def full() -> Iterator[bytes]:
        yield CONTENT[:10]
        raise OSError(28, os.strerror(28))

    with pytest.raises(StoreFailed, match="Make room"):
        store.put(DIGEST, full())
    assert list(blob_file(tmp_path).parent.iterdir()) == []


def test_leftovers_of_a_killed_upload_are_cleared_at_start(tmp_path: Path) -> None:
    shard = tmp_path / "ab"
    shard.mkdir(parents=True)
    (shard / ".part-killed").write_bytes(b"half")
    DirectoryBlobStore(tmp_path)
    assert list(shard.iterdir()) == []
