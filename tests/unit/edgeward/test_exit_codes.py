"""How `edgeward` ends: the exit statuses that scripts rely on."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import click
import pytest

from edgeward import cli, terminal
from edgeward.errors import ServerRefused


def ending(command: click.Command) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main(["status"], group=click.Group(commands=[command]))
    code = ended.value.code
    assert isinstance(code, int)
    return code


def test_a_command_that_did_what_it_says_ends_with_0() -> None:
    assert ending(click.Command("status", callback=lambda: None)) == 0


def test_a_command_that_asks_for_a_status_gets_it() -> None:
    def callback() -> None:
        click.get_current_context().exit(3)

    assert ending(click.Command("status", callback=callback)) == 3


def test_a_known_error_is_one_line_and_1(capsys: pytest.CaptureFixture[str]) -> None:
    def callback() -> None:
        raise ServerRefused("There is no such device.", hint="See `edgeward devices`.")

    assert ending(click.Command("status", callback=callback)) == 1
    assert capsys.readouterr().err == "Error: There is no such device. See `edgeward devices`.\n"


def test_what_the_system_refuses_is_one_line_and_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def callback() -> None:
        (tmp_path / "nowhere" / "why.png").write_bytes(b"")

    assert ending(click.Command("status", callback=callback)) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"Error: {tmp_path}/nowhere/why.png: No such file or directory. Check the paths")
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize(
    ("error", "why"),
    [(MemoryError("Unable to allocate 64 GiB"), "Unable to allocate 64 GiB"), (MemoryError(), "the system gives no more")],
)
def test_too_little_memory_is_one_line_and_1(error: MemoryError, why: str, capsys: pytest.CaptureFixture[str]) -> None:
    def callback() -> None:
        raise error

    assert ending(click.Command("status", callback=callback)) == 1
    assert capsys.readouterr().err.startswith(f"Error: There is not enough memory: {why}. Give less")


def test_an_unknown_error_is_ours_and_shows_where() -> None:
    def callback() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        ending(click.Command("status", callback=callback))


def test_interrupted_ends_with_130() -> None:
    def callback() -> None:
        raise KeyboardInterrupt

    assert ending(click.Command("status", callback=callback)) == 130


def test_wrong_usage_ends_with_2() -> None:
    assert ending(click.Command("status", params=[click.Argument(["name"])])) == 2


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_what_the_terminals_encoding_cannot_say_ends_no_command(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown, encoding=encoding))

    def show() -> None:
        print("µ – \udcff", flush=True)  # noqa: T201  # as rich does
        terminal.print_json({"text": "ü"})

    assert ending(click.Command("status", callback=show)) == 0
    first, *document = shown.getvalue().splitlines()
    assert first == "µ – \udcff".encode(encoding, "replace")
    assert json.loads(b"".join(document)) == {"text": "ü"}
