"""Whatever is done to a bundle's files, it does not open; and what is written opens as it was."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet_io.bundle_directory import open_bundle, write_bundle
from fleet_io.errors import BundleDamaged
from tests.support.bundles import bundle_of

NAMES = ("variants/a.onnx", "golden.npz", "profile.json", "parity.json")

CONTENTS = st.fixed_dictionaries({name: st.binary(max_size=300) for name in NAMES})


@settings(max_examples=40, deadline=None)
@given(contents=CONTENTS)
def test_what_is_written_opens_as_it_was(contents: dict[str, bytes]) -> None:
    with tempfile.TemporaryDirectory() as name:
        manifest, files = bundle_of(Path(name), contents)
        write_bundle(Path(name) / "b", manifest, files)
        opened = open_bundle(Path(name) / "b")
        assert opened.manifest == manifest
        assert {each.path: opened.path(each).read_bytes() for each in manifest.files()} == contents


@settings(max_examples=80, deadline=None)
@given(contents=CONTENTS, name=st.sampled_from(NAMES), other=st.binary(max_size=300), data=st.data())
def test_any_other_content_is_noticed_and_the_file_named(
    contents: dict[str, bytes], name: str, other: bytes, data: st.DataObject
) -> None:
    original = contents[name]
    if original and data.draw(st.booleans(), label="flip one bit"):
        at = data.draw(st.integers(0, len(original) - 1))
        other = original[:at] + bytes([original[at] ^ (1 << data.draw(st.integers(0, 7)))]) + original[at + 1 :]
    if other == original:
        other = original + b"!"
    with tempfile.TemporaryDirectory() as folder:
        manifest, files = bundle_of(Path(folder), contents)
        write_bundle(Path(folder) / "b", manifest, files)
        (Path(folder) / "b" / name).write_bytes(other)
        with pytest.raises(BundleDamaged, match=Path(name).name.replace(".", r"\.") + " was changed"):
            open_bundle(Path(folder) / "b")


@settings(max_examples=100, deadline=None)
@given(content=st.binary(max_size=400))
def test_no_manifest_bytes_raise_anything_but_damage(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "manifest.json").write_bytes(content)
        with pytest.raises(BundleDamaged):
            open_bundle(Path(folder))
