"""The publisher's half: verify a bundle, upload what the registry lacks, sign on this machine, hand the release over.

The publisher trusts the registry no more than a device does: what it signs on top of was verified from `root.json`, its own
copy of the first root, with the same TUF client that devices use. Keys never leave this machine.
"""

from __future__ import annotations

import base64
import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
from securesystemslib.signer import CryptoSigner
from tuf.api.exceptions import DownloadError, DownloadHTTPError, RepositoryError
from tuf.api.metadata import Metadata, Targets
from tuf.ngclient import Updater, UpdaterConfig
from tuf.ngclient.fetcher import FetcherInterface

from fleet_io.bundle_directory import Bundle, open_bundle
from fleet_protocol import limits
from fleet_protocol.manifest import MANIFEST_FILE
from model_registry import keyring, trust
from model_registry.errors import (
    KeysMissing,
    MetadataRefused,
    PublishedMeanwhile,
    RegistryAnsweredNo,
    RegistryUnreachable,
    VersionTaken,
)

UPLOAD_PIECE: Final = limits.MIB
UPLOAD_TIMEOUT_S: Final = 300.0
ROUNDS: Final = 2
"""Sign again once, when somebody else published in between."""

Progress = Callable[[str, float], None]
"""Told what is being done, and the share of bytes in [0, 1] that the registry has."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it. `created` is False when exactly this release was published before; `uploaded` counts bytes sent."""

    model: str
    version: str
    manifest: str
    created: bool
    uploaded: int


@dataclass(frozen=True, slots=True)
class PublisherKeys:
    """A directory with `publisher.pem`, `root.json`, and `targets.pem` where a model is new."""

    directory: Path

    def root(self) -> bytes:
        """The first root. Raises `KeysMissing`."""
        try:
            return (self.directory / "root.json").read_bytes()
        except OSError as error:
            raise KeysMissing(
                f"{self.directory / 'root.json'} cannot be read: {error.strerror}.",
                "Name the directory of the publisher's keys with --keys.",
            ) from error

    def publisher(self) -> CryptoSigner:
        """The key that signs releases. Raises `KeysMissing`."""
        return keyring.load(self.directory / "publisher.pem")

    def targets(self) -> CryptoSigner | None:
        """The key that says who may sign a model, where this machine has it."""
        path = self.directory / "targets.pem"
        return keyring.load(path) if path.exists() else None


def publish(
    directory: Path, *, client: httpx.Client, keys: PublisherKeys, now: float, progress: Progress = lambda _text, _done: None
) -> Outcome:
    """Publish the bundle in `directory`; publishing the same bytes again only sends what the registry has lost.

    `client` has the registry's address, authority and bearer token. Raises `fleet_io.BundleDamaged`, `VersionTaken`,
    `KeysMissing`, `RegistryUnreachable`, `RegistryAnsweredNo`, `MetadataRefused` or `PublishedMeanwhile`.
    """
    progress("verifying the bundle", 0.0)
    bundle = open_bundle(directory)
    manifest = bundle.manifest
    trust.check_model_name(manifest.model)
    session = _Session(client)
    if session.is_published(bundle):
        restored = _upload(session, bundle, progress)
        return Outcome(manifest.model, manifest.version, bundle.digest, created=False, uploaded=restored)
    signer, root = keys.publisher(), keys.root()
    uploaded = _upload(session, bundle, progress)
    for round_number in range(1, ROUNDS + 1):
        progress("signing", 1.0)
        files = _sign(session.trusted(root, manifest.model), bundle, signer, keys.targets(), now)
        try:
            created = session.release(bundle.digest, files)
        except PublishedMeanwhile:
            if round_number == ROUNDS:
                raise
        else:
            break
    return Outcome(manifest.model, manifest.version, bundle.digest, created, uploaded)


@dataclass(frozen=True, slots=True)
class _Trusted:
    """Verified metadata: the top-level targets, and the model's own where it has any."""

    targets: Metadata[Targets]
    model: Metadata[Targets] | None


def _sign(
    current: _Trusted, bundle: Bundle, publisher: CryptoSigner, targets: CryptoSigner | None, now: float
) -> dict[str, bytes]:
    """The metadata files that this release needs: the model's next, and the top-level targets where they must change."""
    model = bundle.manifest.model
    content = (bundle.directory / MANIFEST_FILE).read_bytes()
    target = trust.ReleaseTarget(model, bundle.manifest.version, bundle.digest, len(content))
    release = trust.with_release(current.model, target, publisher, now)
    files = {trust.file_name(model, release.signed.version): release.to_bytes()}
    delegations = current.targets.signed.delegations
    known = {} if delegations is None or delegations.roles is None else delegations.roles
    top = None
    if model not in known:
        if targets is None:
            raise KeysMissing(
                f"The model {model} is new, and only targets.pem can say who may publish it.",
                "Publish its first version from a machine that has targets.pem beside publisher.pem.",
            )
        top = trust.with_model(current.targets, model, publisher, targets, now)
    elif publisher.public_key.keyid not in known[model].keyids:
        raise KeysMissing(f"This publisher.pem may not sign the model {model}.", "Use the key that published it before.")
    elif targets is not None and trust.half_spent(current.targets, now):
        top = trust.renewed_targets(current.targets, targets, now)
    if top is not None:
        files[trust.file_name(trust.TARGETS, top.signed.version)] = top.to_bytes()
    return files


def _upload(session: _Session, bundle: Bundle, progress: Progress) -> int:
    """Send every blob that the registry lacks, the manifest last; gives the bytes sent."""
    files = [(descriptor.digest, bundle.path(descriptor)) for descriptor in bundle.manifest.files()]
    files.append((bundle.digest, bundle.directory / MANIFEST_FILE))
    missing = {digest: path for digest, path in files if not session.has(digest)}
    total = sum(path.stat().st_size for path in missing.values())
    sent = 0

    def pieces(path: Path) -> Iterator[bytes]:
        nonlocal sent
        with path.open("rb") as file:
            while piece := file.read(UPLOAD_PIECE):
                yield piece
                sent += len(piece)
                progress(f"uploading {path.name}", sent / max(1, total))

    for digest, path in missing.items():
        session.upload(digest, pieces(path))
    return sent


@dataclass(frozen=True, slots=True)
class _Session:
    """The registry's API as publishing needs it."""

    client: httpx.Client

    def is_published(self, bundle: Bundle) -> bool:
        """Whether exactly this release is there. Raises `VersionTaken` when its version has other content."""
        manifest = bundle.manifest
        try:
            known = self._ask("GET", f"/v1/models/{manifest.model}")
        except RegistryAnsweredNo as error:
            if error.code == "not_found":
                return False
            raise
        digests = {each["version"]: each["manifest"] for each in known["versions"]}
        taken = digests.get(manifest.version)
        if taken not in (None, bundle.digest):
            raise VersionTaken(
                f"{manifest.model} {manifest.version} is already published with other content ({taken}).",
                "A published version never changes: convert and publish under a new version.",
            )
        return taken is not None

    def has(self, digest: str) -> bool:
        """Whether the registry has a blob."""
        answer = self._send("HEAD", f"/v1/blobs/{digest}")
        if answer.status_code not in (200, 404):
            self._ask("GET", f"/v1/blobs/{digest}")  # the same question, with the reason in the answer
        return answer.status_code == 200

    def upload(self, digest: str, pieces: Iterator[bytes]) -> None:
        """Send a blob."""
        _read(self._send("PUT", f"/v1/blobs/{digest}", content=pieces, timeout=UPLOAD_TIMEOUT_S))

    def release(self, digest: str, files: dict[str, bytes]) -> bool:
        """Hand the release over; False when it was there."""
        metadata = {name: base64.b64encode(content).decode() for name, content in files.items()}
        answer = self._ask("POST", "/v1/releases", json={"manifest": digest, "metadata": metadata})
        return bool(answer["created"])

    def trusted(self, root: bytes, model: str) -> _Trusted:
        """The newest metadata, verified from the first root. Raises `MetadataRefused`."""
        with tempfile.TemporaryDirectory(prefix="edgeward-publish-") as directory:
            updater = Updater(
                directory, "/v1/metadata/", fetcher=_Fetcher(self), bootstrap=root, config=UpdaterConfig(app_user_agent=None)
            )
            try:
                updater.refresh()
                updater.get_targetinfo(trust.target_path(model, "0.0.0"))
            except DownloadError as error:
                raise RegistryUnreachable(f"The registry's metadata cannot be fetched: {error}.", "Try again.") from error
            except RepositoryError as error:
                raise MetadataRefused(
                    f"The registry's metadata do not follow from root.json: {error}.",
                    "Name the keys of this registry with --keys. If they are: somebody changed its metadata; do not publish.",
                ) from error
            return _Trusted(_cached(directory, trust.TARGETS), _cached_or_none(directory, model))

    def _ask(self, method: str, path: str, **more: Any) -> Any:  # noqa: ANN401
        return _read(self._send(method, path, **more))

    def _send(self, method: str, path: str, **more: Any) -> httpx.Response:  # noqa: ANN401
        try:
            return self.client.request(method, path, **more)
        except httpx.TransportError as error:
            raise RegistryUnreachable(f"The registry does not answer: {error}.", "Start it with `edgeward up`.") from error


class _Fetcher(FetcherInterface):
    """TUF metadata over the registry's API."""

    def __init__(self, session: _Session) -> None:
        self._session = session

    def _fetch(self, url: str) -> Iterator[bytes]:
        answer = self._session.client.get(url)
        if not answer.is_success:
            raise DownloadHTTPError(f"{url}: {answer.status_code}", answer.status_code)
        return iter([answer.content])


def _cached(directory: str, role: str) -> Metadata[Targets]:
    """What the TUF client verified and kept."""
    return Metadata[Targets].from_bytes((Path(directory) / f"{role}.json").read_bytes())


def _cached_or_none(directory: str, role: str) -> Metadata[Targets] | None:
    return _cached(directory, role) if (Path(directory) / f"{role}.json").exists() else None


def _read(answer: httpx.Response) -> Any:  # noqa: ANN401
    """The answer's JSON, or the registry's refusal as our error."""
    if answer.is_success:
        return answer.json()
    try:
        said = answer.json()["error"]
        code, message, hint = said["code"], said["message"], said["hint"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise RegistryAnsweredNo(f"The registry answered {answer.status_code}.", "Its log says why.") from error
    kind = {"published_meanwhile": PublishedMeanwhile, "version_taken": VersionTaken}.get(code)
    raise RegistryAnsweredNo(message, hint, code=code) if kind is None else kind(message, hint)
