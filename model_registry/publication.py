"""Taking in a release: everything it needs must be here, its signatures must hold, and then it is there all at once.

New metadata, a new snapshot and timestamp, and the release's row are one database transaction: a device sees the state before
or the state after, whenever the registry is killed. The rules themselves stand in `trust`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec

from fleet_io.clock import Clock
from fleet_protocol import limits
from fleet_protocol.digests import chunk_digests
from fleet_protocol.errors import ProtocolError
from fleet_protocol.manifest import Descriptor, Manifest, decode_manifest
from model_registry import trust
from model_registry.blobs import BlobStore
from model_registry.catalogue import Catalogue, PublishedRelease, Records
from model_registry.errors import BlobMissing, InvalidRequest, NotFound, VersionTaken


class Publication:
    """Publishes releases and keeps the metadata fresh."""

    def __init__(self, catalogue: Catalogue, blobs: BlobStore, keys: trust.OnlineKeys, clock: Clock) -> None:
        self._catalogue = catalogue
        self._blobs = blobs
        self._keys = keys
        self._clock = clock

    def publish(self, digest: str, files: Mapping[str, bytes], *, actor: str) -> tuple[PublishedRelease, bool]:
        """Publish the release whose manifest has this digest; False: it was published before, and nothing changed.

        `files` are signed TUF metadata by name. Raises `BlobMissing`, `InvalidRequest`, `VersionTaken`, `MetadataRefused` or
        `PublishedMeanwhile`.
        """
        content = self._blobs.read(digest, limit=limits.MANIFEST_BYTES)
        try:
            manifest = decode_manifest(content)
        except ProtocolError as error:
            raise InvalidRequest(f"{digest} is not a manifest: {error}.") from error
        trust.check_model_name(manifest.model)
        for descriptor in manifest.files():
            self._check_file(descriptor)
        target = trust.ReleaseTarget(manifest.model, manifest.version, digest, len(content))
        with self._catalogue.changing() as records:
            published = records.release(manifest.model, manifest.version)
            if published is not None:
                return _same(published, digest), False
            release = self._publish(records, target, manifest, files)
            records.note(release.published, actor, "publish", f"{release.model} {release.version}", digest)
        return release, True

    def metadata(self, file: str) -> bytes:
        """A TUF metadata file. Raises `NotFound`."""
        with self._catalogue.reading() as records:
            content = records.metadata(file)
        if content is None:
            raise NotFound(f"There is no metadata file {file}.")
        return content

    def renew(self) -> bool:
        """Sign the snapshot and timestamp anew where they expire soon; says whether anything was written."""
        with self._catalogue.changing() as records:
            files = trust.renewals(trust.load_repository(records.metadata), self._keys, self._clock.now())
            records.keep_metadata(files)
        return bool(files)

    def _publish(
        self, records: Records, target: trust.ReleaseTarget, manifest: Manifest, files: Mapping[str, bytes]
    ) -> PublishedRelease:
        now = self._clock.now()
        before = trust.load_repository(records.metadata)
        trust.accept(before, files, target, now)
        records.keep_metadata(trust.publish(before, files, self._keys, now))
        release = PublishedRelease(
            model=target.model,
            version=target.version,
            manifest=target.digest,
            size=target.length + sum(descriptor.size for descriptor in manifest.files()),
            published=now,
            summary=_summary(manifest),
        )
        records.keep_release(release)
        return release

    def _check_file(self, descriptor: Descriptor) -> None:
        """A device will believe the chunk list, so it must fit; the content was verified when it came."""
        size = self._blobs.size(descriptor.digest)
        if size is None:
            raise BlobMissing(f"{descriptor.path} ({descriptor.digest}) is not uploaded.", "Upload it, then publish again.")
        if size != descriptor.size or chunk_digests(self._chunks(descriptor)) != descriptor.chunks:
            raise InvalidRequest(
                f"The manifest's size or chunk list of {descriptor.path} does not fit its content.", "Convert the model again."
            )

    def _chunks(self, descriptor: Descriptor) -> Iterator[bytes]:
        for start in range(0, descriptor.size, descriptor.chunk_size):
            yield self._blobs.read_chunk(descriptor.digest, start // descriptor.chunk_size, descriptor.chunk_size)[0]


def _same(published: PublishedRelease, digest: str) -> PublishedRelease:
    if published.manifest != digest:
        raise VersionTaken(
            f"{published.model} {published.version} is already published with other content ({published.manifest}).",
            "A published version never changes: convert and publish under a new version.",
        )
    return published


def _summary(manifest: Manifest) -> str:
    variants = [
        {
            "name": variant.name,
            "format": variant.format,
            "precision": variant.precision,
            "size": variant.file.size,
            "accuracy": None if variant.accuracy is None else variant.accuracy.value,
        }
        for variant in manifest.variants
    ]
    return msgspec.json.encode({"variants": variants}).decode()
