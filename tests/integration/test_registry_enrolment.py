"""Enrolment over HTTP: who gets a certificate, what stands in it, and who is turned away."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from securesystemslib.signer import Key
from tuf.api.metadata import Metadata, Root

from model_registry.enrolment import RENEWALS
from tests.support.registry_world import RegistryWorld, registry_world, request_pem

DAY = 24 * 3600.0


@pytest.fixture
def world(tmp_path: Path) -> Iterator[RegistryWorld]:
    with registry_world(tmp_path) as made:
        yield made


def enrol(world: RegistryWorld, device: str, claim: str, csr: str | None = None, *, status: int = 201) -> Any:
    """Without the operator's token, as a device does."""
    body = {"device": device, "claim": claim, "csr": csr or request_pem()}
    answer = world.client.post("/v1/enrolments", json=body, headers={"authorization": ""})
    assert answer.status_code == status, answer.text
    return answer.json()


def code(answer: Any) -> str:
    return str(answer["error"]["code"])


def test_a_device_with_a_claim_gets_all_that_it_needs(world: RegistryWorld) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    granted = enrol(world, "camera-7", world.claim(), request_pem(key))
    certificate = x509.load_pem_x509_certificate(granted["certificate"].encode())
    authority = x509.load_pem_x509_certificate(granted["authority"].encode())
    certificate.verify_directly_issued_by(authority)
    assert certificate.public_key() == key.public_key()
    assert granted["broker"] == {"host": "broker.example", "port": 18883}
    assert Metadata[Root].from_bytes(granted["tuf_root"].encode()).signed.version == 1
    director = dict(granted["director_key"])
    assert Key.from_dict(director.pop("keyid"), director).keytype == "ed25519"
    assert [each["name"] for each in world.ask("GET", "/v1/devices")["devices"]] == ["camera-7"]


def test_names_in_the_certificate_are_ours_and_not_the_requests(world: RegistryWorld) -> None:
    granted = enrol(world, "camera-7", world.claim(), request_pem(name="central.edgeward"))
    certificate = x509.load_pem_x509_certificate(granted["certificate"].encode())
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    assert [each.value for each in names] == ["camera-7"]
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False
    life = certificate.not_valid_after_utc.timestamp() - world.clock.now()
    assert 364 * DAY < life <= 365 * DAY


def test_the_claim_token_carries_the_hash_of_the_authority_that_answers(world: RegistryWorld) -> None:
    prefix, fingerprint, secret = world.claim().split(".")
    shown = world.client.get("/v1/authority", headers={"authorization": ""})
    der = x509.load_pem_x509_certificate(shown.content).public_bytes(Encoding.DER)
    assert prefix == "ew1"
    assert fingerprint == hashlib.sha256(der).hexdigest()
    assert len(secret) >= 32
    assert secret not in (world.layout.database.read_bytes() + Path(f"{world.layout.database}-wal").read_bytes()).decode(
        "latin1"
    )


def test_a_wrong_claim_is_refused(world: RegistryWorld) -> None:
    world.claim()
    assert code(enrol(world, "camera-7", f"ew1.{'0' * 64}.wrong", status=403)) == "claim_refused"
    assert world.ask("GET", "/v1/devices") == {"devices": []}


def test_an_expired_claim_is_refused(world: RegistryWorld) -> None:
    claim = world.claim(expires_s=60)
    world.clock.forward(61)
    assert "expired" in enrol(world, "camera-7", claim, status=403)["error"]["message"]


def test_a_claim_is_used_up(world: RegistryWorld) -> None:
    claim = world.claim(uses=2)
    enrol(world, "a", claim)
    enrol(world, "b", claim)
    assert "used up" in enrol(world, "c", claim, status=403)["error"]["message"]


def test_a_claim_for_one_device_is_good_for_no_other(world: RegistryWorld) -> None:
    claim = world.claim(device="camera-7")
    assert "not for a device named" in enrol(world, "camera-8", claim, status=403)["error"]["message"]
    enrol(world, "camera-7", claim)


def test_a_name_that_breaks_the_rule_is_refused_and_costs_no_use(world: RegistryWorld) -> None:
    claim = world.claim()
    for name in ("", "Camera", "a b", "../x", "a/b", "a.b", "central.edgeward", "-a", "x" * 64, "+", "#", "é"):
        assert code(enrol(world, name, claim, status=400)) == "invalid_name"
    enrol(world, "good", claim)


@pytest.mark.parametrize("name", ["all", "central"])
def test_reserved_names_are_refused(world: RegistryWorld, name: str) -> None:
    assert code(enrol(world, name, world.claim(), status=400)) == "invalid_request"
    assert code(world.ask("POST", "/v1/claims", status=400, json={"device": name})) == "invalid_request"


def test_a_second_device_cannot_take_a_name(world: RegistryWorld) -> None:
    claim = world.claim(uses=2)
    enrol(world, "camera-7", claim)
    assert code(enrol(world, "camera-7", claim, status=409)) == "device_name_taken"


def test_a_claim_that_allows_it_replaces_a_device(world: RegistryWorld) -> None:
    enrol(world, "camera-7", world.claim())
    enrol(world, "camera-7", world.claim(replace=True, device="camera-7"))
    assert len(world.ask("GET", "/v1/devices")["devices"]) == 1


def test_a_device_that_lost_the_answer_may_ask_again_and_is_counted_once(world: RegistryWorld) -> None:
    claim, csr = world.claim(uses=2), request_pem(ec.generate_private_key(ec.SECP256R1()))
    first, again = (enrol(world, "camera-7", claim, csr) for _ in range(2))
    assert first["certificate"] != again["certificate"]
    enrol(world, "other", claim)
    assert enrol(world, "camera-7", claim, csr)["device"] == "camera-7"
    assert "used up" in enrol(world, "third", claim, status=403)["error"]["message"]


def test_a_device_with_its_old_key_and_a_new_claim_is_the_same_device(world: RegistryWorld) -> None:
    csr = request_pem(ec.generate_private_key(ec.SECP256R1()))
    enrol(world, "camera-7", world.claim(), csr)
    enrol(world, "camera-7", world.claim(), csr)


def test_what_is_no_certificate_request_is_refused_and_costs_no_use(world: RegistryWorld) -> None:
    claim = world.claim()
    empty = "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"
    for csr in ("", "x", empty, "\x00" * 100):
        body = {"device": "camera-7", "claim": claim, "csr": csr}
        assert code(world.ask("POST", "/v1/enrolments", status=400, json=body)) == "invalid_request"
    enrol(world, "camera-7", claim)


def test_a_request_that_is_not_signed_by_its_own_key_is_refused(world: RegistryWorld) -> None:
    """Somebody else's public key in a request proves nothing."""
    whole = x509.load_pem_x509_csr(request_pem().encode()).public_bytes(Encoding.DER)
    forged = whole[:-1] + bytes([whole[-1] ^ 1])
    pem = x509.load_der_x509_csr(forged).public_bytes(Encoding.PEM).decode()
    assert "not signed by its own key" in enrol(world, "camera-7", world.claim(), pem, status=400)["error"]["message"]


def test_ed25519_and_rsa_keys_are_accepted(world: RegistryWorld) -> None:
    claim = world.claim(uses=2)
    made = rsa.generate_private_key(65537, 2048)
    enrol(world, "rsa", claim, request_pem(made))
    shown = world.client.post(
        "/v1/enrolments", json={"device": "ed", "claim": claim, "csr": ed25519_request(ed25519.Ed25519PrivateKey.generate())}
    )
    assert shown.status_code == 201, shown.text


def ed25519_request(key: ed25519.Ed25519PrivateKey) -> str:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ed")])
    made = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, None)
    return made.public_bytes(Encoding.PEM).decode()


def test_weak_and_strange_keys_are_refused(world: RegistryWorld) -> None:
    for key in (rsa.generate_private_key(65537, 1024), ec.generate_private_key(ec.SECP256K1())):
        refused = enrol(world, "weak", world.claim(), request_pem(key), status=400)
        assert "no accepted kind" in refused["error"]["message"]


def test_guessing_claims_is_slowed_down_for_the_guesser(world: RegistryWorld) -> None:
    claim, csr = world.claim(), request_pem()
    for _ in range(10):
        enrol(world, "guesser", "ew1.guess", csr, status=403)
    assert code(enrol(world, "guesser", claim, csr, status=429)) == "too_many_attempts"
    world.clock.forward(10)
    enrol(world, "guesser", claim, csr)


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{", b'{"device": 1}', b'{"device":"a","claim":"b","csr":"c","more":1}', b"\xff"]
)
def test_a_body_that_cannot_be_read_is_refused(world: RegistryWorld, body: bytes) -> None:
    assert code(world.ask("POST", "/v1/enrolments", status=400, content=body)) == "malformed"


def test_a_body_that_is_too_large_is_not_read(world: RegistryWorld) -> None:
    assert code(world.ask("POST", "/v1/enrolments", status=413, content=b"x" * 100_000)) == "too_large"


def test_a_claim_that_makes_no_sense_is_not_made(world: RegistryWorld) -> None:
    absurd = [{"uses": 0}, {"uses": -1}, {"uses": 10**9}, {"expires_s": 0}, {"expires_s": 10**12}, {"device": "Bad Name"}]
    for claim in absurd:
        world.ask("POST", "/v1/claims", status=400, json=claim)
    assert world.ask("GET", "/v1/audit") == {"entries": []}


def test_every_enrolment_and_claim_stands_in_the_audit_log(world: RegistryWorld) -> None:
    enrol(world, "camera-7", world.claim())
    entries = world.ask("GET", "/v1/audit")["entries"]
    assert [(each["actor"], each["action"], each["subject"]) for each in entries] == [
        ("claim 1", "enrol", "camera-7"),
        ("operator", "create_claim", "claim 1"),
    ]


def test_the_authoritys_key_never_leaves(world: RegistryWorld) -> None:
    key = world.layout.authority_key.read_bytes()
    load_pem_private_key(key, None)
    granted = enrol(world, "camera-7", world.claim())
    assert "PRIVATE" not in str(granted)


def renew(world: RegistryWorld, device: str, csr: str, *, status: int = 201) -> Any:
    answer = world.client.post("/v1/renewals", json={"device": device, "csr": csr}, headers={"authorization": ""})
    assert answer.status_code == status, answer.text
    return answer.json()


def test_the_key_of_a_device_gets_the_next_certificate_without_a_claim(world: RegistryWorld) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    first = enrol(world, "camera-7", world.claim(), request_pem(key))
    world.clock.forward(250 * DAY)
    renewed = renew(world, "camera-7", request_pem(key))
    certificate = x509.load_pem_x509_certificate(renewed["certificate"].encode())
    assert certificate.public_key() == key.public_key()
    assert certificate.subject.rfc4514_string() == "CN=camera-7"
    assert renewed["expires"] > first["expires"]
    assert world.ask("GET", "/v1/devices/camera-7")["certificate_expires"] == renewed["expires"]


def test_no_other_key_and_no_stranger_gets_a_certificate(world: RegistryWorld) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    enrol(world, "camera-7", world.claim(), request_pem(key))
    assert code(renew(world, "camera-7", request_pem(), status=403)) == "renewal_refused"
    assert code(renew(world, "camera-8", request_pem(key), status=403)) == "renewal_refused"


def test_the_former_key_of_a_replaced_device_is_not_renewed(world: RegistryWorld) -> None:
    former = ec.generate_private_key(ec.SECP256R1())
    enrol(world, "camera-7", world.claim(), request_pem(former))
    enrol(world, "camera-7", world.claim(replace=True), request_pem())
    assert code(renew(world, "camera-7", request_pem(former), status=403)) == "renewal_refused"


def test_a_request_that_is_sent_again_and_again_gets_no_more_certificates(world: RegistryWorld) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    enrol(world, "camera-7", world.claim(), request_pem(key))
    for _ in range(RENEWALS):
        renew(world, "camera-7", request_pem(key))
    assert code(renew(world, "camera-7", request_pem(key), status=429)) == "too_many_attempts"
    world.clock.forward(3600)
    renew(world, "camera-7", request_pem(key))
