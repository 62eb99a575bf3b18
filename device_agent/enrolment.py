"""How a device gets its identity: claim token → authority checked by its hash → certificate request → identity on disk.

The key is made on the device and never leaves it. Each step is kept before the next, so an enrolment that was interrupted
goes on, and one that is done is not done again.
"""

from __future__ import annotations

import hashlib
import re
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID
from securesystemslib.signer import Key

from device_agent.errors import ClaimRefused, EnrolmentFailed, NotEnrolled, ServerUnreachable, WrongAuthority
from fleet_io import durable
from fleet_io.mqtt import Broker, Identity

TIMEOUT_S: Final = 15.0
_CLAIM = re.compile(r"ew1\.([0-9a-f]{64})\.([A-Za-z0-9_-]{8,200})\Z")

_KEY: Final = "device.key.pem"
_AUTHORITY: Final = "authority.pem"
_CERTIFICATE: Final = "device.pem"
_RECORD: Final = "enrolment.json"


class BrokerAddress(msgspec.Struct, frozen=True, kw_only=True):
    """Where the fleet's broker listens."""

    host: str
    port: int


class Granted(msgspec.Struct, frozen=True, kw_only=True):
    """The server's answer to an enrolment: PEM texts, the TUF root and the director's public key as they were signed."""

    certificate: str
    authority: str
    tuf_root: str
    director_key: dict[str, Any]
    broker: BrokerAddress


class _Record(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept; written last, so its presence means that enrolment is done."""

    device: str
    server: str
    granted: Granted


@dataclass(frozen=True, slots=True)
class Enrolled:
    """A device's identity, as the other modules need it."""

    device: str
    server: str
    identity: Identity
    broker: Broker
    tuf_root: bytes
    director_key: Key


@dataclass(frozen=True, slots=True)
class Claim:
    """The operator's token: the SHA-256 (hex) of the fleet's authority, and a secret for one enrolment."""

    authority_sha256: str
    secret: str


def parse_claim(token: str) -> Claim:
    """Raises `ClaimRefused` when the text is no claim token."""
    match = _CLAIM.match(token.strip())
    if match is None:
        raise ClaimRefused("This is not a claim token. It looks like ew1.<64 hex digits>.<secret>; `edgeward claim` makes one.")
    return Claim(match[1], match[2])


def load(directory: Path, device: str) -> Enrolled | None:
    """The identity in `directory`; None when there is none yet. Raises `EnrolmentFailed` when it is another device's."""
    try:
        record = msgspec.json.decode((directory / _RECORD).read_bytes(), type=_Record)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        raise EnrolmentFailed(f"{directory / _RECORD} cannot be read ({error}). Remove it, and enrol again.") from error
    if record.device != device:
        raise EnrolmentFailed(
            f"{directory} belongs to the device {record.device}, not {device}. Use another state directory, or that name."
        )
    _check_files(directory, record)
    return _enrolled(directory, record)


def enrol(directory: Path, device: str, *, server: str, claim: str) -> Enrolled:
    """Get an identity, or return the one that is there. Raises `EnrolmentFailed`."""
    there = load(durable.make_directory(directory, mode=0o700), device)
    if there is not None:
        return there
    if not server or not claim:
        raise NotEnrolled(
            f"{device} has no identity in {directory} yet. Give --server and --claim once; `edgeward claim` makes the token."
        )
    parsed = parse_claim(claim)
    authority = _fetch_authority(server, parsed)
    key = _own_key(directory / _KEY)
    granted = _ask(server, authority, {"device": device, "claim": claim.strip(), "csr": _request(key, device)})
    _check(granted, key, device)
    durable.write_bytes(directory / _AUTHORITY, authority.encode())
    durable.write_bytes(directory / _CERTIFICATE, granted.certificate.encode())
    record = _Record(device=device, server=server, granted=granted)
    durable.write_bytes(directory / _RECORD, msgspec.json.encode(record), mode=0o600)
    return _enrolled(directory, record)


def _fetch_authority(server: str, claim: Claim) -> str:
    """The authority's certificate, trusted because its hash is in the claim."""
    with httpx.Client(verify=False, timeout=TIMEOUT_S, trust_env=False) as client:  # noqa: S501 - checked by hash below
        answer = _called(server, lambda: client.get(f"{server.rstrip('/')}/v1/authority"))
    try:
        der = x509.load_pem_x509_certificate(answer.content).public_bytes(Encoding.DER)
    except ValueError as error:
        raise EnrolmentFailed(f"{server} does not answer as an Edgeward registry does. Check the address.") from error
    if hashlib.sha256(der).hexdigest() != claim.authority_sha256:
        raise WrongAuthority(
            f"{server} shows another certificate authority than the claim names. It is not the server that gave the claim: "
            "check the address, or ask the operator for a new claim."
        )
    return answer.text


def _ask(server: str, authority: str, body: dict[str, str]) -> Granted:
    context = ssl.create_default_context(cadata=authority)
    with httpx.Client(verify=context, timeout=TIMEOUT_S, trust_env=False) as client:
        answer = _called(server, lambda: client.post(f"{server.rstrip('/')}/v1/enrolments", json=body))
    if answer.is_success:
        try:
            return msgspec.json.decode(answer.content, type=Granted)
        except msgspec.DecodeError as error:
            raise EnrolmentFailed(f"{server} gave an identity that cannot be read: {error}") from error
    message = _message_of(answer)
    if answer.status_code in (400, 401, 403, 404, 409, 410, 422):
        raise ClaimRefused(f"{server} refused the enrolment: {message}")
    raise EnrolmentFailed(f"{server} could not enrol this device: {message}")


def _called(server: str, call: Any) -> httpx.Response:  # noqa: ANN401 - a callable, narrowed by its result
    try:
        answer: httpx.Response = call()
        return answer
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
    return _read_key(path)


def _read_key(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        loaded = load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError) as error:
        raise EnrolmentFailed(f"{path} cannot be read as a key ({error}). Remove it, and enrol again.") from error
    if not isinstance(loaded, ec.EllipticCurvePrivateKey):
        raise EnrolmentFailed(f"{path} is not an EC key. Remove it, and enrol again.")
    return loaded


def _request(key: ec.EllipticCurvePrivateKey, device: str) -> str:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, device)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return request.public_bytes(Encoding.PEM).decode()


def _check(granted: Granted, key: ec.EllipticCurvePrivateKey, device: str) -> None:
    """What was granted is for us; a mix-up must not be found out at the broker."""
    try:
        certificate = x509.load_pem_x509_certificate(granted.certificate.encode())
        fits = _belongs(certificate, key, device)
        _director_key(granted)
    except (ValueError, KeyError, TypeError) as error:
        raise EnrolmentFailed(f"the server gave an identity that cannot be used: {error}") from error
    if not fits:
        raise EnrolmentFailed(f"the server gave a certificate that is not for {device}'s key")


def _check_files(directory: Path, record: _Record) -> None:
    """The certificate is this device's: the broker would take another's, and give us nothing."""
    try:
        certificate = x509.load_pem_x509_certificate((directory / _CERTIFICATE).read_bytes())
        fits = _belongs(certificate, _read_key(directory / _KEY), record.device)
    except (OSError, ValueError) as error:
        raise EnrolmentFailed(f"the identity in {directory} cannot be read ({error}). Remove it, and enrol again.") from error
    if not fits:
        raise EnrolmentFailed(
            f"{directory / _CERTIFICATE} is not {record.device}'s own certificate. Remove {directory}, and enrol again."
        )


def _belongs(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey, device: str) -> bool:
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return certificate.public_key() == key.public_key() and [name.value for name in names] == [device]


def _enrolled(directory: Path, record: _Record) -> Enrolled:
    granted = record.granted
    return Enrolled(
        device=record.device,
        server=record.server,
        identity=Identity(directory / _AUTHORITY, directory / _CERTIFICATE, directory / _KEY),
        broker=Broker(granted.broker.host, granted.broker.port),
        tuf_root=_root(granted),
        director_key=_director_key(granted),
    )


def _director_key(granted: Granted) -> Key:
    fields = dict(granted.director_key)
    return Key.from_dict(str(fields.pop("keyid")), fields)


def _root(granted: Granted) -> bytes:
    """The text as it was signed; `Updater` reads it, and says so when it is no root."""
    return granted.tuf_root.encode()
