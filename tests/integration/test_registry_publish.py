"""Publishing end to end: the real API over HTTP, and the real TUF client as the judge of what came of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from tuf.api.exceptions import DownloadHTTPError
from tuf.ngclient import Updater
from tuf.ngclient.fetcher import FetcherInterface

from fleet_protocol.digests import hex_of
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
    """What the real TUF client believes about a target."""
    directory.mkdir(exist_ok=True)
    root = (world.layout.offline_keys / "root.json").read_bytes()
    updater = Updater(str(directory), "/v1/metadata/", fetcher=ApiFetcher(world.client), bootstrap=root)
    updater.refresh()
    found = updater.get_targetinfo(path)
    return None if found is None else found.hashes["sha256"]


def test_a_published_release_is_what_the_tuf_client_finds(world: RegistryWorld, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    outcome = world.publish(bundle)
    assert outcome.created
    assert (
        outcome.uploaded
        == sum(each.size for each in bundle.manifest.files()) + (tmp_path / "bundle" / "manifest.json").stat().st_size
    )
    assert target_digest(world, tmp_path / "tuf", "digits/1.0.0/manifest.json") == hex_of(bundle.digest)
    assert target_digest(world, tmp_path / "tuf", "digits/1.0.1/manifest.json") is None
    assert world.client.get("/v1/models/digits").json()["versions"][0]["manifest"] == bundle.digest
