"""Who this device is: the files that enrolment left, checked each time they are read. No network here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import NameOID
from securesystemslib.signer import Key

from device_agent.errors import EnrolmentFailed
from fleet_io import durable
from fleet_io.mqtt import Broker, Identity

DIRECTORY: Final = "identity"
"""Under the state directory."""

KEY_FILE: Final = "device.key.pem"
AUTHORITY_FILE: Final = "authority.pem"
CERTIFICATE_FILE: Final = "device.pem"
RECORD_FILE: Final = "enrolment.json"


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


class Renewed(msgspec.Struct, frozen=True, kw_only=True):
    """The server's answer to a renewal: the next certificate, PEM."""

    certificate: str


class Record(msgspec.Struct, frozen=True, kw_only=True):
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


def load(directory: Path, device: str) -> Enrolled | None:
    """The identity in `directory`; None when there is none yet. Raises `EnrolmentFailed` when it is another device's."""
    try:
        record = msgspec.json.decode((directory / RECORD_FILE).read_bytes(), type=Record)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        raise EnrolmentFailed(f"{directory / RECORD_FILE} cannot be read ({error}). Remove it, and enrol again.") from error
    if record.device != device:
        raise EnrolmentFailed(
            f"{directory} belongs to the device {record.device}, not {device}. Use another state directory, or that name."
        )
    _check_files(directory, record)
    return _enrolled(directory, record)


def keep(directory: Path, record: Record) -> Enrolled:
    """Make an identity whose key is already here durable. Raises `OSError`."""
    durable.write_bytes(directory / AUTHORITY_FILE, record.granted.authority.encode())
    durable.write_bytes(directory / CERTIFICATE_FILE, record.granted.certificate.encode())
    durable.write_bytes(directory / RECORD_FILE, msgspec.json.encode(record), mode=0o600)
    return _enrolled(directory, record)


def read_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """The device's private key. Raises `EnrolmentFailed`, or `OSError` when it is not there."""
    try:
        loaded = load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError) as error:
        raise EnrolmentFailed(f"{path} cannot be read as a key ({error}). Remove it, and enrol again.") from error
    if not isinstance(loaded, ec.EllipticCurvePrivateKey):
        raise EnrolmentFailed(f"{path} is not an EC key. Remove it, and enrol again.")
    return loaded


def belongs(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey, device: str) -> bool:
    """Whether the certificate is for this key and names this device."""
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return certificate.public_key() == key.public_key() and [name.value for name in names] == [device]


def needs_renewal(enrolled: Enrolled, now: float) -> bool:
    """Whether the certificate is in the last third of its life, or past it (`now`: epoch seconds). Raises `EnrolmentFailed`."""
    try:
        certificate = x509.load_pem_x509_certificate(enrolled.identity.certificate.read_bytes())
    except (OSError, ValueError) as error:
        raise EnrolmentFailed(
            f"{enrolled.identity.certificate} cannot be read ({error}). Remove it, and enrol again."
        ) from error
    begins, ends = certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp()
    return ends - now < (ends - begins) / 3


def _check_files(directory: Path, record: Record) -> None:
    """The certificate is this device's: the broker would take another's, and give us nothing."""
    try:
        certificate = x509.load_pem_x509_certificate((directory / CERTIFICATE_FILE).read_bytes())
        fits = belongs(certificate, read_key(directory / KEY_FILE), record.device)
    except (OSError, ValueError) as error:
        raise EnrolmentFailed(f"the identity in {directory} cannot be read ({error}). Remove it, and enrol again.") from error
    if not fits:
        raise EnrolmentFailed(
            f"{directory / CERTIFICATE_FILE} is not {record.device}'s own certificate. Remove {directory}, and enrol again."
        )


def _enrolled(directory: Path, record: Record) -> Enrolled:
    granted = record.granted
    return Enrolled(
        device=record.device,
        server=record.server,
        identity=Identity(directory / AUTHORITY_FILE, directory / CERTIFICATE_FILE, directory / KEY_FILE),
        broker=Broker(granted.broker.host, granted.broker.port),
        tuf_root=_root(granted),
        director_key=director_key(granted),
    )


def director_key(granted: Granted) -> Key:
    """The key that signs desired states. Raises `KeyError`, `ValueError` or `TypeError` when it is none."""
    fields = dict(granted.director_key)
    return Key.from_dict(str(fields.pop("keyid")), fields)


def _root(granted: Granted) -> bytes:
    """The text as it was signed; `Updater` reads it, and says so when it is no root."""
    return granted.tuf_root.encode()
