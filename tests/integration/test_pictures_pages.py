"""docs/processing.md, explain.md and stream.md say what is so: their examples run, and print what they say."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from fleet_protocol.processing import decode_processing
from tests.support.central_side import edgeward

ROOT = Path(__file__).parents[2]
PROCESSING = (ROOT / "docs" / "processing.md").read_text(encoding="utf-8")
STREAM = (ROOT / "docs" / "stream.md").read_text(encoding="utf-8")
EXPLAIN = (ROOT / "docs" / "explain.md").read_text(encoding="utf-8")


def blocks(page: str, kind: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    return [block for its_kind, block in found if its_kind == kind]


def run_commands(page: str) -> list[str]:
    return [edgeward(*shlex.split(line)[1:]).stdout for line in page.splitlines() if line.startswith("edgeward ")]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory after the first example of the page was followed."""
    directory = tmp_path_factory.mktemp("page")
    (directory / "examples").symlink_to(ROOT / "examples")
    (directory / "digits.toml").write_text(blocks(PROCESSING, "toml")[0])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        exec(compile(blocks(PROCESSING, "python")[0], "docs/processing.md", "exec"), {})
        *_, shown = run_commands(blocks(PROCESSING, "")[0])
        assert re.search(r"^0 +digit +9 +0\.\d", shown, re.MULTILINE)
    return directory


def test_every_declaration_on_the_page_can_be_read() -> None:
    declared = [decode_processing(block.encode()) for block in blocks(PROCESSING, "toml")]
    assert len(declared) == 3


@pytest.mark.parametrize("page", [PROCESSING, EXPLAIN], ids=["processing", "explain"])
def test_the_programs_print_what_they_say(
    page: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    code = blocks(page, "python")[-1]
    exec(compile(code, "the page", "exec"), {})
    assert capsys.readouterr().out.splitlines() == re.findall(r"^print.*?  # (.*)$", code, re.MULTILINE)


def test_the_explanation_says_where_the_answer_rests(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    *_, shown = run_commands(blocks(EXPLAIN, "")[0])
    said = blocks(EXPLAIN, "")[1].strip()
    assert re.sub(r"(\.\d\d)\d+", r"\1", shown.splitlines()[-1]) == said
    assert (place / "why.png").read_bytes().startswith(b"\x89PNG")


def test_the_stream_writes_the_lines_that_the_page_shows(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    (place / "inbox").mkdir()
    (place / "inbox" / "nine.png").write_bytes((place / "nine.png").read_bytes())
    (place / "inbox" / "notes.txt").write_text("no picture")
    run_commands(blocks(STREAM, "")[0])
    written = [json.loads(line) for line in (place / "results.jsonl").read_text().splitlines()]
    said = [json.loads(line) for line in blocks(STREAM, "json")[0].splitlines()]
    assert [list(line) for line in written] == [list(line) for line in said]
    assert written[0]["results"][0]["digit"]["classes"] == said[0]["results"][0]["digit"]["classes"]
    assert written[1]["error"] == said[1]["error"]

    (place / "inbox" / "notes.txt").unlink()
    exec(compile(blocks(STREAM, "python")[0], "docs/stream.md", "exec"), {})
    assert capsys.readouterr().out == "nine.png 9\n1\n"
