"""How a device gets its identity: claim token → authority checked by its hash → certificate request → identity on disk.

The key is made on the device and never leaves it. Each step is kept before the next, so an enrolment that was interrupted
goes on, and one that is done is not done again. Before its certificate ends, the key gets the next one (`renew`).
"""

from __future__ import annotations

import hashlib
import re
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import httpx
import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from device_agent import identity
from device_agent.errors import ClaimRefused, EnrolmentFailed, NotEnrolled, ServerUnreachable, WrongAuthority
from device_agent.identity import Enrolled, Granted, Record, Renewed
from fleet_io import durable
from fleet_protocol import limits

T = TypeVar("T")

TIMEOUT_S: Final = 15.0
ANSWER_BYTES: Final = limits.MIB
_CLAIM = re.compile(r"ew1\.([0-9a-f]{64})\.([A-Za-z0-9_-]{8,200})\Z")


@dataclass(frozen=True, slots=True)
class Claim:
    """The operator's token: the SHA-256 (hex) of the fleet's authority, and a secret for one enrolment."""

    authority_sha256: str
    secret: str


def parse_claim(token: str) -> Claim:
    """Raises `ClaimRefused` when the text is no claim token."""
    match = _CLAIM.match(token.strip())
    if match is None:
        raise ClaimRefused(
            "This is not a claim token. It looks like ew1.<64 hex digits>.<secret>; `edgeward claim create` makes one."
        )
    return Claim(match[1], match[2])


def enrol(directory: Path, device: str, *, server: str, claim: str) -> Enrolled:
    """Get an identity, or return the one that is there. Raises `EnrolmentFailed`."""
    there = identity.load(durable.make_directory(directory, mode=0o700), device)
    if there is not None:
        return there
    if not server or not claim:
        raise NotEnrolled(
            f"{device} has no identity in {directory} yet. Give --server and --claim once; "
            "`edgeward claim create` makes the token."
        )
    if not server.startswith("https://"):
        raise EnrolmentFailed(
            f"--server {server!r} is not https://host:port; the claim is a secret and travels only encrypted."
        )
    parsed = parse_claim(claim)
    authority = fetch_authority(server, parsed)
    key = _own_key(directory / identity.KEY_FILE)
    body = {"device": device, "claim": claim.strip(), "csr": _request(key, device)}
    granted = _ask(server, authority, "/v1/enrolments", body, Granted)
    _check_certificate(granted.certificate, key, device)
    _check_director_key(granted)
    trusted = msgspec.structs.replace(granted, authority=authority)
    return identity.keep(directory, Record(device=device, server=server, granted=trusted))


def renew(enrolled: Enrolled, *, server: str) -> None:
    """Put the next certificate of the device's key in the place of the one that is there.

    Raises `EnrolmentFailed` or `OSError`; then the old one stands.
    """
    key = identity.read_key(enrolled.identity.key)
    authority = enrolled.identity.authority.read_text(encoding="ascii")
    body = {"device": enrolled.device, "csr": _request(key, enrolled.device)}
    renewed = _ask(server, authority, "/v1/renewals", body, Renewed)
    _check_certificate(renewed.certificate, key, enrolled.device)
    durable.write_bytes(enrolled.identity.certificate, renewed.certificate.encode())


def fetch_authority(server: str, claim: Claim) -> str:
    """The authority's certificate (PEM), trusted because its hash is in the claim. Raises `EnrolmentFailed`."""
    with httpx.Client(verify=False, timeout=TIMEOUT_S, trust_env=False) as client:  # noqa: S501 - checked by hash below
        answer = _call(client, "GET", server, "/v1/authority")
    try:
        certificate = x509.load_pem_x509_certificate(answer.content)
    except ValueError as error:
        raise EnrolmentFailed(f"{server} does not answer as an Edgeward registry does. Check the address.") from error
    if hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest() != claim.authority_sha256:
        raise WrongAuthority(
            f"{server} shows another certificate authority than the claim names. It is not the server that gave the claim: "
            "check the address, or ask the operator for a new claim."
        )
    # Only this certificate: the answer could hold another one behind it, which no claim has named.
    return certificate.public_bytes(Encoding.PEM).decode()


def _ask(server: str, authority: str, path: str, body: dict[str, str], kind: type[T]) -> T:
    context = ssl.create_default_context(cadata=authority)
    with httpx.Client(verify=context, timeout=TIMEOUT_S, trust_env=False) as client:
        answer = _call(client, "POST", server, path, body)
    if answer.is_success:
        try:
            return msgspec.json.decode(answer.content, type=kind)
        except msgspec.DecodeError as error:
            raise EnrolmentFailed(f"{server} gave an identity that cannot be read: {error}") from error
    message = _message_of(answer)
    if answer.status_code in (400, 401, 403, 404, 409, 410, 422):
        raise (ClaimRefused if "claim" in body else EnrolmentFailed)(f"{server} refused: {message}")
    raise EnrolmentFailed(f"{server} could not give this device a certificate: {message}")


def _call(client: httpx.Client, method: str, server: str, path: str, body: dict[str, str] | None = None) -> httpx.Response:
    """One request, and at most `ANSWER_BYTES` of its answer. Raises `EnrolmentFailed`."""
    try:
        with client.stream(method, server.rstrip("/") + path, json=body) as answer:
            content = b""
            for piece in answer.iter_bytes():
                content += piece
                if len(content) > ANSWER_BYTES:
                    raise EnrolmentFailed(f"{server} answers with more than {ANSWER_BYTES} bytes. Check the address.")
            return httpx.Response(answer.status_code, content=content)
    except (httpx.HTTPError, httpx.InvalidURL, ssl.SSLError) as error:
        raise ServerUnreachable(
            f"{server} cannot be reached: {error}. Check --server, and that the central side (`edgeward up`) runs."
        ) from error


def _message_of(answer: httpx.Response) -> str:
    try:
        error = answer.json()["error"]
        return f"{error['message']} {error.get('hint', '')}".strip()
    except (ValueError, KeyError, TypeError):
        return f"HTTP status {answer.status_code}"


def _own_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """The device's key: the one that is there, or a new one, kept before anybody hears of it."""
    if not path.exists():
        made = ec.generate_private_key(ec.SECP256R1())
        durable.write_bytes(path, made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), mode=0o600)
    return identity.read_key(path)


def _request(key: ec.EllipticCurvePrivateKey, device: str) -> str:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, device)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return request.public_bytes(Encoding.PEM).decode()


def _check_certificate(certificate: str, key: ec.EllipticCurvePrivateKey, device: str) -> None:
    """What was granted is for us; a mix-up must not be found out at the broker."""
    try:
        fits = identity.belongs(x509.load_pem_x509_certificate(certificate.encode()), key, device)
    except ValueError as error:
        raise EnrolmentFailed(f"the server gave a certificate that cannot be read: {error}") from error
    if not fits:
        raise EnrolmentFailed(f"the server gave a certificate that is not for {device}'s key")


def _check_director_key(granted: Granted) -> None:
    try:
        identity.director_key(granted)
    except (ValueError, KeyError, TypeError) as error:
        raise EnrolmentFailed(f"the server gave an identity that cannot be used: {error}") from error
