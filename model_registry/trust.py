"""The rules of trust, as pure functions over TUF metadata (docs/adr/0003-tuf.md): building, accepting, renewing.

Each model is a delegation of the top-level targets: the role has the model's name and may sign `{model}/*/manifest.json` only.
The top-level targets themselves name no file, so nobody can sign over a model's own role. An accepted release adds exactly one
target, and no target ever changes: that makes a published version immutable. Files, keys and the clock are the caller's.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Final, TypeVar

from securesystemslib.signer import Signer
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import (
    TOP_LEVEL_ROLE_NAMES,
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Role,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)
from tuf.api.serialization import DeserializationError

from fleet_protocol import limits
from fleet_protocol.digests import hex_of
from fleet_protocol.manifest import MANIFEST_FILE
from fleet_protocol.names import check_name, check_version
from model_registry.errors import Damaged, InvalidRequest, MetadataRefused, PublishedMeanwhile

S = TypeVar("S", Root, Timestamp, Snapshot, Targets)

ROOT_LIFE: Final = timedelta(days=3650)
TARGETS_LIFE: Final = timedelta(days=730)
SNAPSHOT_LIFE: Final = timedelta(days=14)
TIMESTAMP_LIFE: Final = timedelta(days=2)
"""How long the registry may be silent before devices install nothing new; it never stops what runs."""

ROOT_THRESHOLD: Final = 2
TIMESTAMP_FILE: Final = "timestamp.json"
TARGETS: Final = Targets.type

_FILE: Final = re.compile(r"^([1-9][0-9]{0,8})\.([a-z0-9][a-z0-9_-]{0,62})\.json\Z")


@dataclass(frozen=True, slots=True)
class ReleaseTarget:
    """A release as a TUF target: its path names it, its hash is the manifest's digest. `length` in bytes."""

    model: str
    version: str
    digest: str
    length: int

    @property
    def path(self) -> str:
        """`{model}/{version}/manifest.json`."""
        return target_path(self.model, self.version)


@dataclass(frozen=True, slots=True)
class Repository:
    """The newest metadata of every role."""

    root: Metadata[Root]
    targets: Metadata[Targets]
    snapshot: Metadata[Snapshot]
    timestamp: Metadata[Timestamp]
    models: Mapping[str, Metadata[Targets]] = field(default_factory=dict)

    def role(self, name: str) -> Metadata[Targets] | None:
        """The targets metadata of a role, top-level or a model's."""
        return self.targets if name == TARGETS else self.models.get(name)


@dataclass(frozen=True, slots=True)
class OnlineKeys:
    """The two keys that the registry itself signs with."""

    snapshot: Signer
    timestamp: Signer


def target_path(model: str, version: str) -> str:
    """The TUF target path of a release. Raises `InvalidName` or `InvalidRequest`."""
    return f"{check_model_name(model)}/{check_version(version)}/{MANIFEST_FILE}"


def check_model_name(model: str) -> str:
    """Return `model`, or raise: `InvalidName`, and `InvalidRequest` for the names that TUF keeps for itself."""
    if check_name(model, "model name") in TOP_LEVEL_ROLE_NAMES:
        raise InvalidRequest(f"A model cannot be named {model!r}: TUF has a role of that name.", "Choose another name.")
    return model


def file_name(role: str, version: int) -> str:
    """The file of one version of a role, such as `3.digits.json`; consistent snapshots number all but the timestamp."""
    return TIMESTAMP_FILE if role == Timestamp.type else f"{version}.{role}.json"


def split_file_name(name: str) -> tuple[str, int]:
    """The role and version of `3.digits.json`. Raises `MetadataRefused`."""
    match = _FILE.match(name)
    if match is None:
        raise MetadataRefused(f"{name!r} is not the name of a numbered metadata file.")
    return match[2], int(match[1])


# Building


def new_root(root_keys: Sequence[Signer], online: OnlineKeys, targets: Signer, now: float) -> Metadata[Root]:
    """The first root: two of the root keys must sign every later one."""
    root = Root(version=1, expires=_after(now, ROOT_LIFE), consistent_snapshot=True)
    root.roles[Root.type] = Role([], ROOT_THRESHOLD)
    for key in root_keys:
        root.add_key(key.public_key, Root.type)
    root.add_key(targets.public_key, TARGETS)
    root.add_key(online.snapshot.public_key, Snapshot.type)
    root.add_key(online.timestamp.public_key, Timestamp.type)
    made = Metadata(root)
    for key in root_keys:
        made.sign(key, append=True)
    return made


def new_repository(root: Metadata[Root], online: OnlineKeys, targets: Signer, now: float) -> dict[str, bytes]:
    """The files of a repository without any model."""
    top = Metadata(Targets(version=1, expires=_after(now, TARGETS_LIFE)))
    top.sign(targets)
    files = {file_name(Root.type, root.signed.version): root.to_bytes(), file_name(TARGETS, 1): top.to_bytes()}
    snapshot = Snapshot(version=1, expires=_after(now, SNAPSHOT_LIFE))
    snapshot.meta[f"{TARGETS}.json"] = MetaFile.from_data(1, files[file_name(TARGETS, 1)], ["sha256"])
    return files | _seal(snapshot, Timestamp(version=1, expires=_after(now, TIMESTAMP_LIFE)), online)


def with_model(current: Metadata[Targets], model: str, publisher: Signer, signer: Signer, now: float) -> Metadata[Targets]:
    """The next top-level targets, in which `publisher` may sign `model`. The earlier one is not changed."""
    check_model_name(model)
    following = _copy(current)
    delegations = following.signed.delegations or Delegations({}, {})
    assert delegations.roles is not None
    delegations.roles[model] = DelegatedRole(model, [], 1, terminating=True, paths=[_pattern(model)])
    following.signed.delegations = delegations
    following.signed.add_key(publisher.public_key, model)
    return _resigned(following, current.signed.version + 1, signer, now)


def with_release(current: Metadata[Targets] | None, target: ReleaseTarget, publisher: Signer, now: float) -> Metadata[Targets]:
    """The next metadata of a model's role, with one release more. `current` is None for the first."""
    following = Metadata(Targets(version=1)) if current is None else _copy(current)
    following.signed.targets[target.path] = TargetFile(target.length, {"sha256": hex_of(target.digest)}, target.path)
    return _resigned(following, 1 if current is None else current.signed.version + 1, publisher, now)


def renewed_targets(current: Metadata[Targets], signer: Signer, now: float) -> Metadata[Targets]:
    """The same statements, signed for longer."""
    return _resigned(_copy(current), current.signed.version + 1, signer, now)


def half_spent(current: Metadata[Targets], now: float) -> bool:
    """Whether less than half of the metadata's life is left."""
    return current.signed.expires - _at(now) < TARGETS_LIFE / 2


# Accepting


def accept(repository: Repository, uploaded: Mapping[str, bytes], target: ReleaseTarget, now: float) -> Repository:
    """Check uploaded metadata by file name, and give the repository in which they are the newest.

    Allowed are the next version of the model's role, and of the top-level targets with it. Raises `PublishedMeanwhile` when
    the versions are not the next ones, `MetadataRefused` for everything else that is wrong.
    """
    parsed = {split_file_name(name): _parse(name, content) for name, content in uploaded.items()}
    roles = {role for role, _ in parsed}
    if not roles <= {TARGETS, target.model} or len(roles) != len(parsed):
        raise MetadataRefused(f"A release of {target.model} may bring new metadata of {target.model} and targets, once each.")
    for (role, version), metadata in parsed.items():
        _check_next(role, version, repository.role(role), metadata, now)
    by_role = {role: metadata for (role, _), metadata in parsed.items()}
    if TARGETS in by_role:
        _check_top(repository, by_role[TARGETS])
        repository = replace(repository, targets=by_role[TARGETS])
    if target.model not in by_role:
        raise MetadataRefused(f"The metadata of the model {target.model} are missing.", "Send its next version, signed.")
    _check_model(repository, by_role[target.model], target)
    return replace(repository, models={**repository.models, target.model: by_role[target.model]})


def _check_next(role: str, version: int, current: Metadata[Targets] | None, new: Metadata[Targets], now: float) -> None:
    expected = 1 if current is None else current.signed.version + 1
    if version != new.signed.version:
        raise MetadataRefused(f"The file {version}.{role}.json holds version {new.signed.version}.")
    if version != expected:
        raise PublishedMeanwhile(
            f"Version {version} of {role} was sent; the next one is {expected}.", "Sign again on the newest."
        )
    if new.signed.is_expired(_at(now)):
        raise MetadataRefused(f"The metadata of {role} are expired.", "Check the clock of the machine that signs.")
    if new.signed.expires > _at(now) + 2 * TARGETS_LIFE:
        raise MetadataRefused(f"The metadata of {role} would be valid beyond {2 * TARGETS_LIFE.days} days.")


def _check_top(repository: Repository, new: Metadata[Targets]) -> None:
    _check_signed(repository.root.signed, TARGETS, new)
    if new.signed.targets:
        raise MetadataRefused("The top-level targets name files; only a model's own role may.")
    roles = _delegated(new)
    missing = set(_delegated(repository.targets)) - set(roles)
    if missing:
        raise MetadataRefused(f"The top-level targets no longer delegate {', '.join(sorted(missing))}.")
    for name, role in roles.items():
        check_model_name(name)
        if role.paths != [_pattern(name)] or not role.terminating:
            raise MetadataRefused(f"The delegation of {name} must cover {_pattern(name)}, only that, and be terminating.")


def _check_model(repository: Repository, new: Metadata[Targets], target: ReleaseTarget) -> None:
    if target.model not in _delegated(repository.targets):
        raise MetadataRefused(f"Nobody may sign for the model {target.model} yet.", "Send targets metadata that delegate it.")
    _check_signed(repository.targets.signed, target.model, new)
    if new.signed.delegations is not None:
        raise MetadataRefused(f"The role of {target.model} may not delegate any further.")
    current = repository.models.get(target.model)
    before = {} if current is None else current.signed.targets
    after = dict(new.signed.targets)
    added = after.pop(target.path, None)
    if after != before:  # a path that was there before is missing in `after` now, and differs too
        raise MetadataRefused(f"A release adds one target and changes none; these metadata of {target.model} do otherwise.")
    if added is None or added.hashes != {"sha256": hex_of(target.digest)} or added.length != target.length:
        raise MetadataRefused(f"The metadata of {target.model} do not name {target.path} with the digest {target.digest}.")


def _check_signed(delegator: Root | Targets, role: str, new: Metadata[Targets]) -> None:
    try:
        delegator.verify_delegate(role, new.signed_bytes, new.signatures)
    except (RepositoryError, ValueError) as error:
        raise MetadataRefused(
            f"The metadata of {role} are not signed as they must be: {error}.", "Sign with its key."
        ) from error


def _delegated(top: Metadata[Targets]) -> dict[str, DelegatedRole]:
    if top.signed.delegations is None:
        return {}
    if top.signed.delegations.roles is None:
        raise MetadataRefused("The top-level targets must delegate by name.")
    return top.signed.delegations.roles


def _parse(name: str, content: bytes) -> Metadata[Targets]:
    if len(content) > limits.METADATA_BYTES:
        raise MetadataRefused(f"{name} has {len(content)} bytes; at most {limits.METADATA_BYTES} are read.")
    try:
        parsed = Metadata[Targets].from_bytes(content)
    except DeserializationError as error:
        raise MetadataRefused(f"{name} cannot be read as TUF metadata: {error}.") from error
    if not isinstance(parsed.signed, Targets):
        raise MetadataRefused(f"{name} does not hold targets metadata.")
    return parsed


# Publishing and renewing


def publish(before: Repository, files: Mapping[str, bytes], online: OnlineKeys, now: float) -> dict[str, bytes]:
    """The accepted `files` together with the snapshot and timestamp that make them the newest."""
    snapshot = _copy(before.snapshot).signed
    for name, content in files.items():
        role, version = split_file_name(name)
        snapshot.meta[f"{role}.json"] = MetaFile.from_data(version, content, ["sha256"])
    return dict(files) | _following(before, snapshot, online, now)


def renewals(repository: Repository, online: OnlineKeys, now: float) -> dict[str, bytes]:
    """The files that must be written now so that nothing expires: none, a timestamp, or a snapshot and a timestamp."""
    if repository.snapshot.signed.expires - _at(now) < SNAPSHOT_LIFE / 2:
        return _following(repository, _copy(repository.snapshot).signed, online, now)
    if repository.timestamp.signed.expires - _at(now) >= TIMESTAMP_LIFE / 2:
        return {}
    timestamp = _copy(repository.timestamp).signed
    timestamp.version += 1
    timestamp.expires = _after(now, TIMESTAMP_LIFE)
    return {TIMESTAMP_FILE: _signed(timestamp, online.timestamp)}


def _following(before: Repository, snapshot: Snapshot, online: OnlineKeys, now: float) -> dict[str, bytes]:
    snapshot.version += 1
    snapshot.expires = _after(now, SNAPSHOT_LIFE)
    timestamp = _copy(before.timestamp).signed
    timestamp.version += 1
    timestamp.expires = _after(now, TIMESTAMP_LIFE)
    return _seal(snapshot, timestamp, online)


def _seal(snapshot: Snapshot, timestamp: Timestamp, online: OnlineKeys) -> dict[str, bytes]:
    content = _signed(snapshot, online.snapshot)
    timestamp.snapshot_meta = MetaFile.from_data(snapshot.version, content, ["sha256"])
    return {file_name(Snapshot.type, snapshot.version): content, TIMESTAMP_FILE: _signed(timestamp, online.timestamp)}


def _signed(signed: S, signer: Signer) -> bytes:
    metadata = Metadata(signed)
    metadata.sign(signer)
    return metadata.to_bytes()


def _resigned(metadata: Metadata[Targets], version: int, signer: Signer, now: float) -> Metadata[Targets]:
    metadata.signed.version = version
    metadata.signed.expires = _after(now, TARGETS_LIFE)
    metadata.sign(signer)
    return metadata


# Reading back


def load_repository(read: Callable[[str], bytes | None]) -> Repository:
    """The newest metadata, from a function that gives the content of a file or None. Raises `Damaged`, naming the file."""
    root = _stored(read, Root, Root.type, _newest_root(read))
    timestamp = _stored(read, Timestamp, Timestamp.type, 0)
    meta = timestamp.signed.snapshot_meta
    snapshot = _stored(read, Snapshot, Snapshot.type, meta.version, meta)
    roles = {name.removesuffix(".json"): meta for name, meta in snapshot.signed.meta.items()}
    targets = {role: _stored(read, Targets, role, meta.version, meta) for role, meta in roles.items()}
    return Repository(root, targets.pop(TARGETS), snapshot, timestamp, targets)


def _newest_root(read: Callable[[str], bytes | None]) -> int:
    version = 1
    while read(file_name(Root.type, version + 1)) is not None:
        version += 1
    return version


def _stored(
    read: Callable[[str], bytes | None], kind: type[S], role: str, version: int, meta: MetaFile | None = None
) -> Metadata[S]:
    name = file_name(role, version)
    content = read(name)
    if content is None:
        raise Damaged(f"The metadata file {name} is missing from the registry's database.", "Restore registry.sqlite.")
    try:
        if meta is not None:
            meta.verify_length_and_hashes(content)
        loaded = Metadata[S].from_bytes(content)
    except (DeserializationError, RepositoryError) as error:
        raise Damaged(f"The metadata file {name} is damaged: {error}.", "Restore registry.sqlite.") from error
    if not isinstance(loaded.signed, kind):
        raise Damaged(f"The metadata file {name} does not hold {kind.type} metadata.", "Restore registry.sqlite.")
    return loaded


def _copy(metadata: Metadata[S]) -> Metadata[S]:
    return copy.deepcopy(metadata)


def _pattern(model: str) -> str:
    return f"{model}/*/{MANIFEST_FILE}"


def _at(now: float) -> datetime:
    return datetime.fromtimestamp(now, UTC)


def _after(now: float, life: timedelta) -> datetime:
    return (_at(now) + life).replace(microsecond=0)
