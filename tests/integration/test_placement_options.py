"""`--provider` and `--delegate`, as a person gives them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edgeward import cli
from runtime.engines import providers
from tests.support import models, tflite_models


def called(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    try:
        cli.main(list(arguments))
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    said = capsys.readouterr()
    return code, said.out, said.err


@pytest.fixture
def pixels(tmp_path: Path) -> str:
    np.save(tmp_path / "pixels.npy", models.samples(1)[0])
    return str(tmp_path / "pixels.npy")


def test_predict_says_what_was_chosen_and_why(tmp_path: Path, pixels: str, capsys: pytest.CaptureFixture[str]) -> None:
    model = str(models.linear_classifier(tmp_path / "model.onnx"))
    code, out, _ = called(capsys, "predict", model, pixels, "--provider", "auto", "--json")
    document = json.loads(out)
    assert code == 0
    assert document["engine"].startswith("onnxruntime ")
    assert "is the first provider that works here" in document["choice"]


@pytest.mark.parametrize("command", ["predict", "serve"])
def test_a_provider_that_is_missing_is_one_line_that_says_what_to_install(
    tmp_path: Path, pixels: str, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    wanted = next(each for each in providers.TABLE if each not in providers.present())
    model = str(models.linear_classifier(tmp_path / "model.onnx"))
    inputs = [pixels] if command == "predict" else ["--port", "0"]
    code, out, err = called(capsys, command, model, *inputs, "--provider", wanted.name)
    assert (code, out) == (1, "")
    assert wanted.install in " ".join(err.split())


@pytest.mark.parametrize("command", ["predict", "serve"])
def test_a_delegate_that_is_missing_is_one_line(
    tmp_path: Path, pixels: str, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    model = str(tflite_models.linear_classifier(tmp_path / "model.tflite"))
    inputs = [pixels] if command == "predict" else ["--port", "0"]
    code, out, err = called(capsys, command, model, *inputs, "--delegate", "/nowhere/lib.so")
    assert (code, out) == (1, "")
    assert "There is no delegate /nowhere/lib.so" in " ".join(err.split())
    assert "Traceback" not in err
