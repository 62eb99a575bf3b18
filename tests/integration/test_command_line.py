"""Every command on bad input, as a user meets it: one clear line, what to do next, an exit status, and no traceback."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.central_side import edgeward

DIGITS = Path(__file__).parents[2] / "examples" / "digits"
MODEL, DATA = str(DIGITS / "digits-v1.onnx"), str(DIGITS / "digits.npz")
NAMED = ("--name", "digits", "--version", "1.0.0")


def refused(*arguments: str, status: int = 1) -> str:
    """What a command said when it would not."""
    done = edgeward(*arguments)
    assert done.returncode == status, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    return done.stderr


def test_an_unknown_command_is_wrong_usage() -> None:
    assert "No such command 'convrt'" in refused("convrt", status=2)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("devices",), "Start one with `edgeward up`"),
        (("status", "--json"), "Start one with `edgeward up`"),
        (("models",), "Start one with `edgeward up`"),
        (("events",), "Start one with `edgeward up`"),
        (("claim", "create"), "Start one with `edgeward up`"),
        (("rollout", "start", "digits", "1.0.0"), "Start one with `edgeward up`"),
    ],
)
def test_without_a_central_side_commands_say_how_to_start_one(
    arguments: tuple[str, ...], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEWARD_DATA", str(tmp_path))
    assert said in refused(*arguments)


def test_convert_names_a_file_that_is_not_there(tmp_path: Path) -> None:
    missing = tmp_path / "missing.onnx"
    said = refused("convert", str(missing), "--data", DATA, *NAMED, "--out", str(tmp_path / "out"))
    assert "missing.onnx" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", [b"this is no model", b""], ids=["text", "empty"])
def test_convert_refuses_what_is_not_onnx(tmp_path: Path, content: bytes) -> None:
    other = tmp_path / "other.onnx"
    other.write_bytes(content)
    assert "other.onnx" in refused("convert", str(other), "--data", DATA, *NAMED, "--out", str(tmp_path / "out"))


def test_convert_refuses_a_truncated_model(tmp_path: Path) -> None:
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(Path(MODEL).read_bytes()[:50_000])
    assert "cut.onnx" in refused("convert", str(cut), "--data", DATA, *NAMED, "--out", str(tmp_path / "out"))


def test_a_bundle_that_was_changed_is_not_published_and_the_file_is_named(tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    done = edgeward("convert", MODEL, "--data", DATA, *NAMED, "--out", str(bundle), "--json")
    assert done.returncode == 0, done.stderr
    variant = json.loads(done.stdout)["report"]["variants"][0]["name"]
    (changed,) = (bundle / "variants").glob(f"{variant}.*")
    changed.write_bytes(changed.read_bytes()[:-1] + b"\x00")
    said = refused("verify", str(bundle))
    assert changed.name in said


def test_an_agent_without_an_identity_and_a_server_says_what_it_needs(tmp_path: Path) -> None:
    said = refused("agent", "run", "--device", "shelf-1", "--state-dir", str(tmp_path / "state"))
    assert "--server" in said or "server" in said
    assert "claim" in said


def test_an_agent_with_a_wrong_claim_is_told_to_get_another(tmp_path: Path) -> None:
    said = refused(
        "agent", "run", "--device", "shelf-1", "--state-dir", str(tmp_path), "--server", "https://127.0.0.1:1", "--claim", "x"
    )
    assert "claim" in said


def test_a_device_name_that_breaks_the_rule_is_refused_with_the_rule(tmp_path: Path) -> None:
    said = refused("agent", "run", "--device", "Shelf 1", "--state-dir", str(tmp_path))
    assert "device" in said
