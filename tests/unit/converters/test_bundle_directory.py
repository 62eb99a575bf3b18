"""Bundles on disk: whole or not at all, and opened only when nothing was changed."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fleet_io.bundle_directory import open_bundle, write_bundle
from fleet_io.durable import TEMPORARY_PREFIX
from fleet_io.errors import BundleDamaged, BundleExists, BundleUnwritable
from fleet_protocol.digests import digest_of
from fleet_protocol.manifest import MANIFEST_FILE, encode_manifest
from tests.support.bundles import CONTENTS, bundle_of


def test_a_bundle_is_written_and_opened_again(tmp_path: Path) -> None:
    manifest, files = bundle_of(tmp_path, CONTENTS)
    written = write_bundle(tmp_path / "b", manifest, files, notes={"parity.html": b"<p>"})
    opened = open_bundle(tmp_path / "b")
    assert opened == written
    assert opened.digest == digest_of(encode_manifest(manifest))
    assert opened.path(manifest.golden.file).read_bytes() == b"golden"
    assert [path.name for path in opened.notes()] == ["parity.html"]
    assert (tmp_path / "b").stat().st_mode & 0o777 == 0o755


def test_missing_parents_are_made(tmp_path: Path) -> None:
    manifest, files = bundle_of(tmp_path, CONTENTS)
    assert write_bundle(tmp_path / "x" / "y" / "b", manifest, files).manifest == manifest


def test_writing_the_same_bundle_again_changes_nothing(tmp_path: Path) -> None:
    manifest, files = bundle_of(tmp_path, CONTENTS)
    write_bundle(tmp_path / "b", manifest, files)
    before = (tmp_path / "b" / MANIFEST_FILE).stat().st_ino
    write_bundle(tmp_path / "b", manifest, files)
    assert (tmp_path / "b" / MANIFEST_FILE).stat().st_ino == before
    assert leftovers(tmp_path) == []


def test_another_bundle_is_never_overwritten(tmp_path: Path) -> None:
    manifest, files = bundle_of(tmp_path, CONTENTS)
    first = write_bundle(tmp_path / "b", manifest, files)
    other, other_files = bundle_of(tmp_path, CONTENTS | {"golden.npz": b"other"})
    with pytest.raises(BundleExists, match="already exists"):
        write_bundle(tmp_path / "b", other, other_files)
    assert open_bundle(tmp_path / "b").digest == first.digest
    assert leftovers(tmp_path) == []


def test_a_directory_with_other_files_is_left_alone(tmp_path: Path) -> None:
    manifest, files = bundle_of(tmp_path, CONTENTS)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.txt").write_text("precious")
    with pytest.raises(BundleExists):
        write_bundle(tmp_path / "b", manifest, files)
    assert (tmp_path / "b" / "thesis.txt").read_text() == "precious"


def test_a_file_in_the_place_is_left_alone(tmp_path: Path) -> None:
    manifest, files = bundle_of(tmp_path, CONTENTS)
    (tmp_path / "b").write_text("precious")
    with pytest.raises(BundleExists):
        write_bundle(tmp_path / "b", manifest, files)
    assert (tmp_path / "b").read_text() == "precious"


def test_an_empty_directory_in_the_place_is_used(tmp_path: Path) -> None:
    manifest, files = bundle_of(tmp_path, CONTENTS)
    (tmp_path / "b").mkdir()
    assert write_bundle(tmp_path / "b", manifest, files).manifest == manifest


def test_a_place_below_a_file_is_refused(tmp_path: Path) -> None:
    manifest, files = bundle_of(tmp_path, CONTENTS)
    (tmp_path / "file").touch()
    with pytest.raises(BundleUnwritable, match="cannot be written"):
        write_bundle(tmp_path / "file" / "b", manifest, files)


def test_content_that_does_not_match_its_descriptor_is_not_written(tmp_path: Path) -> None:
    manifest, files = bundle_of(tmp_path, CONTENTS)
    files["golden.npz"].write_bytes(b"golden!")
    with pytest.raises(BundleDamaged, match=r"golden\.npz was changed"):
        write_bundle(tmp_path / "b", manifest, files)
    assert not (tmp_path / "b").exists()
    assert leftovers(tmp_path) == []


def leftovers(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir() if path.name.startswith(TEMPORARY_PREFIX)]


def run_child(code: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).parents[3]
    lines = (
        "import os, resource, signal, sys",
        "from pathlib import Path",
        "from fleet_io.bundle_directory import write_bundle",
        "from fleet_io.errors import BundleUnwritable",
        "from tests.support.bundles import CONTENTS, bundle_of",
        f"work = Path({str(tmp_path)!r})",
        "manifest, files = bundle_of(work, CONTENTS)",
        code,
    )
    return subprocess.run([sys.executable, "-c", "\n".join(lines)], cwd=root, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("at", list(CONTENTS))
def test_a_kill_while_writing_leaves_nothing_that_looks_like_a_bundle(tmp_path: Path, at: str) -> None:
    code = f"""
class Killer(dict):
    def __getitem__(self, name):
        if name == {at!r}:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(name)
write_bundle(work / "b", manifest, Killer(files))
"""
    assert run_child(code, tmp_path).returncode == -signal.SIGKILL
    assert not (tmp_path / "b").exists()
    for name in leftovers(tmp_path):
        with pytest.raises(BundleDamaged):
            open_bundle(tmp_path / name)
    manifest, files = bundle_of(tmp_path, CONTENTS)
    assert write_bundle(tmp_path / "b", manifest, files).manifest == manifest


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    code = """
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    write_bundle(work / "b", manifest, files)
except BundleUnwritable as error:
    print(error)
"""
    done = run_child(code, tmp_path)
    assert "cannot be written: File too large. Nothing was left behind." in done.stdout, done.stderr
    assert not (tmp_path / "b").exists()
    assert leftovers(tmp_path) == []


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(BundleDamaged, match="does not exist"):
        open_bundle(tmp_path / "b")


def test_a_file_is_no_bundle(tmp_path: Path) -> None:
    (tmp_path / "b").touch()
    with pytest.raises(BundleDamaged, match="is a file"):
        open_bundle(tmp_path / "b")


def test_a_directory_without_a_manifest_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleDamaged, match=r"has no manifest\.json"):
        open_bundle(tmp_path)


def test_a_garbled_manifest_is_refused(tmp_path: Path) -> None:
    manifest, files = bundle_of(tmp_path, CONTENTS)
    write_bundle(tmp_path / "b", manifest, files)
    (tmp_path / "b" / MANIFEST_FILE).write_text('{"schema": "edgeward.manifest/1"')
    with pytest.raises(BundleDamaged, match="is not a manifest"):
        open_bundle(tmp_path / "b")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    manifest, files = bundle_of(tmp_path, CONTENTS)
    write_bundle(tmp_path / "b", manifest, files)
    (tmp_path / "b" / "golden.npz").unlink()
    with pytest.raises(BundleDamaged, match=r"golden\.npz is missing"):
        open_bundle(tmp_path / "b")


def test_a_link_in_place_of_a_file_is_refused(tmp_path: Path) -> None:
    manifest, files = bundle_of(tmp_path, CONTENTS)
    write_bundle(tmp_path / "b", manifest, files)
    golden = tmp_path / "b" / "golden.npz"
    golden.unlink()
    golden.symlink_to(files["golden.npz"])
    with pytest.raises(BundleDamaged, match="not a plain file"):
        open_bundle(tmp_path / "b")


def test_a_chunk_list_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    manifest, files = bundle_of(tmp_path, CONTENTS, chunks=lambda right: bytes(len(right)))
    with pytest.raises(BundleDamaged, match="chunk list"):
        write_bundle(tmp_path / "b", manifest, files)


def test_a_change_of_the_same_length_is_told_with_both_digests(tmp_path: Path) -> None:
    manifest, files = bundle_of(tmp_path, CONTENTS)
    write_bundle(tmp_path / "b", manifest, files)
    (tmp_path / "b" / "golden.npz").write_bytes(b"goldem")
    with pytest.raises(BundleDamaged, match=f"digest is {digest_of(b'goldem')}, and the manifest names {digest_of(b'golden')}"):
        open_bundle(tmp_path / "b")
