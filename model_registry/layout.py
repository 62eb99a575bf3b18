"""Where the registry keeps what in its data directory. Paths only: nothing here opens a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fleet_io.mqtt import Identity


@dataclass(frozen=True, slots=True)
class Layout:
    """The data directory `root` of one central side."""

    root: Path

    @property
    def database(self) -> Path:
        """Releases, devices, rollouts, metadata, audit log."""
        return self.root / "registry.sqlite"

    @property
    def blobs(self) -> Path:
        """Content by digest."""
        return self.root / "blobs"

    @property
    def offline_keys(self) -> Path:
        """Keys that belong on other machines: the root's, the targets key and the publisher's."""
        return self.root / "keys" / "offline"

    @property
    def online_keys(self) -> Path:
        """Keys that this machine signs with: snapshot, timestamp, director."""
        return self.root / "keys" / "online"

    @property
    def certificates(self) -> Path:
        """The X.509 authority and what it issued to this machine."""
        return self.root / "certificates"

    @property
    def operator_token(self) -> Path:
        """The bearer token of the operator."""
        return self.root / "operator-token"

    @property
    def authority(self) -> Path:
        """The certificate that every program of the fleet trusts (PEM)."""
        return self.certificates / "authority.pem"

    @property
    def authority_key(self) -> Path:
        """The authority's key (PEM): whoever has it can be any device."""
        return self.certificates / "authority.key"

    def identity(self, name: str) -> Identity:
        """The certificate and key issued to a part of this machine: `server` or `central`."""
        return Identity(self.authority, self.certificates / f"{name}.pem", self.certificates / f"{name}.key")
