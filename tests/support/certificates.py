"""Certificates for tests: one authority, and identities of any name, as PEM files of a directory."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from fleet_io.clock import SystemClock
from fleet_io.mqtt import Identity
from model_registry import authority


class TestAuthority:
    """An authority whose files live in `directory`."""

    __test__ = False

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._now = SystemClock().now()
        self._authority = authority.create(self._now)
        self.certificate = directory / "authority.pem"
        self.certificate.write_bytes(self._authority.certificate)

    def server(self) -> Identity:
        """The broker's identity, for 127.0.0.1."""
        made = self._authority.issue_server(["localhost", "127.0.0.1"], self._now)
        return self._written("server", made.certificate, made.key)

    def central(self) -> Identity:
        """The central side's identity."""
        made = self._authority.issue_central(self._now)
        return self._written("central", made.certificate, made.key)

    def device(self, name: str) -> Identity:
        """A device's identity: its name is the certificate's common name."""
        key = ec.generate_private_key(ec.SECP256R1())
        issued = self._authority.issue_device(name, key.public_key(), self._now, days=1)
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return self._written(name, issued.certificate, pem)

    def _written(self, name: str, certificate: bytes, key: bytes) -> Identity:
        paths = self._directory / f"{name}.pem", self._directory / f"{name}.key"
        for path, content in zip(paths, (certificate, key), strict=True):
            path.write_bytes(content)
        return Identity(self.certificate, *paths)
