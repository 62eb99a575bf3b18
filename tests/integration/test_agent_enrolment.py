"""How a device gets its identity, against the registry's own API over HTTPS."""

from __future__ import annotations

import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from device_agent import enrolment, identity
from device_agent.errors import ClaimRefused, EnrolmentFailed, NotEnrolled, ServerUnreachable, WrongAuthority
from device_agent.renewal import Renewal
from edgeward.broker import free_port
from fleet_io.clock import SystemClock
from fleet_io.http_server import HttpServer, ServerCertificate
from tests.support.real_fleet import RealFleet
from tests.support.registry_world import SteppedClock
from tests.support.waiting import until

DAY = 24 * 3600.0


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealFleet]:
    made = RealFleet(tmp_path_factory.mktemp("fleet"))
    made.serve()
    yield made
    made.close()


def test_a_claim_brings_a_certificate_for_a_key_that_never_left_the_device(fleet: RealFleet, tmp_path: Path) -> None:
    enrolled = enrolment.enrol(tmp_path / "identity", "kitchen", server=fleet.url, claim=fleet.claim("kitchen"))
    certificate = x509.load_pem_x509_certificate(enrolled.identity.certificate.read_bytes())
    assert certificate.subject.rfc4514_string() == "CN=kitchen"
    assert stat.S_IMODE(enrolled.identity.key.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "identity").stat().st_mode) == 0o700
    assert (enrolled.broker.host, enrolled.broker.port) == ("127.0.0.1", fleet.broker.broker.port)


def test_enrolling_again_changes_nothing_and_needs_no_server(fleet: RealFleet, tmp_path: Path) -> None:
    first = enrolment.enrol(tmp_path, "porch", server=fleet.url, claim=fleet.claim("porch"))
    before = first.identity.certificate.read_bytes()
    again = enrolment.enrol(tmp_path, "porch", server="", claim="")
    assert again.identity.certificate.read_bytes() == before
    assert identity.load(tmp_path, "porch") is not None


def test_an_answer_that_was_lost_is_asked_for_again_with_the_same_claim_and_key(fleet: RealFleet, tmp_path: Path) -> None:
    claim = fleet.claim("cellar")
    first = enrolment.enrol(tmp_path, "cellar", server=fleet.url, claim=claim)
    key = first.identity.key.read_bytes()
    (tmp_path / "enrolment.json").unlink()
    again = enrolment.enrol(tmp_path, "cellar", server=fleet.url, claim=claim)
    assert again.identity.key.read_bytes() == key


def test_a_certificate_that_comes_behind_the_authority_is_not_trusted(fleet: RealFleet, tmp_path: Path) -> None:
    authority = fleet.client.get("/v1/authority").content
    other_fleet = RealFleet(tmp_path / "other")
    other_fleet.close()
    other = other_fleet.registry.authority_path.read_bytes()
    server = HttpServer(
        Starlette(routes=[Route("/v1/authority", lambda _request: PlainTextResponse(authority + other))]),
        host="127.0.0.1",
        port=0,
        certificate=ServerCertificate(fleet.registry.server_identity.certificate, fleet.registry.server_identity.key),
    )
    server.start()
    try:
        trusted = enrolment.fetch_authority(server.url, enrolment.parse_claim(fleet.claim("yard")))
    finally:
        server.stop()
    assert trusted.encode() == authority


def test_a_claim_travels_only_encrypted(fleet: RealFleet, tmp_path: Path) -> None:
    with pytest.raises(EnrolmentFailed, match="is not https"):
        enrolment.enrol(tmp_path, "yard", server=fleet.url.replace("https", "http"), claim=fleet.claim("yard"))


@pytest.mark.parametrize("claim", ["", "hello", "ew1.abc.def", "ew2." + "0" * 64 + ".secretsecret"])
def test_what_is_no_claim_says_what_one_looks_like_and_asks_nobody(tmp_path: Path, claim: str) -> None:
    expected = "Give --server and --claim" if not claim else "It looks like ew1"
    with pytest.raises((ClaimRefused, NotEnrolled), match=expected):
        enrolment.enrol(tmp_path, "kitchen", server="https://127.0.0.1:1", claim=claim)


def test_a_wrong_secret_is_refused_with_the_servers_own_words(fleet: RealFleet, tmp_path: Path) -> None:
    wrong = fleet.claim("attic").rsplit(".", 1)[0] + ".nonsense-nonsense"
    with pytest.raises(ClaimRefused, match="not one of ours"):
        enrolment.enrol(tmp_path, "attic", server=fleet.url, claim=wrong)


def test_the_claim_of_another_device_is_refused(fleet: RealFleet, tmp_path: Path) -> None:
    with pytest.raises(ClaimRefused, match="attic"):
        enrolment.enrol(tmp_path, "attic", server=fleet.url, claim=fleet.claim("balcony"))


def test_nobody_at_the_address_says_to_check_it(fleet: RealFleet, tmp_path: Path) -> None:
    with pytest.raises(ServerUnreachable, match="Check --server"):
        enrolment.enrol(tmp_path, "kitchen", server=f"https://127.0.0.1:{free_port()}", claim=fleet.claim("kitchen"))


def test_a_server_with_another_authority_learns_no_secret(fleet: RealFleet, tmp_path: Path) -> None:
    other = "ew1." + "0" * 64 + "." + fleet.claim("kitchen").rsplit(".", 1)[1]
    with pytest.raises(WrongAuthority, match="another certificate authority"):
        enrolment.enrol(tmp_path, "kitchen", server=fleet.url, claim=other)
    assert not (tmp_path / "device.key.pem").exists()


def test_a_server_that_is_no_registry_is_named(fleet: RealFleet, tmp_path: Path) -> None:
    server = HttpServer(
        Starlette(routes=[Route("/v1/authority", lambda _request: PlainTextResponse("hello"))]),
        host="127.0.0.1",
        port=0,
        certificate=ServerCertificate(fleet.registry.server_identity.certificate, fleet.registry.server_identity.key),
    )
    server.start()
    try:
        with pytest.raises(EnrolmentFailed, match="does not answer as an Edgeward registry"):
            enrolment.enrol(tmp_path, "kitchen", server=server.url, claim="ew1." + "0" * 64 + ".secretsecret")
    finally:
        server.stop()


def test_a_directory_belongs_to_one_device(fleet: RealFleet, tmp_path: Path) -> None:
    enrolment.enrol(tmp_path, "garage", server=fleet.url, claim=fleet.claim("garage"))
    with pytest.raises(EnrolmentFailed, match="belongs to the device garage"):
        identity.load(tmp_path, "kitchen")


def test_a_device_with_another_devices_certificate_says_so(fleet: RealFleet, tmp_path: Path) -> None:
    mine, other = tmp_path / "mine", tmp_path / "other"
    enrolment.enrol(mine, "roof", server=fleet.url, claim=fleet.claim("roof"))
    enrolment.enrol(other, "shed", server=fleet.url, claim=fleet.claim("shed"))
    for name in ("device.pem", "device.key.pem"):
        shutil.copy(other / name, mine / name)
    with pytest.raises(EnrolmentFailed, match="not roof's own certificate"):
        identity.load(mine, "roof")


@pytest.mark.parametrize("spoil", [b"", b"{}", b"not json"])
def test_a_damaged_identity_names_its_file(fleet: RealFleet, tmp_path: Path, spoil: bytes) -> None:
    (tmp_path / "enrolment.json").write_bytes(spoil)
    with pytest.raises(EnrolmentFailed, match=r"enrolment\.json cannot be read"):
        identity.load(tmp_path, "kitchen")


def test_a_missing_key_is_not_silently_replaced(fleet: RealFleet, tmp_path: Path) -> None:
    enrolment.enrol(tmp_path, "hall", server=fleet.url, claim=fleet.claim("hall"))
    (tmp_path / "device.key.pem").unlink()
    with pytest.raises(EnrolmentFailed, match="Remove"):
        identity.load(tmp_path, "hall")
    assert not (tmp_path / "device.key.pem").exists()


def test_the_claim_is_not_kept(fleet: RealFleet, tmp_path: Path) -> None:
    claim = fleet.claim("loft")
    enrolment.enrol(tmp_path, "loft", server=fleet.url, claim=claim)
    secret = claim.rsplit(".", 1)[1].encode()
    assert all(secret not in path.read_bytes() for path in tmp_path.iterdir())


class TestRenewal:
    def test_a_certificate_is_renewed_in_the_last_third_of_its_life_for_the_same_key(
        self, fleet: RealFleet, tmp_path: Path
    ) -> None:
        enrolled = enrolment.enrol(tmp_path, "lobby", server=fleet.url, claim=fleet.claim("lobby"))
        before = enrolled.identity.certificate.read_bytes()
        now = SystemClock().now()
        assert not identity.needs_renewal(enrolled, now + 240 * DAY)
        assert identity.needs_renewal(enrolled, now + 250 * DAY)
        assert identity.needs_renewal(enrolled, now + 400 * DAY), "also when it has ended"
        renewal = Renewal(enrolled, server=fleet.url, clock=SteppedClock(now + 250 * DAY), chance=lambda: 0.0)
        renewal.start()
        until(lambda: enrolled.identity.certificate.read_bytes() != before, "the next certificate is there")
        renewal.stop()
        again = identity.load(tmp_path, "lobby")
        assert again == enrolled

    def test_what_cannot_be_renewed_keeps_its_certificate(self, fleet: RealFleet, tmp_path: Path) -> None:
        enrolled = enrolment.enrol(tmp_path, "stairs", server=fleet.url, claim=fleet.claim("stairs"))
        before = enrolled.identity.certificate.read_bytes()
        enrolment.enrol(tmp_path / "new", "stairs", server=fleet.url, claim=fleet.claim("stairs", replace=True))
        with pytest.raises(EnrolmentFailed, match="enrolled with this key"):
            enrolment.renew(enrolled, server=fleet.url)
        with pytest.raises(ServerUnreachable):
            enrolment.renew(enrolled, server=f"https://127.0.0.1:{free_port()}")
        assert enrolled.identity.certificate.read_bytes() == before
