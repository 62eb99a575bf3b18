"""`python -m bench.converters` takes a folder of models with their samples, and the int8 files that their makers publish."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from ai_edge_quantizer import quantizer, recipe

import runtime
from bench import official_int8
from bench.converters import in_folder
from converters.tflite.emitter import emit
from converters.tflite.serialise import SIGNATURE
from converters.tflite.source import prepare
from runtime.errors import ModelRejected
from tests.support import models

# ai-edge-quantizer looks at all tensors, which LiteRT warns of.
pytestmark = pytest.mark.filterwarnings("ignore:.*experimental_preserve_all_tensors:UserWarning")

_DIGITS = Path(__file__).parents[2] / "examples" / "digits"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Digits, its samples, and an int8 file of it that takes and gives int8."""
    shutil.copy(_DIGITS / "digits-v1.onnx", tmp_path / "digits.onnx")
    with np.load(_DIGITS / "digits.npz") as arrays:
        pixels, labels = arrays["pixels"], arrays["label"]
    np.savez(tmp_path / "digits.npz", pixels=pixels, label=labels, names=np.array(["what no input is called"]))
    maker = quantizer.Quantizer(bytearray(emit(prepare(onnx.load_model(str(tmp_path / "digits.onnx"))))))
    maker.load_quantization_recipe(recipe.static_wi8_ai8())
    samples = [{"pixels": pixels[at : at + 1]} for at in range(100)]
    made = maker.quantize(maker.calibrate({SIGNATURE: samples})).quantized_model
    (tmp_path / "digits.int8.tflite").write_bytes(bytes(made))
    return tmp_path


def test_a_model_comes_with_its_samples_and_its_makers_int8_file(folder: Path) -> None:
    models.linear_classifier(folder / "without-samples.onnx")
    (case,) = in_folder(folder)
    assert (case.name, list(case.inputs), case.official) == ("digits", ["pixels"], folder / "digits.int8.tflite")
    assert case.labels is not None
    assert len(case.labels) == case.count


def test_a_model_comes_with_the_keras_file_that_it_was_exported_from(folder: Path) -> None:
    assert next(in_folder(folder)).keras is None
    (folder / "digits.keras").touch()
    assert next(in_folder(folder)).keras == folder / "digits.keras"


def test_an_int8_file_answers_floats_as_the_float_model_does(folder: Path) -> None:
    (case,) = in_folder(folder)
    given = runtime.load(case.model)
    plain = runtime.load(folder / "digits.int8.tflite")
    assert plain.inputs[0].datatype == "INT8"
    official, sample = official_int8.load(folder / "digits.int8.tflite", given), case.take(200, 400)
    (wanted,), (got,) = given(sample).values(), official(sample).values()
    assert got.shape == wanted.shape
    assert np.mean(got.argmax(1) == wanted.argmax(1)) > 0.97
    assert np.abs(got - wanted).mean() < 0.02  # probabilities


def test_the_int8_file_of_another_model_is_refused(folder: Path) -> None:
    two = runtime.load(models.two_inputs(folder / "two.onnx"))
    with pytest.raises(ModelRejected, match="has other inputs or outputs than the float model"):
        official_int8.load(folder / "digits.int8.tflite", two)
