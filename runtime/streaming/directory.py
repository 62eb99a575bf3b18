"""A directory whose new files are items, each once it is complete, and what was done remembered over a restart.

A file is complete when its size and time of change stay the same between two looks; names that begin with a dot or end with
`.part` or `.tmp` are left alone, so whoever can should write there and rename. Files are taken in the order of their change.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from fleet_io import durable
from runtime.errors import StreamBroken
from runtime.streaming.places import Item

LOOK_EVERY_S: Final = 0.5
_UNFINISHED: Final = (".part", ".tmp", ".crdownload", ".swp")


class Mark(NamedTuple):
    """What tells one version of a file from another."""

    size: int
    changed_ns: int


class _Line(msgspec.Struct, frozen=True):
    name: str
    mark: tuple[int, int]


class Seen:
    """The files that are done, in a file of JSON lines; a line that a crash cut short is left out, and its file done again."""

    def __init__(self, path: Path) -> None:
        """Raises `StreamBroken` where the file cannot be read or written."""
        self._path = path
        try:
            self._marks = dict(_remembered(path)) if path.exists() else {}
            self._rewrite()
        except OSError as error:
            raise StreamBroken(f"{path} cannot be kept: {error.strerror or error}. Choose another place for it.") from error
        self._writing = threading.Lock()

    def has(self, name: str, mark: Mark) -> bool:
        """Whether this version of that file is done."""
        return self._marks.get(name) == mark

    def add(self, name: str, mark: Mark) -> None:
        """It is done, durably. Raises `StreamBroken`."""
        with self._writing:
            self._marks[name] = mark
            try:
                with self._path.open("ab") as file:
                    file.write(_encoded(name, mark))
                    file.flush()
                    os.fsync(file.fileno())
            except OSError as error:
                raise StreamBroken(f"{self._path} cannot be written: {error.strerror or error}. Free space there.") from error

    def forget_others(self, names: set[str]) -> None:
        """Forget files that are gone, when they are most of what is remembered."""
        with self._writing:
            if len(self._marks) > 2 * len(names) + 1000:
                self._marks = {name: mark for name, mark in self._marks.items() if name in names}
                self._rewrite()

    def _rewrite(self) -> None:
        durable.write_bytes(self._path, b"".join(_encoded(name, mark) for name, mark in self._marks.items()))


def existing(directory: Path) -> Path:
    """The same directory. Raises `StreamBroken` where there is none."""
    if not directory.is_dir():
        raise StreamBroken(f"{directory} is no directory. Make it, or name another.")
    return directory


class DirectoryItems:
    """See the module. One pass over what is there where `follow` is False."""

    can_wait = True

    def __init__(self, directory: Path, seen: Seen, *, look_every_s: float = LOOK_EVERY_S, follow: bool = True) -> None:
        """Raises `StreamBroken` where there is no such directory."""
        self._directory, self._seen = existing(directory), seen
        self._look_every_s, self._follow = look_every_s, follow
        self._given: dict[str, Mark] = {}
        """Files that are in the stream, and not yet settled."""

    def read(self, give: Callable[[Item], bool], stop: threading.Event) -> None:
        """See `Source`."""
        before: dict[str, Mark] = {}
        while not stop.is_set():
            there = self._look()
            new = [each for each in there if each.name not in self._given and not self._seen.has(each.name, each.mark)]
            complete = [each for each in new if before.get(each.name) == each.mark]
            for each in complete:
                self._given[each.name] = each.mark
                if not give(Item(each.name, each.path)):
                    return
            if not self._follow and len(complete) == len(new):
                return
            before = {each.name: each.mark for each in new}
            self._seen.forget_others({each.name for each in there})
            stop.wait(self._look_every_s)

    def settle(self, item: Item) -> None:
        """See `Source`."""
        mark = self._given.get(item.name)
        if mark is not None:
            self._seen.add(item.name, mark)
            del self._given[item.name]  # only now: the reader must find it in one of the two

    def _look(self) -> list[_File]:
        """What is there, the first changed first. Raises `StreamBroken`."""
        try:
            return sorted(_files(self._directory), key=lambda each: (each.mark.changed_ns, each.name))
        except OSError as error:
            raise StreamBroken(f"{self._directory} cannot be read any more: {error.strerror or error}.") from error


class _File(NamedTuple):
    """`name` can be written down, whatever bytes the file's own name has."""

    name: str
    path: Path
    mark: Mark


def _files(directory: Path) -> Iterator[_File]:
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.name.startswith(".") or entry.name.endswith(_UNFINISHED):
                continue
            try:
                if entry.is_file():
                    status = entry.stat()
                    name = os.fsencode(entry.name).decode("utf-8", "backslashreplace")
                    yield _File(name, directory / entry.name, Mark(status.st_size, status.st_mtime_ns))
            except FileNotFoundError:  # it went while we looked
                continue


def _remembered(path: Path) -> Iterator[tuple[str, Mark]]:
    for line in path.read_bytes().splitlines():
        try:
            said = msgspec.json.decode(line, type=_Line)
        except msgspec.MsgspecError:
            continue
        yield said.name, Mark(*said.mark)


def _encoded(name: str, mark: Mark) -> bytes:
    return msgspec.json.encode(_Line(name, (mark.size, mark.changed_ns))) + b"\n"
