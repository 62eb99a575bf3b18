"""The fleet's own X.509 authority: certificates for the broker and API, the central client, and every device.

Names in certificates are ours; from a device's request only its public key is taken, after the request has proved that the
device has the private key. All functions take `now` (epoch seconds); keys are EC P-256, files are the caller's.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from model_registry.errors import Damaged, InvalidRequest

CENTRAL_NAME: Final = "central.edgeward"
"""The central client's common name; its dot keeps every device from having it."""

AUTHORITY_LIFE: Final = timedelta(days=3650)
OWN_LIFE: Final = timedelta(days=397)
BACKDATED: Final = timedelta(hours=1)
"""A device whose clock is a little late must not refuse a fresh certificate."""

REQUEST_BYTES: Final = 16 * 1024
_SMALLEST_RSA: Final = 2048
_LARGEST_RSA: Final = 4096


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate for somebody else's key. `expires` is epoch seconds, `public_key` the key's SHA-256 hex (SPKI, DER)."""

    certificate: bytes
    serial: str
    expires: float
    public_key: str


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A certificate and its key, both PEM."""

    certificate: bytes
    key: bytes


class Authority:
    """Signs certificates. Made by `create` once and by `load` from then on."""

    def __init__(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self._certificate = certificate
        self._key = key

    @property
    def certificate(self) -> bytes:
        """The authority's certificate, PEM."""
        return self._certificate.public_bytes(Encoding.PEM)

    @property
    def fingerprint(self) -> str:
        """SHA-256 hex of the certificate's DER: what a claim token carries."""
        return hashlib.sha256(self._certificate.public_bytes(Encoding.DER)).hexdigest()

    def key_pem(self) -> bytes:
        """The private key, PEM."""
        return _key_pem(self._key)

    def issue_server(self, hosts: Sequence[str], now: float) -> KeyPair:
        """For the broker and the API, good for every host name and address in `hosts`."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = self._builder(hosts[0], key.public_key(), now, OWN_LIFE, ExtendedKeyUsageOID.SERVER_AUTH)
        builder = builder.add_extension(x509.SubjectAlternativeName([_general_name(host) for host in hosts]), critical=False)
        return KeyPair(self._sign(builder), _key_pem(key))

    def issue_central(self, now: float) -> KeyPair:
        """For the central side's own MQTT client."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = self._builder(CENTRAL_NAME, key.public_key(), now, OWN_LIFE, ExtendedKeyUsageOID.CLIENT_AUTH)
        return KeyPair(self._sign(builder), _key_pem(key))

    def issue_device(self, name: str, key: CertificatePublicKeyTypes, now: float, *, days: int) -> Issued:
        """A client certificate whose common name is the device's name, for `days` days."""
        builder = self._builder(name, key, now, timedelta(days=days), ExtendedKeyUsageOID.CLIENT_AUTH)
        made = builder.sign(self._key, hashes.SHA256())
        return Issued(
            certificate=made.public_bytes(Encoding.PEM),
            serial=f"{made.serial_number:x}",
            expires=made.not_valid_after_utc.timestamp(),
            public_key=key_fingerprint(key),
        )

    def _builder(
        self, name: str, key: CertificatePublicKeyTypes, now: float, life: timedelta, usage: x509.ObjectIdentifier
    ) -> x509.CertificateBuilder:
        return (
            _builder(name, key, now, life)
            .issuer_name(self._certificate.subject)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )

    def _sign(self, builder: x509.CertificateBuilder) -> bytes:
        return builder.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM)


def create(now: float) -> Authority:
    """A new authority with a new key."""
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _builder("Edgeward fleet authority", key.public_key(), now, AUTHORITY_LIFE)
    certificate = (
        builder.issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Edgeward fleet authority")]))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    return Authority(certificate, key)


def load(certificate: bytes, key: bytes) -> Authority:
    """The authority from its two PEM files. Raises `Damaged`."""
    try:
        loaded = x509.load_pem_x509_certificate(certificate)
        private = load_pem_private_key(key, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise Damaged(f"The fleet's authority cannot be read: {error}.", "Restore it from its copy.") from error
    if not isinstance(private, ec.EllipticCurvePrivateKey) or loaded.public_key() != private.public_key():
        raise Damaged("The authority's key does not belong to its certificate.", "Restore both from one copy.")
    return Authority(loaded, private)


def requested_key(request: bytes) -> CertificatePublicKeyTypes:
    """The public key of a certificate signing request (PEM) that proves to have the private key. Raises `InvalidRequest`."""
    if len(request) > REQUEST_BYTES:
        raise InvalidRequest(f"The certificate request has {len(request)} bytes; at most {REQUEST_BYTES} are read.")
    try:
        parsed = x509.load_pem_x509_csr(request)
        key, proved = parsed.public_key(), parsed.is_signature_valid
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InvalidRequest(f"The certificate request cannot be read: {error}.", "Send a PKCS#10 request as PEM.") from error
    if not proved:
        raise InvalidRequest("The certificate request is not signed by its own key.")
    if isinstance(key, ed25519.Ed25519PublicKey) or (
        isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, (ec.SECP256R1, ec.SECP384R1))
    ):
        return key
    if isinstance(key, rsa.RSAPublicKey) and _SMALLEST_RSA <= key.key_size <= _LARGEST_RSA:
        return key
    raise InvalidRequest(
        "The certificate request has a key of no accepted kind.", "Use EC P-256 or P-384, Ed25519, or RSA of 2048 to 4096 bits."
    )


def key_fingerprint(key: CertificatePublicKeyTypes) -> str:
    """SHA-256 hex of the public key (SPKI, DER)."""
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def needs_renewal(pair: KeyPair, hosts: Sequence[str], now: float) -> bool:
    """Whether a pair of our own is damaged, past two thirds of its life, or misses one of `hosts`."""
    try:
        loaded = x509.load_pem_x509_certificate(pair.certificate)
        fits = loaded.public_key() == load_pem_private_key(pair.key, password=None).public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return True
    if not fits:
        return True
    left = loaded.not_valid_after_utc.timestamp() - now
    if left < OWN_LIFE.total_seconds() / 3:
        return True
    if not hosts:
        return False
    names = loaded.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return not {_general_name(host) for host in hosts} <= set(names)


def _builder(name: str, key: CertificatePublicKeyTypes, now: float, life: timedelta) -> x509.CertificateBuilder:
    start = datetime.fromtimestamp(now, UTC).replace(microsecond=0)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])]))
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start - BACKDATED)
        .not_valid_after(start + life)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
