"""Signing keys as PEM files (PKCS#8, ed25519), readable by their owner only. Formats and key ids are securesystemslib's."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from securesystemslib.signer import CryptoSigner

from fleet_io import durable
from model_registry.errors import KeysMissing

ROOT_KEYS: Final = ("root-1", "root-2", "root-3")
OFFLINE: Final = (*ROOT_KEYS, "targets", "publisher")
ONLINE: Final = ("snapshot", "timestamp", "director")

OFFLINE_README: Final = """\
These keys decide what every device of the fleet believes. They do not belong on this machine for long.

root-1.pem, root-2.pem, root-3.pem   Two of three sign a new root: they replace every other key. Move each to a
                                     place of its own, offline, and keep a copy.
targets.pem                          Signs which key may publish which model. Needed when a model is new.
publisher.pem                        Signs releases. Needed by `edgeward publish`; move it to the build machine.
root.json                            Not a secret: the first root, from which a publisher verifies all else.

`edgeward publish --keys DIR` reads targets.pem, publisher.pem and root.json from DIR. The registry itself needs none of
the keys in this directory: whoever steals it can stop releases, and cannot forge one.
"""


def create(directory: Path, names: tuple[str, ...]) -> dict[str, CryptoSigner]:
    """Load the named keys, making those that are not there."""
    return {name: _create_one(directory / f"{name}.pem") for name in names}


def load(path: Path) -> CryptoSigner:
    """The key in `path`. Raises `KeysMissing`."""
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except FileNotFoundError as error:
        raise KeysMissing(f"There is no key {path}.", "Name the directory that has it.") from error
    except (OSError, ValueError, TypeError) as error:
        raise KeysMissing(f"{path} cannot be read as a key: {error}.", "Restore it from its copy.") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise KeysMissing(f"{path} is not an ed25519 key.", "Restore it from its copy.")
    return CryptoSigner(key)


def _create_one(path: Path) -> CryptoSigner:
    if not path.exists():
        durable.write_bytes(path, CryptoSigner.generate_ed25519().private_bytes, mode=0o600)
    return load(path)
