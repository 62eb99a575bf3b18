"""The example with which docs/compress.md begins, played as it stands there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import converters

pytestmark = pytest.mark.heavy

PAGE = Path(__file__).parents[2] / "docs" / "compress.md"


def test_the_pages_example_makes_a_bundle_with_a_smaller_model_first(tmp_path: Path) -> None:
    page = PAGE.read_text(encoding="utf-8")
    program = re.search(r"```python\n(.*?)```", page, re.DOTALL)
    commands = re.search(r"and run\n\n```\n(.*?)```", page, re.DOTALL)
    assert program is not None
    assert commands is not None
    (tmp_path / "nets.py").write_text(program[1], encoding="utf-8")
    train, compress = commands[1].splitlines()
    assert train == "python nets.py"
    assert compress.startswith("edgeward compress ")
    for command in ([sys.executable, "nets.py"], [sys.executable, "-m", *compress.split()]):
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=800)
        assert done.returncode == 0, done.stderr
    assert "pruned-50-int8-weights" in done.stdout
    bundle = converters.open_bundle(tmp_path / "digits-1.0.0")
    assert {"pruned-50-int8-weights", "qat-int8-static", "int8-weights", "float32"} <= {
        each.name for each in bundle.manifest.variants
    }
    assert {"torch", "torch-pruning", "torchao"} <= set(bundle.manifest.lineage.tools)
    sizes = {each.name: each.file.size for each in bundle.manifest.variants}
    assert sizes["pruned-50-int8-weights"] < 0.1 * sizes["float32"]
