"""Publishing end to end: the real API over HTTP, and the real TUF client as the judge of what came of it."""

from __future__ import annotations

import base64
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from tuf.api.exceptions import DownloadHTTPError
from tuf.ngclient import Updater
from tuf.ngclient.fetcher import FetcherInterface

from edgeward.commands.publish import describe
from fleet_io.errors import BundleDamaged
from fleet_protocol.digests import digest_of, hex_of
from fleet_protocol.manifest import encode_manifest
from model_registry import keyring, trust
from model_registry.errors import (
    InvalidRequest,
    KeysMissing,
    MetadataRefused,
    RegistryAnsweredNo,
    RegistryUnreachable,
    VersionTaken,
)
from model_registry.publishing import PublisherKeys, publish
from tests.support.registry_world import RegistryWorld, make_bundle, registry_world


class ApiFetcher(FetcherInterface):
    """What a device's fetcher does, over HTTP."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client

    def _fetch(self, url: str) -> Iterator[bytes]:
        answer = self._client.get(url)
        if not answer.is_success:
            raise DownloadHTTPError(url, answer.status_code)
        return iter([answer.content])


@pytest.fixture
def world(tmp_path: Path) -> Iterator[RegistryWorld]:
    with registry_world(tmp_path) as made:
        yield made


def target_digest(world: RegistryWorld, directory: Path, path: str) -> str | None:
    """What the real TUF client believes about a target; its memory stays in `directory`."""
    directory.mkdir(exist_ok=True)
    root = (world.layout.offline_keys / "root.json").read_bytes()
    updater = Updater(str(directory), "/v1/metadata/", fetcher=ApiFetcher(world.client), bootstrap=root)
    updater.refresh()
    found = updater.get_targetinfo(path)
    return None if found is None else found.hashes["sha256"]


def copy_of_keys(world: RegistryWorld, directory: Path, *names: str) -> PublisherKeys:
    """A publisher's machine that has only these files."""
    directory.mkdir()
    for name in names:
        shutil.copy(world.layout.offline_keys / name, directory / name)
    return PublisherKeys(directory)


def test_a_published_release_is_what_the_tuf_client_finds(world: RegistryWorld, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    outcome = world.publish(bundle)
    assert outcome.created
    manifest_size = (tmp_path / "bundle" / "manifest.json").stat().st_size
    assert outcome.uploaded == sum(each.size for each in bundle.manifest.files()) + manifest_size
    assert target_digest(world, tmp_path / "tuf", "digits/1.0.0/manifest.json") == hex_of(bundle.digest)
    assert target_digest(world, tmp_path / "tuf", "digits/1.0.1/manifest.json") is None
    listed = world.ask("GET", "/v1/models/digits")
    assert (listed["latest"], listed["versions"][0]["manifest"]) == ("1.0.0", bundle.digest)
    assert listed["versions"][0]["variants"][0]["name"] == "float32"


def test_a_client_that_knows_an_older_state_follows_to_the_newest(world: RegistryWorld, tmp_path: Path) -> None:
    world.release(version="1.0.0")
    assert target_digest(world, tmp_path / "tuf", "digits/1.0.0/manifest.json") is not None
    second = world.release(version="1.1.0", content=b"better")
    other = world.release(model="faces", version="0.1.0", content=b"another model")
    assert target_digest(world, tmp_path / "tuf", "digits/1.1.0/manifest.json") == hex_of(second.digest)
    assert target_digest(world, tmp_path / "tuf", "faces/0.1.0/manifest.json") == hex_of(other.digest)
    assert [each["name"] for each in world.ask("GET", "/v1/models")["models"]] == ["digits", "faces"]


def test_publishing_the_same_bytes_again_changes_nothing_and_says_so(world: RegistryWorld, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    world.publish(bundle)
    before = world.client.get("/v1/metadata/timestamp.json").content
    again = world.publish(bundle)
    assert (again.created, again.uploaded) == (False, 0)
    assert world.client.get("/v1/metadata/timestamp.json").content == before


@pytest.mark.parametrize(
    "harm", [Path.unlink, lambda path: path.write_bytes(b"?" + path.read_bytes()[1:])], ids=["lost", "damaged"]
)
def test_publishing_again_brings_back_a_file_that_the_registry_lost_or_damaged(
    world: RegistryWorld, tmp_path: Path, harm: Callable[[Path], object]
) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    world.publish(bundle)
    lost = bundle.manifest.golden.file
    (found,) = world.layout.blobs.glob(f"*/{hex_of(lost.digest)}")
    harm(found)
    again = world.publish(bundle)
    assert (again.created, again.uploaded) == (False, lost.size)
    assert found.read_bytes() == bundle.path(lost).read_bytes()
    assert "nothing changed" not in describe(again)


def test_other_bytes_under_a_published_version_are_refused(world: RegistryWorld, tmp_path: Path) -> None:
    first = world.release()
    other = make_bundle(tmp_path / "other", content=b"other weights")
    with pytest.raises(VersionTaken, match=r"digits 1\.0\.0 is already published with other content.*new version"):
        world.publish(other)
    assert world.ask("GET", "/v1/models/digits")["versions"][0]["manifest"] == first.digest


def test_the_registry_itself_refuses_other_bytes_under_a_version(world: RegistryWorld, tmp_path: Path) -> None:
    """Not only the publisher's own check stands between a version and its change."""
    world.release()
    other = make_bundle(tmp_path / "other", content=b"other weights")
    upload(world, other.directory, [*other.manifest.files()], other.digest)
    refused = world.ask("POST", "/v1/releases", status=409, json={"manifest": other.digest, "metadata": {}})
    assert refused["error"]["code"] == "version_taken"


def upload(world: RegistryWorld, directory: Path, files: list[Any], manifest: str) -> None:
    for each in files:
        world.ask("PUT", f"/v1/blobs/{each.digest}", status=201, content=(directory / each.path).read_bytes())
    world.ask("PUT", f"/v1/blobs/{manifest}", status=201, content=(directory / "manifest.json").read_bytes())


@pytest.mark.parametrize("name", ["model.onnx", "golden.npz", "profile.json", "parity.json"])
def test_a_bundle_that_was_changed_after_it_was_made_is_not_published(world: RegistryWorld, tmp_path: Path, name: str) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    file = bundle.directory / name
    file.write_bytes(bytes([file.read_bytes()[0] ^ 1]) + file.read_bytes()[1:])
    with pytest.raises(BundleDamaged, match=name.replace(".", r"\.")):
        world.publish(bundle)
    assert world.ask("GET", "/v1/models") == {"models": []}


def test_a_file_that_changes_during_the_upload_is_refused_by_its_digest(world: RegistryWorld, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", content=b"w" * 5000)

    def meddle(text: str, _share: float) -> None:
        if text == "uploading model.onnx":
            (bundle.directory / "golden.npz").write_bytes(b"changed")

    with pytest.raises(RegistryAnsweredNo, match="The 7 bytes that arrived are not sha256:") as caught:
        publish(bundle.directory, client=world.client, keys=world.keys, now=world.clock.now(), progress=meddle)
    assert caught.value.code == "blob_refused"


def test_a_release_whose_files_were_not_uploaded_is_refused(world: RegistryWorld, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    content = (bundle.directory / "manifest.json").read_bytes()
    world.ask("PUT", f"/v1/blobs/{bundle.digest}", status=201, content=content)
    refused = world.ask("POST", "/v1/releases", status=404, json={"manifest": bundle.digest, "metadata": {}})
    assert refused["error"]["code"] == "blob_missing"
    assert "model.onnx" in refused["error"]["message"]


def test_a_manifest_with_a_false_chunk_list_is_refused_before_any_device_believes_it(
    world: RegistryWorld, tmp_path: Path
) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    upload(world, bundle.directory, [*bundle.manifest.files()], bundle.digest)
    lying = encode_manifest(bundle.manifest).replace(b'"chunks": "', b'"chunks": "AAAA', 1)
    at = lying.index(b'"chunks": "AAAA') + len(b'"chunks": "AAAA')
    lying = lying[:at] + lying[at + 4 :]
    world.ask("PUT", f"/v1/blobs/{digest_of(lying)}", status=201, content=lying)
    refused = world.ask("POST", "/v1/releases", status=400, json={"manifest": digest_of(lying), "metadata": {}})
    assert "chunk list" in refused["error"]["message"]


def test_metadata_without_its_signature_are_refused(world: RegistryWorld, tmp_path: Path) -> None:
    """A thief of the operator's token cannot publish: the token uploads, the key publishes."""
    bundle = make_bundle(tmp_path / "bundle")
    upload(world, bundle.directory, [*bundle.manifest.files()], bundle.digest)
    thief = keyring.create(tmp_path, ("publisher",))["publisher"]
    content = (bundle.directory / "manifest.json").read_bytes()
    target = trust.ReleaseTarget("digits", "1.0.0", bundle.digest, len(content))
    files = {"1.digits.json": trust.with_release(None, target, thief, world.clock.now()).to_bytes()}
    encoded = {name: base64.b64encode(each).decode() for name, each in files.items()}
    refused = world.ask("POST", "/v1/releases", status=422, json={"manifest": bundle.digest, "metadata": encoded})
    assert refused["error"]["code"] == "metadata_refused"
    assert world.ask("GET", "/v1/models") == {"models": []}


def test_two_publishers_at_once_both_get_through(world: RegistryWorld, tmp_path: Path) -> None:
    world.release()
    bundles = [make_bundle(tmp_path / f"b{at}", version=f"2.{at}.0", content=b"w%d" % at) for at in range(2)]
    together = threading.Barrier(2)

    def publish_one(at: int) -> bool:
        met = False

        def meet(text: str, _share: float) -> None:
            nonlocal met
            if text == "signing" and not met:
                met = True
                together.wait(10)

        headers = {"authorization": f"Bearer {world.registry.operator_token}"}
        with httpx.Client(base_url=world.client.base_url, headers=headers, trust_env=False) as client:
            return publish(bundles[at].directory, client=client, keys=world.keys, now=world.clock.now(), progress=meet).created

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(publish_one, range(2))) == [True, True]
    for at, bundle in enumerate(bundles):
        assert target_digest(world, tmp_path / "tuf", f"digits/2.{at}.0/manifest.json") == hex_of(bundle.digest)


def test_two_publishers_of_the_same_version_with_other_bytes_one_is_refused(world: RegistryWorld, tmp_path: Path) -> None:
    world.release(version="0.1.0")
    bundles = [make_bundle(tmp_path / f"b{at}", version="2.0.0", content=b"w%d" % at) for at in range(2)]

    def lose(text: str, _share: float) -> None:
        if text == "signing" and world.ask("GET", "/v1/models/digits")["latest"] != "2.0.0":
            world.publish(bundles[1])

    with pytest.raises(VersionTaken):
        publish(bundles[0].directory, client=world.client, keys=world.keys, now=world.clock.now(), progress=lose)
    assert target_digest(world, tmp_path / "tuf", "digits/2.0.0/manifest.json") == hex_of(bundles[1].digest)


def test_a_publisher_without_the_targets_key_publishes_known_models_only(world: RegistryWorld, tmp_path: Path) -> None:
    world.release()
    keys = copy_of_keys(world, tmp_path / "keys", "publisher.pem", "root.json")
    known = make_bundle(tmp_path / "known", version="1.1.0", content=b"better")
    assert publish(known.directory, client=world.client, keys=keys, now=world.clock.now()).created
    new = make_bundle(tmp_path / "new", model="faces")
    with pytest.raises(KeysMissing, match=r"The model faces is new, and only targets\.pem"):
        publish(new.directory, client=world.client, keys=keys, now=world.clock.now())


def test_another_publishers_key_is_told_apart_before_anything_is_sent(world: RegistryWorld, tmp_path: Path) -> None:
    world.release()
    keys = copy_of_keys(world, tmp_path / "keys", "targets.pem", "root.json")
    keyring.create(tmp_path / "keys", ("publisher",))
    bundle = make_bundle(tmp_path / "bundle", version="1.1.0", content=b"better")
    with pytest.raises(KeysMissing, match="may not sign the model digits"):
        publish(bundle.directory, client=world.client, keys=keys, now=world.clock.now())


@pytest.mark.parametrize("missing", ["publisher.pem", "root.json"])
def test_a_missing_key_is_named(world: RegistryWorld, tmp_path: Path, missing: str) -> None:
    keys = copy_of_keys(world, tmp_path / "keys", *{"publisher.pem", "root.json"} - {missing})
    bundle = make_bundle(tmp_path / "bundle")
    with pytest.raises(KeysMissing, match=missing.replace(".", r"\.")):
        publish(bundle.directory, client=world.client, keys=keys, now=world.clock.now())


def test_keys_of_another_registry_are_refused(world: RegistryWorld, tmp_path: Path) -> None:
    with registry_world(tmp_path / "elsewhere", fresh=True) as elsewhere:
        bundle = make_bundle(tmp_path / "bundle")
        with pytest.raises(MetadataRefused, match=r"do not follow from root\.json"):
            publish(bundle.directory, client=world.client, keys=elsewhere.keys, now=world.clock.now())


@pytest.mark.parametrize("name", ["root", "targets", "snapshot", "timestamp"])
def test_a_model_cannot_have_the_name_of_a_tuf_role(world: RegistryWorld, tmp_path: Path, name: str) -> None:
    bundle = make_bundle(tmp_path / "bundle", model=name)
    with pytest.raises(InvalidRequest, match="TUF has a role of that name"):
        world.publish(bundle)


def test_no_registry_is_said_in_plain_words(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    with (
        httpx.Client(base_url="http://127.0.0.1:9", trust_env=False) as client,
        pytest.raises(RegistryUnreachable, match="edgeward up"),
    ):
        publish(bundle.directory, client=client, keys=PublisherKeys(tmp_path), now=0.0)


def test_a_registry_whose_disk_fails_says_so_to_the_publisher(world: RegistryWorld, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    shard = hex_of(bundle.manifest.variants[0].file.digest)[:2]
    (world.layout.blobs / shard).write_bytes(b"a file where a directory should be")
    with pytest.raises(RegistryAnsweredNo, match="Look at the registry's disk") as caught:
        world.publish(bundle)
    assert caught.value.code == "store_failed"


def test_the_audit_log_knows_what_was_published(world: RegistryWorld) -> None:
    bundle = world.release()
    entry = world.ask("GET", "/v1/audit")["entries"][0]
    assert (entry["action"], entry["subject"], entry["detail"]) == ("publish", "digits 1.0.0", bundle.digest)
