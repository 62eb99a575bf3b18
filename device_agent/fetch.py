"""Brings files to this device's disk: whole digests that are there are skipped, interrupted files go on where they were."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Final
from urllib.parse import urlsplit

from tuf.api.exceptions import DownloadError, DownloadHTTPError
from tuf.ngclient.fetcher import FetcherInterface

from device_agent.content import ContentStore, PartialFile, bitmap_of
from device_agent.errors import Cancelled, ContentDamaged, NotServed, TransferFailed, TryLater
from device_agent.link import Cancellation, ChunkLink
from device_agent.transfer_plan import Piece, Wanted
from fleet_protocol import limits
from fleet_protocol.digests import chunk_count, digest_of
from fleet_protocol.errors import ProtocolError
from fleet_protocol.manifest import Descriptor
from fleet_protocol.transfer import blob_resource, metadata_resource

Progress = Callable[[int], None]
"""Is told how many bytes of a file have come in."""

REMEMBER_EVERY: Final = 32
"""Chunks between two durable bitmaps: what a power cut may cost (3 MiB)."""

_FILE_NAME = re.compile(r"[^/]+\Z")


class BlobFetcher:
    """Blobs over a `ChunkLink` into a `ContentStore`."""

    def __init__(self, link: ChunkLink, store: ContentStore) -> None:
        self._link = link
        self._store = store

    def fetch(self, descriptor: Descriptor, progress: Progress, cancellation: Cancellation) -> None:
        """Have the file complete and checked.

        Raises `TransferFailed`, `DiskFull`, `ContentDamaged` or `Cancelled`; what came so far is kept for the next try.
        """
        if self._store.has(descriptor.digest):
            progress(descriptor.size)
            return
        with self._store.open_partial(descriptor.digest, descriptor.size) as partial:
            have = partial.remembered(descriptor.chunk_size, descriptor.chunks)
            progress(len(have) * descriptor.chunk_size)
            self._pull(descriptor, partial, have, progress, cancellation)
        self._store.complete(descriptor.digest, partial)

    def fetch_manifest(self, digest: str, cancellation: Cancellation, *, size: int | None = None) -> bytes:
        """The content of a file without a signed chunk list, of exactly `size` bytes where it is known.

        It is kept once its digest fits. Raises as `fetch` does.
        """
        most = limits.MANIFEST_BYTES if size is None else size
        if self._store.has(digest):
            return self._store.read(digest, limit=most)
        content = pull_bytes(self._link, Wanted(blob_resource(digest), size, most), cancellation)
        if digest_of(content) != digest:
            raise ContentDamaged(f"{digest} was damaged on the way; it will be fetched again")
        self._store.put(digest, content)
        return content

    def _pull(
        self, descriptor: Descriptor, partial: PartialFile, have: set[int], progress: Progress, cancellation: Cancellation
    ) -> None:
        count = chunk_count(descriptor.size, descriptor.chunk_size)
        written = set(have)

        def write(piece: Piece) -> None:
            partial.write(piece.offset, piece.content)
            written.add(piece.index)
            progress(min(descriptor.size, len(written) * descriptor.chunk_size))
            if len(written) % REMEMBER_EVERY == 0:
                partial.remember(bitmap_of(written, count))

        wanted = Wanted(
            blob_resource(descriptor.digest), descriptor.size, descriptor.size, descriptor.chunk_size, descriptor.chunks
        )
        try:
            self._link.pull(wanted, write, cancellation, have=have)
        except TryLater:
            partial.remember(bitmap_of(written, count))
            raise
        partial.remember(bitmap_of(written, count))


class MetadataFetcher(FetcherInterface):
    """TUF metadata over the same lane. A file that no worker has is HTTP's 404, which ends TUF's search for newer roots."""

    def __init__(self, link: ChunkLink) -> None:
        super().__init__()
        self._link = link
        self.cancellation = Cancellation()
        """Of the work on whose behalf metadata is fetched now."""

    def _fetch(self, url: str) -> Iterator[bytes]:
        """See `FetcherInterface`. Raises its errors."""
        name = _FILE_NAME.search(urlsplit(url).path)
        if name is None:
            raise DownloadError(f"{url} names no metadata file")
        try:
            wanted = Wanted(metadata_resource(name.group()), None, limits.METADATA_BYTES)
            return iter([pull_bytes(self._link, wanted, self.cancellation)])
        except NotServed as error:
            raise DownloadHTTPError(str(error), 404) from error
        except (TransferFailed, Cancelled, ProtocolError) as error:
            raise DownloadError(str(error)) from error


def pull_bytes(link: ChunkLink, wanted: Wanted, cancellation: Cancellation) -> bytes:
    """A small resource in memory, at most `wanted.most_bytes`; the caller checks what it is. Raises as `ChunkLink.pull`."""
    pieces: dict[int, bytes] = {}

    def keep(piece: Piece) -> None:
        pieces[piece.index] = piece.content

    link.pull(wanted, keep, cancellation)
    return b"".join(pieces[index] for index in sorted(pieces))
