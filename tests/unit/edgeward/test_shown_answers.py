"""What `edgeward predict` shows a person of an answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx.parser
import pytest

from edgeward import cli

TWO_OUTPUTS = """<ir_version: 8, opset_import: ["": 17]>
heads (float[N, 2] x) => (float[N, 2] scores, float[N, 2] depth) { scores = Identity(x) depth = Neg(x) }"""


def test_an_output_beside_the_class_scores_is_shown_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(onnx.parser.parse_model(TWO_OUTPUTS), tmp_path / "heads.onnx")
    np.save(tmp_path / "x.npy", np.array([[0.25, 0.75]], np.float32))
    with pytest.raises(SystemExit) as ended:
        cli.main(["predict", str(tmp_path / "heads.onnx"), str(tmp_path / "x.npy")])
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert ended.value.code == 0
    assert lines[1:] == [
        "sample first second",
        "0 1 0.7500 0 0.2500",
        "output type shape values",
        "depth float32 [1, 2] [[-0.25 -0.75]]",
    ]
