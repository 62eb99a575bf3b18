"""docs/engines.md says what is so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from runtime.engines import onnx_engine, providers

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "engines.md").read_text(encoding="utf-8")


def test_its_program_runs_and_prints_the_like(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(compile(code, "docs/engines.md", "exec"), {})
    engine, choice = capsys.readouterr().out.splitlines()
    assert engine.startswith("onnxruntime ")
    assert choice.endswith("is the first provider that works here and takes the model")


def test_its_table_is_the_table() -> None:
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)` \| (\S+) \| (.*) \|$", PAGE, re.MULTILINE)
    told = [
        (each.name, each.key, f"`{each.device_option}`" if each.device_option else "–", each.install)
        for each in providers.TABLE
    ]
    assert rows == told


def test_auto_takes_what_takes_three_quarters() -> None:
    assert onnx_engine.AUTO_SHARE == 0.75
    assert "three quarters of the nodes" in PAGE
