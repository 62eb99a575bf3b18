"""docs/runtime.md says what is so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from runtime import errors

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "runtime.md").read_text(encoding="utf-8")


def test_its_programs_run_and_print_what_they_say(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    code = "\n".join(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL))
    exec(compile(code, "docs/runtime.md", "exec"), {})
    printed = capsys.readouterr().out.splitlines()
    said = re.findall(r"^print.*?  # (.*)$", code, re.MULTILINE)
    assert len(printed) == len(said)
    for line, comment in zip(printed, said, strict=True):
        assert line == comment or (comment.startswith("such as: onnxruntime") and line.startswith("onnxruntime"))


def test_every_error_that_it_names_exists() -> None:
    named = re.findall(r"^\| `(\w+)`", PAGE, re.MULTILINE)
    assert "ModelRejected" in named
    for name in named:
        assert issubclass(getattr(errors, name), errors.RuntimeFailure)
