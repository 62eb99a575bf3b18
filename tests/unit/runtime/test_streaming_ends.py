"""The ends of a stream: directories that are watched, lines that come, and results that are written, through kills."""

from __future__ import annotations

import io
import json
import os
import resource
import threading
from pathlib import Path
from typing import Self

import pytest

from runtime.errors import StreamBroken
from runtime.streaming import Answered, Item
from runtime.streaming.directory import DirectoryItems, Mark, Seen
from runtime.streaming.lines import LineItems
from runtime.streaming.results import FileResults, StreamResults
from tests.support.waiting import until

LOOK_S = 0.01
CONTENT = b"content"


class Watched:
    """A directory that is watched, and the names that came."""

    def __init__(self, directory: Path, state: Path, *, settle: bool = True) -> None:
        self.names: list[str] = []
        self.stop = threading.Event()
        self.items = DirectoryItems(directory, Seen(state), look_every_s=LOOK_S)
        self._settle = settle
        self._thread = threading.Thread(target=lambda: self.items.read(self._give, self.stop))
        self._thread.start()

    def _give(self, item: Item) -> bool:
        self.names.append(item.name)
        if self._settle:
            self.items.settle(item)
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self._thread.join(10)


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    (tmp_path / "inbox").mkdir()
    return tmp_path / "inbox"


def test_new_files_come_once_and_after_a_restart_not_again(inbox: Path, tmp_path: Path) -> None:
    (inbox / "a.json").write_bytes(CONTENT)
    with Watched(inbox, tmp_path / "seen") as watched:
        until(lambda: watched.names == ["a.json"], "the files")
        (inbox / "b.json").write_bytes(CONTENT)
        until(lambda: watched.names == ["a.json", "b.json"], "the files")
    (inbox / "c.json").write_bytes(CONTENT)
    with Watched(inbox, tmp_path / "seen") as again:
        until(lambda: again.names == ["c.json"], "the files")


def test_what_was_not_settled_comes_again_after_a_restart(inbox: Path, tmp_path: Path) -> None:
    (inbox / "a.json").write_bytes(CONTENT)
    with Watched(inbox, tmp_path / "seen", settle=False) as watched:
        until(lambda: watched.names == ["a.json"], "the files")
    with Watched(inbox, tmp_path / "seen") as again:
        until(lambda: again.names == ["a.json"], "the files")


def test_a_file_that_changed_comes_again(inbox: Path, tmp_path: Path) -> None:
    (inbox / "a.json").write_bytes(CONTENT)
    with Watched(inbox, tmp_path / "seen") as watched:
        until(lambda: watched.names == ["a.json"], "the files")
        (inbox / "a.json").write_bytes(CONTENT + b" ")
        until(lambda: watched.names == ["a.json", "a.json"], "the files")


def test_a_file_that_still_grows_does_not_come(inbox: Path, tmp_path: Path) -> None:
    looks = 0
    items = DirectoryItems(inbox, Seen(tmp_path / "seen"), look_every_s=0.0)
    sizes: list[int] = []

    class Growing(threading.Event):
        """Asked before each look: the file grows until the fifth one."""

        def is_set(self) -> bool:
            nonlocal looks
            looks += 1
            if looks <= 5:
                with (inbox / "a.json").open("ab") as file:
                    file.write(b" ")
            return looks > 6

    def give(item: Item) -> bool:
        sizes.append((inbox / item.name).stat().st_size)
        return True

    items.read(give, Growing())
    assert (sizes, looks) == ([5], 7)


def test_unfinished_hidden_and_other_names_are_left_alone_and_odd_ones_can_be_written_down(inbox: Path, tmp_path: Path) -> None:
    for name in (b".hidden", b"a.part", b"b.tmp"):
        (inbox / os.fsdecode(name)).write_bytes(CONTENT)
    (inbox / "folder").mkdir()
    (inbox / os.fsdecode(b"\xff.json")).write_bytes(CONTENT)
    with Watched(inbox, tmp_path / "seen") as watched:
        until(lambda: watched.names == ["\\xff.json"], "the files")
    assert Seen(tmp_path / "seen").has("\\xff.json", next(iter(watched.items._look())).mark)


def test_a_memory_that_was_cut_short_forgets_only_its_last_line(inbox: Path, tmp_path: Path) -> None:
    for name in ("a.json", "b.json"):
        (inbox / name).write_bytes(CONTENT)
    with Watched(inbox, tmp_path / "seen") as watched:
        until(lambda: len(watched.names) == 2, "the files")
    content = (tmp_path / "seen").read_bytes()
    (tmp_path / "seen").write_bytes(content[:-5])
    with Watched(inbox, tmp_path / "seen") as again:
        until(lambda: again.names == [watched.names[-1]], "the files")


def test_files_that_are_gone_are_forgotten_when_they_are_most_of_what_is_remembered(tmp_path: Path) -> None:
    mark = Mark(1, 1)
    (tmp_path / "seen").write_text("".join(json.dumps({"name": str(at), "mark": [1, 1]}) + "\n" for at in range(1003)))
    seen = Seen(tmp_path / "seen")
    seen.forget_others({"0", "1"})
    assert seen.has("1002", mark)
    seen.forget_others({"0"})
    again = Seen(tmp_path / "seen")
    assert (again.has("0", mark), again.has("1", mark), again.has("1002", mark)) == (True, False, False)
    assert (tmp_path / "seen").read_bytes().count(b"\n") == 1


def test_a_directory_that_goes_ends_the_source_and_one_that_is_not_there_is_refused(inbox: Path, tmp_path: Path) -> None:
    items = DirectoryItems(inbox, Seen(tmp_path / "seen"), look_every_s=LOOK_S)
    inbox.rmdir()
    with pytest.raises(StreamBroken, match="cannot be read any more"):
        items.read(lambda _: True, threading.Event())
    with pytest.raises(StreamBroken, match="is no directory"):
        DirectoryItems(inbox, Seen(tmp_path / "seen"))


def lines_of(content: bytes, *, limit: int = 100) -> list[tuple[str, object]]:
    reading, writing = os.pipe()
    given: list[tuple[str, object]] = []

    def give(item: Item) -> bool:
        given.append((item.name, item.content))
        return True

    def write() -> None:
        with os.fdopen(writing, "wb") as file:
            file.write(content)

    writer = threading.Thread(target=write)
    writer.start()
    with os.fdopen(reading, "rb"):
        LineItems(reading, limit=limit).read(give, threading.Event())
    writer.join(10)
    return given


def test_lines_come_with_their_numbers_and_the_last_one_needs_no_end() -> None:
    assert lines_of(b"a\n\n b \r\nc") == [("line 1", b"a"), ("line 3", b"b"), ("line 4", b"c")]
    assert lines_of(b"") == []


def test_a_line_that_is_too_long_is_not_kept_and_the_next_one_comes() -> None:
    for size in (1001, 200_000):  # it comes in one piece, or in several
        [(first, content), second] = lines_of(b"x" * size + b"\nb\n", limit=1000)
        assert (first, second) == ("line 1", ("line 2", b"b"))
        assert content == b"<the line is too long>"
    assert lines_of(b"x" * 1000 + b"\n", limit=1000) == [("line 1", b"x" * 1000)]


def test_results_in_a_file_go_on_after_a_line_that_a_crash_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    path.write_bytes(b'{"item":"a"}\n{"it')
    results = FileResults(path)
    results.write(Answered(item="b", time=0.0, model="m"))
    results.close()
    assert [json.loads(line)["item"] for line in path.read_bytes().splitlines()] == ["a", "b"]


def test_a_file_that_cannot_grow_is_said_once_and_closing_it_says_nothing_more(tmp_path: Path) -> None:
    results = FileResults(tmp_path / "results.jsonl")
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, usual[1]))
    try:
        with pytest.raises(StreamBroken, match=r"results\.jsonl cannot be written: File too large"):
            results.write(Answered(item="a", time=0.0, model="m"))
        results.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)


def test_a_file_that_cannot_be_written_breaks_the_stream_and_a_result_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(StreamBroken, match="cannot be written"):
        FileResults(tmp_path / "nowhere" / "results.jsonl")
    out = io.BytesIO()
    StreamResults(out).write(Answered(item="a\nb", time=0.0, model="m", error="c\nd"))
    assert out.getvalue().count(b"\n") == 1


def test_a_pipe_without_reader_and_a_full_disk_are_told_apart() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    answered = Answered(item="a", time=0.0, model="m")
    with os.fdopen(writing, "wb", buffering=0) as pipe, pytest.raises(StreamBroken, match="Nobody reads"):
        StreamResults(pipe).write(answered)
    with Path("/dev/full").open("wb", buffering=0) as full, pytest.raises(StreamBroken, match="No space left"):
        StreamResults(full).write(answered)
