"""The registry as a service: what `prepare` makes, what it renews, what it names as damaged, and who is let in."""

from __future__ import annotations

import os
import socket
import sqlite3
import ssl
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import httpx
import msgspec
import pytest
from cryptography import x509
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from fleet_io.http_server import HttpServer, ServerCertificate
from fleet_io.simulated import SimulatedBroker, SimulatedTransport
from fleet_protocol import topics
from fleet_protocol.digests import digest_of
from model_registry import authority
from model_registry.errors import Damaged, KeysMissing
from model_registry.layout import Layout
from model_registry.service import Registry, RegistrySettings
from tests.support.registry_world import RegistryWorld, SteppedClock, registry_world
from tests.support.waiting import until

DAY = 24 * 3600.0


@pytest.fixture
def world(tmp_path: Path) -> Iterator[RegistryWorld]:
    with registry_world(tmp_path) as made:
        yield made


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryWorld]:
    """One world for many tests that are turned away and change nothing."""
    with registry_world(tmp_path_factory.mktemp("standing")) as made:
        made.release()
        yield made


def prepared(directory: Path, clock: SteppedClock, **settings: object) -> Registry:
    made = Registry(RegistrySettings(directory, **settings), clock=clock)  # type: ignore[arg-type]  # named by each test
    made.prepare()
    return made


def contents(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_preparing_again_changes_nothing(tmp_path: Path) -> None:
    clock = SteppedClock()
    prepared(tmp_path, clock).stop()
    kept = {name: each for name, each in contents(tmp_path).items() if "sqlite" not in name}
    prepared(tmp_path, clock).stop()
    assert {name: each for name, each in contents(tmp_path).items() if "sqlite" not in name} == kept


def test_secrets_are_readable_by_their_owner_only(world: RegistryWorld) -> None:
    secret = [world.layout.operator_token, *world.directory.rglob("*.key"), *world.directory.rglob("keys/*/*.pem")]
    assert len(secret) == 1 + 3 + 8
    assert {path.stat().st_mode & 0o777 for path in secret} == {0o600}
    assert {path.stat().st_mode & 0o777 for path in world.layout.offline_keys.parent.iterdir()} == {0o700}


def test_the_registry_runs_without_its_offline_keys(world: RegistryWorld) -> None:
    """They are meant to be moved away."""
    world.release()
    for path in world.layout.offline_keys.iterdir():
        path.unlink()
    world.again()
    assert world.ask("GET", "/v1/models/digits")["latest"] == "1.0.0"
    assert list(world.layout.offline_keys.iterdir()) == []


@pytest.mark.parametrize("name", ["certificates/authority.pem", "certificates/authority.key"])
def test_a_lost_half_of_the_authority_is_named_and_never_made_anew(tmp_path: Path, name: str) -> None:
    prepared(tmp_path, SteppedClock()).stop()
    (tmp_path / name).unlink()
    with pytest.raises(Damaged, match=Path(name).name):
        prepared(tmp_path, SteppedClock())


def test_a_first_start_that_was_killed_before_the_authority_was_whole_is_done_again(tmp_path: Path) -> None:
    key = Layout(tmp_path).authority_key
    key.parent.mkdir()
    key.write_bytes(authority.create(0.0).key_pem())
    prepared(tmp_path, SteppedClock()).stop()


@pytest.mark.parametrize("name", ["certificates/authority.pem", "certificates/authority.key"])
def test_a_damaged_authority_is_named(tmp_path: Path, name: str) -> None:
    prepared(tmp_path, SteppedClock()).stop()
    (tmp_path / name).write_bytes(b"garbage")
    with pytest.raises(Damaged, match="authority"):
        prepared(tmp_path, SteppedClock())


@pytest.mark.parametrize("name", ["snapshot", "timestamp", "director"])
def test_a_lost_online_key_is_named(tmp_path: Path, name: str) -> None:
    prepared(tmp_path, SteppedClock()).stop()
    (tmp_path / "keys" / "online" / f"{name}.pem").unlink()
    with pytest.raises(KeysMissing, match=name):
        prepared(tmp_path, SteppedClock())


def test_a_damaged_database_is_named(tmp_path: Path) -> None:
    prepared(tmp_path, SteppedClock()).stop()
    for path in tmp_path.glob("registry.sqlite*"):
        path.write_bytes(b"this is not a database, whatever its name says" * 100)
    with pytest.raises(Damaged, match=r"registry\.sqlite"):
        prepared(tmp_path, SteppedClock())


def test_damaged_metadata_are_named(tmp_path: Path) -> None:
    prepared(tmp_path, SteppedClock()).stop()
    connection = sqlite3.connect(tmp_path / "registry.sqlite")
    with connection:
        connection.execute("UPDATE metadata SET content = x'00' WHERE file = '1.targets.json'")
    connection.close()
    with pytest.raises(Damaged, match=r"1\.targets\.json"):
        prepared(tmp_path, SteppedClock())


@pytest.mark.parametrize("name", ["server", "central"])
def test_our_own_certificates_are_made_anew_when_lost_or_damaged(tmp_path: Path, name: str) -> None:
    prepared(tmp_path, SteppedClock()).stop()
    (tmp_path / "certificates" / f"{name}.pem").write_bytes(b"garbage")
    registry = prepared(tmp_path, SteppedClock())
    identity = registry.server_identity if name == "server" else registry.central_identity
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(identity.certificate, identity.key)
    registry.stop()


def test_our_own_certificates_are_renewed_in_the_last_third_of_their_life(tmp_path: Path) -> None:
    clock = SteppedClock()
    prepared(tmp_path, clock).stop()
    before = (tmp_path / "certificates" / "server.pem").read_bytes()
    clock.forward(300 * DAY)
    prepared(tmp_path, clock).stop()
    after = (tmp_path / "certificates" / "server.pem").read_bytes()
    assert (
        x509.load_pem_x509_certificate(after).not_valid_after_utc > x509.load_pem_x509_certificate(before).not_valid_after_utc
    )


def test_a_new_host_name_gives_a_new_server_certificate(tmp_path: Path) -> None:
    prepared(tmp_path, SteppedClock()).stop()
    prepared(tmp_path, SteppedClock(), hostnames=("fleet.example.org", "192.0.2.7")).stop()
    certificate = x509.load_pem_x509_certificate((tmp_path / "certificates" / "server.pem").read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert "fleet.example.org" in names.get_values_for_type(x509.DNSName)
    assert {"127.0.0.1", "::1", "192.0.2.7"} == {str(each) for each in names.get_values_for_type(x509.IPAddress)}


def test_metadata_are_fresh_after_a_long_stop(tmp_path: Path) -> None:
    clock = SteppedClock()
    with registry_world(tmp_path) as world:
        world.clock = clock
        before = world.client.get("/v1/metadata/timestamp.json").json()["signed"]["version"]
        clock.forward(200 * DAY)
        world.again()
        assert world.client.get("/v1/metadata/timestamp.json").json()["signed"]["version"] == before + 1


def test_the_timestamp_is_renewed_and_announced_while_it_runs(world: RegistryWorld) -> None:
    world.settle()
    before = world.broker.retained[topics.META_TIMESTAMP]
    world.clock.forward(1.5 * DAY)
    world.settle()
    after = world.broker.retained[topics.META_TIMESTAMP]
    assert after != before
    assert after == world.client.get("/v1/metadata/timestamp.json").content


def test_a_release_is_announced_by_its_timestamp(world: RegistryWorld) -> None:
    world.settle()
    world.release()
    world.settle()
    assert world.broker.retained[topics.META_TIMESTAMP] == world.client.get("/v1/metadata/timestamp.json").content


def test_its_threads_do_the_same_as_a_test_does_by_hand(tmp_path: Path) -> None:
    broker = SimulatedBroker()
    registry = prepared(tmp_path, SteppedClock())
    transport = SimulatedTransport(broker, "central")
    registry.attach(transport)
    registry.start()
    transport.start()
    until(lambda: topics.META_TIMESTAMP in broker.retained, "the coordinator announces the metadata")
    transport.stop()
    registry.stop()
    registry.stop()


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/models"),
        ("GET", "/v1/devices"),
        ("GET", "/v1/audit"),
        ("GET", "/v1/metadata/timestamp.json"),
        ("HEAD", "/v1/blobs/sha256:" + "0" * 64),
        ("PUT", "/v1/blobs/sha256:" + "0" * 64),
        ("POST", "/v1/releases"),
        ("POST", "/v1/claims"),
        ("POST", "/v1/rollouts"),
        ("POST", "/v1/rollouts/1/abort"),
        ("POST", "/v1/devices/a/retry"),
    ],
)
def test_without_the_token_nobody_is_let_in(standing: RegistryWorld, method: str, path: str) -> None:
    for header in ("", "Bearer", "Bearer wrong", "Basic abc", "Bearer é"):
        answer = standing.client.request(method, path, headers=httpx.Headers([(b"authorization", header.encode())]))
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert method == "HEAD" or answer.json()["error"]["code"] == "access_refused"


def test_what_does_not_exist_is_said_with_a_hint(standing: RegistryWorld) -> None:
    for path in ("/v1/models/none", "/v1/devices/none", "/v1/rollouts/77", "/v1/metadata/9.root.json"):
        assert standing.ask("GET", path, status=404)["error"]["code"] == "not_found"
    assert standing.ask("GET", "/v1/rollouts/x", status=400)["error"]["code"] == "invalid_request"
    begun = standing.ask("POST", "/v1/rollouts", status=404, json={"model": "none", "version": "1.0.0"})
    assert begun["error"]["hint"] == "Publish it first: `edgeward publish BUNDLE`."
    standing.ask("POST", "/v1/devices/none/retry", status=404)
    standing.ask("POST", "/v1/rollouts/77/abort", status=404)


@pytest.mark.parametrize(
    "body",
    [
        {"model": "digits", "version": "one"},
        {"model": "Digits", "version": "1.0.0"},
        {"model": "digits", "version": "1.0.0", "steps": []},
        {"model": "digits", "version": "1.0.0", "steps": [0.5]},
        {"model": "digits", "version": "1.0.0", "cohort": "a b"},
        {"model": "digits", "version": "1.0.0", "max_failures": -1},
        {"model": "digits", "version": "1.0.0", "cohorts": "all"},
        {"version": "1.0.0"},
    ],
)
def test_a_rollout_that_makes_no_sense_is_not_started(standing: RegistryWorld, body: dict[str, object]) -> None:
    standing.ask("POST", "/v1/rollouts", status=400, json=body)
    assert standing.ask("GET", "/v1/rollouts") == {"rollouts": []}


def test_an_unknown_version_lists_those_that_are_there(standing: RegistryWorld) -> None:
    refused = standing.ask("POST", "/v1/rollouts", status=404, json={"model": "digits", "version": "9.9.9"})
    assert "published: 1.0.0" in refused["error"]["message"]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=8,
)
FIELDS = ["model", "version", "cohort", "steps", "max_failures", "device", "claim", "csr", "uses", "manifest", "metadata"]


@given(
    path=st.sampled_from(["rollouts", "claims", "enrolments", "releases", "devices/x/retry", "rollouts/1/abort"]),
    body=st.binary(max_size=60) | st.dictionaries(st.sampled_from(FIELDS), VALUES).map(msgspec.json.encode),
)
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_body_makes_the_api_fail(standing: RegistryWorld, path: str, body: bytes) -> None:
    answer = standing.client.post(f"/v1/{path}", content=body)
    assert answer.status_code < 500, answer.text
    assert answer.is_success or set(answer.json()["error"]) == {"code", "message", "hint"}


@given(path=st.text(st.characters(min_codepoint=33, max_codepoint=0x2FF), min_size=1, max_size=40))
@example(path=".")
@example(path="..")
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_path_makes_the_api_fail_or_leaves_its_directory(standing: RegistryWorld, path: str) -> None:
    for route in ("blobs", "metadata", "models", "devices", "rollouts"):
        # A client walks over dots that are not encoded, before the server ever sees them.
        answer = standing.client.get(f"/v1/{route}/{quote(path, safe='').replace('.', '%2E')}")
        assert answer.status_code < 500, answer.text
        assert answer.status_code != 200 or path in ("digits", "timestamp.json")


def test_other_parts_routes_stand_behind_the_same_token(world: RegistryWorld) -> None:
    async def shown(_request: Request) -> Response:
        return PlainTextResponse("figures")

    routes = world.registry.guarded([Route("/v1/figures", shown)])
    server = HttpServer(Starlette(routes=routes), host="127.0.0.1", port=0)
    server.start()
    with httpx.Client(base_url=server.url, trust_env=False) as client:
        assert client.get("/v1/figures").status_code == 401
        token = f"Bearer {world.registry.operator_token}"
        assert client.get("/v1/figures", headers={"authorization": token}).text == "figures"
    server.stop()


def test_the_server_certificate_serves_https_that_the_authority_vouches_for(world: RegistryWorld) -> None:
    identity = world.registry.server_identity
    server = HttpServer(
        Starlette(routes=world.registry.routes()),
        host="127.0.0.1",
        port=0,
        certificate=ServerCertificate(identity.certificate, identity.key),
    )
    server.start()
    context = ssl.create_default_context(cafile=str(world.registry.authority_path))
    with httpx.Client(base_url=server.url, verify=context, trust_env=False) as client:
        assert client.get("/v1/authority").content == world.registry.authority_path.read_bytes()
    server.stop()


def test_an_upload_that_breaks_off_leaves_nothing_and_holds_nothing_up(world: RegistryWorld) -> None:
    host, port = world.client.base_url.host, world.client.base_url.port
    digest = digest_of(b"x" * 1_000_000)
    with socket.create_connection((host, port)) as connection:
        head = f"PUT /v1/blobs/{digest} HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n"
        connection.sendall(f"{head}authorization: Bearer {world.registry.operator_token}\r\n\r\n".encode() + b"x" * 100_000)
        until(lambda: list(world.layout.blobs.glob("*/.part-*")), "the upload has begun")
    until(lambda: not list(world.layout.blobs.glob("*/.part-*")), "the broken upload is gone")
    assert world.client.head(f"/v1/blobs/{digest}").status_code == 404
    world.ask("PUT", f"/v1/blobs/{digest}", status=201, content=b"x" * 1_000_000)


def test_a_full_disk_is_said_and_loses_nothing(world: RegistryWorld) -> None:
    if os.geteuid() != 0:
        (world.layout.blobs / "00").mkdir(mode=0o500)
    else:
        (world.layout.blobs / "00").write_bytes(b"a file where a directory should be")
    refused = world.ask("PUT", "/v1/blobs/sha256:" + "0" * 64, status=507, content=b"x")
    assert refused["error"]["code"] == "store_failed"
