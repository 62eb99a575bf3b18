"""`edgeward tune` as a person calls it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgeward import cli
from tests.support import models


def tune(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    try:
        cli.main(["tune", *arguments])
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    said = capsys.readouterr()
    return code, said.out, said.err


def test_it_shows_the_table_and_why_and_keeps_the_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = models.mlp_classifier(tmp_path / "mlp.onnx")
    arguments = (str(path), "--seconds", "1.5", "--cache", str(tmp_path / "cache"))
    code, out, _ = tune(capsys, *arguments)
    assert code == 0
    assert "chosen" in out
    assert "Why" in out
    assert "NaN" not in out
    (kept,) = (tmp_path / "cache").iterdir()
    before = kept.stat().st_mtime_ns
    code, out, _ = tune(capsys, *arguments, "--json")
    document = json.loads(out)
    assert code == 0
    assert document["objective"]["goal"] == "latency"
    assert document["tuning"]["chosen"]["variant"] == "onnx"
    assert kept.stat().st_mtime_ns == before
    tune(capsys, *arguments, "--again")
    assert kept.stat().st_mtime_ns > before


def test_a_result_that_cannot_be_kept_is_shown_all_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    path = models.mlp_classifier(tmp_path / "mlp.onnx")
    code, out, _ = tune(capsys, str(path), "--seconds", "1", "--cache", str(path))
    assert (code, "chosen" in out) == (0, True)
    assert "mlp.onnx cannot keep the result (" in caplog.text


def test_answers_that_are_no_numbers_are_told_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = models.not_a_number(tmp_path / "nan.onnx")
    code, out, _ = tune(capsys, str(path), "--seconds", "1", "--cache", str(tmp_path / "cache"))
    assert code == 0
    assert "Mind that it answers NaN or infinity" in out


def test_a_file_that_is_no_model_is_one_clear_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "none.onnx").write_bytes(b"no model")
    code, out, err = tune(capsys, str(tmp_path / "none.onnx"), "--seconds", "1", "--cache", str(tmp_path))
    assert (code, out) == (1, "")
    assert "No variant works on this device" in err
    assert "Traceback" not in err
