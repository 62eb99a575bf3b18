"""One process for one directory: a second one is refused, and the lock ends with its process, however it ends."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fleet_io.errors import AlreadyOwned
from fleet_io.ownership import owning

OWNS = """
import sys
from pathlib import Path
from fleet_io.errors import AlreadyOwned
from fleet_io.ownership import owning
try:
    with owning(Path(sys.argv[1]), "test program"):
        print("owned", flush=True)
        sys.stdin.read()
except AlreadyOwned as error:
    print(error, flush=True)
"""


@contextmanager
def another(directory: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Another process that wants the directory, and the first line that it says."""
    arguments = [sys.executable, "-c", OWNS, str(directory)]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip(), process
        finally:
            process.kill()


def test_a_second_process_is_refused_and_told_what_to_do(tmp_path: Path) -> None:
    with owning(tmp_path, "test program"), another(tmp_path) as (said, _):
        assert said.startswith(f"{tmp_path} is in use by another test program. Stop that one first")


def test_a_second_owner_in_the_same_process_is_refused(tmp_path: Path) -> None:
    with owning(tmp_path, "test program"), pytest.raises(AlreadyOwned), owning(tmp_path, "test program"):
        pass


def test_the_directory_is_free_when_the_block_ends_well_or_badly(tmp_path: Path) -> None:
    with pytest.raises(LookupError), owning(tmp_path / "new", "test program"):
        raise LookupError
    with owning(tmp_path / "new", "test program"):
        pass
    with another(tmp_path / "new") as (said, _):
        assert said == "owned"


def test_the_directory_is_free_when_its_owner_was_killed(tmp_path: Path) -> None:
    with another(tmp_path) as (said, process):
        assert said == "owned"
        with pytest.raises(AlreadyOwned), owning(tmp_path, "test program"):
            pass
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        with owning(tmp_path, "test program"):
            pass


def test_two_directories_have_two_owners(tmp_path: Path) -> None:
    with owning(tmp_path / "a", "test program"), another(tmp_path / "b") as (said, _):
        assert said == "owned"
