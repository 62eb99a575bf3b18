"""Keeps what was trained until the bundle is there, so that a command that was stopped does not train the same again.

One file for each recipe, written whole or not at all, in a directory beside the bundle to be. A file about anything else than
what is asked for, or a damaged one, is as if it were not there.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import msgspec
import onnx
from google.protobuf.message import DecodeError

from converters.trained import Trained
from fleet_io.durable import make_directory, write_bytes
from fleet_io.errors import BundleUnwritable
from fleet_protocol.digests import digest_of


class _Head(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    about: str
    digest: str
    note: str
    choices: Mapping[str, str]
    integers_only: bool


class Shelf:
    """What was trained for one bundle. `out` is where the bundle will lie."""

    def __init__(self, out: Path) -> None:
        self.directory = out.parent / f".{out.name}.compress"

    def find(self, name: str, about: str) -> Trained | None:
        """What was trained under that name from exactly these things, or None."""
        try:
            head, _, content = (self.directory / name).read_bytes().partition(b"\n")
            told = msgspec.json.decode(head, type=_Head)
            if told.about != about or told.digest != digest_of(content):
                return None
            model = onnx.load_model_from_string(content)
        except (OSError, msgspec.DecodeError, DecodeError):
            return None
        return Trained(name=name, choices=told.choices, model=model, note=told.note, integers_only=told.integers_only)

    def put(self, trained: Trained, about: str) -> None:
        """Remember it durably. Raises `BundleUnwritable`."""
        assert trained.model is not None
        content = trained.model.SerializeToString(deterministic=True)
        head = _Head(about, digest_of(content), trained.note, dict(trained.choices), trained.integers_only)
        try:
            make_directory(self.directory)
            write_bytes(self.directory / trained.name, msgspec.json.encode(head) + b"\n" + content)
        except OSError as error:
            raise BundleUnwritable(
                f"{self.directory}, which keeps what was trained, cannot be written: {error.strerror or error}. Free space "
                "there."
            ) from error

    def remove(self) -> None:
        """Forget it all: the bundle is there."""
        shutil.rmtree(self.directory, ignore_errors=True)
