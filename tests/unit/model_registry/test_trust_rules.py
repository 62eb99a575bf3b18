"""The rules of trust, each broken once: what the registry must never take in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.exceptions import UnsignedMetadataError
from tuf.api.metadata import DelegatedRole, Delegations, Metadata, Root, TargetFile, Targets

from fleet_protocol.digests import digest_of, hex_of
from model_registry import trust
from model_registry.errors import Damaged, InvalidRequest, MetadataRefused, PublishedMeanwhile

NOW = 1_800_000_000.0
DAY = 24 * 3600.0


def signer() -> CryptoSigner:
    return CryptoSigner.generate_ed25519()


def release(model: str = "digits", version: str = "1.0.0", content: bytes = b"manifest") -> trust.ReleaseTarget:
    return trust.ReleaseTarget(model, version, digest_of(content), len(content))


@dataclass
class Trusted:
    """A repository and all of its keys."""

    root: list[CryptoSigner] = field(default_factory=lambda: [signer() for _ in range(3)])
    targets: CryptoSigner = field(default_factory=signer)
    publisher: CryptoSigner = field(default_factory=signer)
    online: trust.OnlineKeys = field(default_factory=lambda: trust.OnlineKeys(signer(), signer()))
    files: dict[str, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        root = trust.new_root(self.root, self.online, self.targets, NOW)
        self.files.update(trust.new_repository(root, self.online, self.targets, NOW))

    @property
    def repository(self) -> trust.Repository:
        return trust.load_repository(self.files.get)

    def first(self, target: trust.ReleaseTarget) -> dict[str, bytes]:
        """What a publisher sends for the first release of a model."""
        top = trust.with_model(self.repository.targets, target.model, self.publisher, self.targets, NOW)
        return {trust.file_name(trust.TARGETS, top.signed.version): top.to_bytes(), **self.next(target)}

    def next(self, target: trust.ReleaseTarget, change: Callable[[Targets], None] = lambda _signed: None) -> dict[str, bytes]:
        """What a publisher sends for one more release, with a change made before it is signed."""
        made = trust.with_release(self.repository.role(target.model), target, self.publisher, NOW)
        return self.signed(target.model, made, self.publisher, change)

    def top(self, change: Callable[[Targets], None]) -> dict[str, bytes]:
        """The next top-level targets, with a change made before they are signed."""
        return self.signed(
            trust.TARGETS, trust.renewed_targets(self.repository.targets, self.targets, NOW), self.targets, change
        )

    @staticmethod
    def signed(role: str, made: Metadata[Targets], key: CryptoSigner, change: Callable[[Targets], None]) -> dict[str, bytes]:
        change(made.signed)
        made.sign(key)
        return {trust.file_name(role, made.signed.version): made.to_bytes()}

    def publish(self, target: trust.ReleaseTarget, files: dict[str, bytes]) -> None:
        trust.accept(self.repository, files, target, NOW)
        self.files.update(trust.publish(self.repository, files, self.online, NOW))


@pytest.fixture
def trusted() -> Trusted:
    made = Trusted()
    made.publish(release(), made.first(release()))
    return made


def refused(trusted: Trusted, files: dict[str, bytes], target: trust.ReleaseTarget, match: str) -> None:
    with pytest.raises(MetadataRefused, match=match):
        trust.accept(trusted.repository, files, target, NOW)


def test_a_release_adds_one_version_to_its_role_and_the_snapshot(trusted: Trusted) -> None:
    second = release(version="1.1.0", content=b"second")
    trusted.publish(second, trusted.next(second))
    repository = trusted.repository
    assert sorted(repository.models["digits"].signed.targets) == ["digits/1.0.0/manifest.json", "digits/1.1.0/manifest.json"]
    assert repository.snapshot.signed.meta["digits.json"].version == 2
    assert repository.timestamp.signed.version == 3


def test_the_first_root_needs_two_of_its_three_keys() -> None:
    made = Trusted()
    root = Metadata[Root].from_bytes(made.files["1.root.json"])
    assert root.signed.roles["root"].threshold == 2
    lone = Metadata(root.signed)
    lone.sign(made.root[0])
    with pytest.raises(UnsignedMetadataError):
        root.signed.verify_delegate("root", lone.signed_bytes, lone.signatures)
    lone.sign(made.root[2], append=True)
    root.signed.verify_delegate("root", lone.signed_bytes, lone.signatures)


def test_metadata_without_a_signature_are_refused(trusted: Trusted) -> None:
    second = release(version="1.1.0")
    files = trusted.next(second)
    bare = Metadata[Targets].from_bytes(files["2.digits.json"])
    bare.signatures.clear()
    refused(trusted, {"2.digits.json": bare.to_bytes()}, second, "0/1 keys")


def test_metadata_signed_by_somebody_else_are_refused(trusted: Trusted) -> None:
    second = release(version="1.1.0")
    made = trust.with_release(trusted.repository.role("digits"), second, signer(), NOW)
    refused(trusted, {"2.digits.json": made.to_bytes()}, second, "not signed as they must")


def test_a_signature_over_other_content_is_refused(trusted: Trusted) -> None:
    second = release(version="1.1.0")
    files = {name: content.replace(b"1.1.0", b"1.2.0") for name, content in trusted.next(second).items()}
    refused(trusted, files, release(version="1.2.0"), "not signed as they must")


def test_the_publishers_key_cannot_delegate(trusted: Trusted) -> None:
    faces = release("faces")
    top = trust.with_model(trusted.repository.targets, "faces", trusted.publisher, trusted.publisher, NOW)
    files = {"3.targets.json": top.to_bytes(), **trusted.next(faces)}
    refused(trusted, files, faces, "metadata of targets are not signed")


@pytest.mark.parametrize("version", [1, 3, 7])
def test_only_the_next_version_is_taken(trusted: Trusted, version: int) -> None:
    second = release(version="1.1.0")
    made = trust.with_release(trusted.repository.role("digits"), second, trusted.publisher, NOW)
    files = trusted.signed("digits", made, trusted.publisher, lambda signed: setattr(signed, "version", version))
    with pytest.raises(PublishedMeanwhile, match="the next one is 2"):
        trust.accept(trusted.repository, files, second, NOW)


def test_a_file_whose_name_lies_about_its_version_is_refused(trusted: Trusted) -> None:
    second = release(version="1.1.0")
    (content,) = trusted.next(second).values()
    refused(trusted, {"3.digits.json": content}, second, "holds version 2")


def test_a_published_target_cannot_change(trusted: Trusted) -> None:
    second = release(version="1.1.0")

    def change(signed: Targets) -> None:
        signed.targets["digits/1.0.0/manifest.json"].hashes["sha256"] = "0" * 64

    refused(trusted, trusted.next(second, change), second, "adds one target and changes none")


def test_a_published_target_cannot_be_published_again_with_another_hash(trusted: Trusted) -> None:
    changed = release(content=b"other")
    refused(trusted, trusted.next(changed), changed, "adds one target and changes none")


def test_a_published_target_cannot_vanish(trusted: Trusted) -> None:
    second = release(version="1.1.0")

    def change(signed: Targets) -> None:
        del signed.targets["digits/1.0.0/manifest.json"]

    refused(trusted, trusted.next(second, change), second, "adds one target and changes none")


def test_a_release_cannot_bring_a_second_target_along(trusted: Trusted) -> None:
    second = release(version="1.1.0")
    path = "digits/6.6.6/manifest.json"

    def change(signed: Targets) -> None:
        signed.targets[path] = TargetFile(1, {"sha256": "0" * 64}, path)

    refused(trusted, trusted.next(second, change), second, "adds one target and changes none")


@pytest.mark.parametrize(
    "hashes", [{"sha256": "0" * 64}, {"sha512": "0" * 128}, {"sha256": hex_of(digest_of(b"manifest")), "sha512": "0"}]
)
def test_the_target_must_have_the_manifests_digest_and_no_other_hash(trusted: Trusted, hashes: dict[str, str]) -> None:
    second = release(version="1.1.0")

    def change(signed: Targets) -> None:
        signed.targets[second.path].hashes = hashes

    refused(trusted, trusted.next(second, change), second, "with the digest")


def test_the_target_must_have_the_manifests_length(trusted: Trusted) -> None:
    second = release(version="1.1.0")
    files = trusted.next(second, lambda signed: setattr(signed.targets[second.path], "length", 9999))
    refused(trusted, files, second, "with the digest")


def test_expired_metadata_are_refused(trusted: Trusted) -> None:
    second = release(version="1.1.0")
    made = trust.with_release(trusted.repository.role("digits"), second, trusted.publisher, NOW - 3 * 365 * DAY)
    refused(trusted, {"2.digits.json": made.to_bytes()}, second, "are expired")


def test_metadata_that_would_never_expire_are_refused(trusted: Trusted) -> None:
    second = release(version="1.1.0")
    made = trust.with_release(trusted.repository.role("digits"), second, trusted.publisher, NOW + 9 * 365 * DAY)
    refused(trusted, {"2.digits.json": made.to_bytes()}, second, "valid beyond")


def test_a_models_role_may_not_delegate(trusted: Trusted) -> None:
    second = release(version="1.1.0")
    files = trusted.next(second, lambda signed: setattr(signed, "delegations", Delegations({}, {})))
    refused(trusted, files, second, "may not delegate any further")


def test_the_top_level_targets_may_not_name_files(trusted: Trusted) -> None:
    """They come before every delegation: a file named there would win over the model's own role."""
    second = release(version="1.1.0")

    def change(signed: Targets) -> None:
        signed.targets[second.path] = TargetFile(1, {"sha256": "0" * 64}, second.path)

    refused(trusted, {**trusted.top(change), **trusted.next(second)}, second, "name files")


def test_the_top_level_targets_may_not_drop_a_model(trusted: Trusted) -> None:
    second = release(version="1.1.0")
    files = {**trusted.top(lambda signed: setattr(signed, "delegations", None)), **trusted.next(second)}
    refused(trusted, files, second, "no longer delegate digits")


@pytest.mark.parametrize(
    ("paths", "terminating"),
    [
        (["*/*/manifest.json"], True),
        (["digits/*/manifest.json", "faces/*/manifest.json"], True),
        (["digits/*/manifest.json"], False),
    ],
)
def test_a_delegation_covers_its_own_model_and_is_terminating(trusted: Trusted, paths: list[str], terminating: bool) -> None:
    second = release(version="1.1.0")

    def change(signed: Targets) -> None:
        assert signed.delegations is not None
        assert signed.delegations.roles is not None
        keys = signed.delegations.roles["digits"].keyids
        signed.delegations.roles["digits"] = DelegatedRole("digits", keys, 1, terminating, paths=paths)

    refused(trusted, {**trusted.top(change), **trusted.next(second)}, second, "must cover")


def test_the_targets_key_may_hand_a_model_to_another_publisher(trusted: Trusted) -> None:
    second, heir = release(version="1.1.0"), signer()
    top = trust.with_model(trusted.repository.targets, "digits", heir, trusted.targets, NOW)
    made = trust.with_release(trusted.repository.role("digits"), second, heir, NOW)
    trusted.publish(second, {"3.targets.json": top.to_bytes(), "2.digits.json": made.to_bytes()})
    third = release(version="1.2.0")
    refused(trusted, trusted.next(third), third, "not signed as they must")


def test_a_model_that_nobody_delegated_is_refused(trusted: Trusted) -> None:
    faces = release("faces")
    refused(trusted, trusted.next(faces), faces, "Nobody may sign")


def test_a_release_without_its_models_metadata_is_refused(trusted: Trusted) -> None:
    refused(trusted, {}, release(version="1.1.0"), "are missing")


@pytest.mark.parametrize("name", ["timestamp.json", "2.snapshot.json", "2.root.json", "2.faces.json"])
def test_no_other_metadata_may_be_uploaded(trusted: Trusted, name: str) -> None:
    second = release(version="1.1.0")
    (content,) = trusted.next(second).values()
    with pytest.raises(MetadataRefused):
        trust.accept(trusted.repository, {name: content, "2.digits.json": content}, second, NOW)


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[]", b"\xff", b"[" * 100_000, b'{"signed": {"_type": "root"}}', b"0" * (4 << 20) + b"00"]
)
def test_what_is_not_metadata_is_refused(trusted: Trusted, content: bytes) -> None:
    second = release(version="1.1.0")
    with pytest.raises(MetadataRefused):
        trust.accept(trusted.repository, {"2.digits.json": content}, second, NOW)


def test_another_roles_metadata_under_the_models_name_are_refused(trusted: Trusted) -> None:
    refused(trusted, {"1.digits.json": trusted.files["1.root.json"]}, release(version="1.1.0"), "targets metadata")


def test_nothing_is_renewed_while_it_is_fresh(trusted: Trusted) -> None:
    assert trust.renewals(trusted.repository, trusted.online, NOW + DAY / 2) == {}


def test_the_timestamp_is_signed_anew_before_it_expires(trusted: Trusted) -> None:
    later = NOW + 1.5 * DAY
    files = trust.renewals(trusted.repository, trusted.online, later)
    assert list(files) == ["timestamp.json"]
    trusted.files.update(files)
    timestamp = trusted.repository.timestamp.signed
    assert timestamp.version == 3
    assert timestamp.expires.timestamp() == later + 2 * DAY
    assert timestamp.snapshot_meta.version == 2


def test_the_snapshot_is_signed_anew_before_it_expires(trusted: Trusted) -> None:
    files = trust.renewals(trusted.repository, trusted.online, NOW + 8 * DAY)
    assert sorted(files) == ["3.snapshot.json", "timestamp.json"]
    trusted.files.update(files)
    assert trusted.repository.snapshot.signed.meta["digits.json"].version == 1


def test_everything_is_renewed_even_after_it_expired(trusted: Trusted) -> None:
    later = NOW + 300 * DAY
    trusted.files.update(trust.renewals(trusted.repository, trusted.online, later))
    assert trusted.repository.timestamp.signed.expires.timestamp() > later
    assert trusted.repository.snapshot.signed.expires.timestamp() > later


@pytest.mark.parametrize("name", ["1.root.json", "timestamp.json", "2.snapshot.json", "2.targets.json", "1.digits.json"])
def test_a_missing_or_damaged_file_is_named(trusted: Trusted, name: str) -> None:
    whole = trusted.files.pop(name)
    with pytest.raises(Damaged, match=name.replace(".", r"\.")):
        trust.load_repository(trusted.files.get)
    trusted.files[name] = whole[:-10]
    with pytest.raises(Damaged, match=name.replace(".", r"\.")):
        trust.load_repository(trusted.files.get)


def test_metadata_of_another_time_in_the_place_of_the_newest_are_damage(trusted: Trusted) -> None:
    trusted.files["2.targets.json"] = trusted.files["1.targets.json"]
    with pytest.raises(Damaged, match=r"2\.targets\.json"):
        trust.load_repository(trusted.files.get)


@pytest.mark.parametrize("name", sorted(["root", "targets", "snapshot", "timestamp"]))
def test_tufs_own_names_are_no_models(name: str) -> None:
    with pytest.raises(InvalidRequest):
        trust.target_path(name, "1.0.0")
