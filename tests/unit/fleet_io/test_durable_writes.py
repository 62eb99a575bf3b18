"""The durable-write recipe: old or new, never half, whatever fails and whenever the process is killed."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from fleet_io import durable
from tests.support.waiting import until


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_a_write_makes_the_file_with_its_content_and_mode(tmp_path: Path) -> None:
    durable.write_bytes(tmp_path / "key", b"secret", mode=0o600)
    assert (tmp_path / "key").read_bytes() == b"secret"
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    assert names(tmp_path) == ["key"]


def test_a_block_that_fails_leaves_the_old_content_and_nothing_else(tmp_path: Path) -> None:
    durable.write_bytes(tmp_path / "file", b"old")
    with contextlib.suppress(LookupError), durable.replacing(tmp_path / "file") as file:
        file.write(b"half of the n")
        file.flush()
        assert (tmp_path / "file").read_bytes() == b"old", "until the end, a reader sees the old content"
        raise LookupError
    assert (tmp_path / "file").read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


FILLS_THE_DISK = """
import resource, signal, sys
from pathlib import Path
from fleet_io import durable
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    durable.write_bytes(Path(sys.argv[1]), b"new" * 1000)
except OSError as error:
    print(error.errno)
"""


def test_a_disk_that_is_full_half_way_leaves_the_old_content_and_nothing_else(tmp_path: Path) -> None:
    """A limit on file size stands for the full disk: the write really fails in the middle."""
    durable.write_bytes(tmp_path / "file", b"old")
    ended = subprocess.run(
        [sys.executable, "-c", FILLS_THE_DISK, str(tmp_path / "file")], capture_output=True, text=True, timeout=30
    )
    assert ended.stdout.strip() == str(27), f"EFBIG was expected: {ended.stderr}"
    assert (tmp_path / "file").read_bytes() == b"old"
    assert names(tmp_path) == ["file"]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 1000


WRITES_AND_HANGS = """
import sys
from pathlib import Path
from fleet_io import durable
with durable.replacing(Path(sys.argv[1])) as file:
    file.write(b"half")
    file.flush()
    print("ready", flush=True)
    sys.stdin.read()
"""


def test_a_killed_write_leaves_the_old_content_and_a_leftover_that_is_swept_up(tmp_path: Path) -> None:
    durable.write_bytes(tmp_path / "file", b"old")
    with subprocess.Popen(
        [sys.executable, "-c", WRITES_AND_HANGS, str(tmp_path / "file")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGKILL)
    assert (tmp_path / "file").read_bytes() == b"old"
    assert len(names(tmp_path)) == 2
    durable.remove_leftovers(tmp_path)
    assert names(tmp_path) == ["file"]


REWRITES_FOREVER = """
import itertools, sys
from pathlib import Path
from fleet_io import durable
for number in itertools.count():
    durable.write_bytes(Path(sys.argv[1]), (b"%d " % number) * 2000)
"""


def test_a_reader_beside_a_busy_writer_never_sees_half_of_a_file(tmp_path: Path) -> None:
    target = tmp_path / "file"
    with subprocess.Popen([sys.executable, "-c", REWRITES_FOREVER, str(target)]) as process:
        until(target.exists, "the first write is there")
        seen = set()
        for _ in range(300):
            words = target.read_bytes().split()
            assert len(words) == 2000
            assert len(set(words)) == 1
            seen.add(words[0])
        process.kill()
    assert len(set(target.read_bytes().split())) == 1


def test_a_directory_that_is_not_there_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        durable.write_bytes(tmp_path / "absent" / "file", b"x")


def test_every_missing_directory_is_made_with_the_mode(tmp_path: Path) -> None:
    mask = os.umask(0)
    try:
        made = durable.make_directory(tmp_path / "a" / "b", mode=0o700)
    finally:
        os.umask(mask)
    for path in (made, made.parent):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert durable.make_directory(made) == made
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(FileExistsError):
        durable.make_directory(tmp_path / "file")
