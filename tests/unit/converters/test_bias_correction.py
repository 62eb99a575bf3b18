"""Bias correction: means of channels are right again afterwards, and what cannot be corrected says so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper

from converters.errors import RecipeFailed
from converters.graphs.observe import session
from converters.quantizing.quantize import Quantizer
from converters.recipe import StaticRecipe
from converters.sources import Source
from fleet_protocol.digests import digest_of
from tests.support.conv_models import Tensors, graph_of, images, separable, separable_tensors


def shifted() -> Tensors:
    """Weights whose rounding moves means: each channel's are of one sign, beside one weight that makes the steps coarse."""
    tensors = separable_tensors()
    for name in ("w2", "w3"):
        weights = np.full_like(tensors[name], 0.0115)
        weights[:, 0] = 2.0
        tensors[name] = weights
    return tensors


def quantizer(model: onnx.ModelProto, *, batch: int = 64) -> Quantizer:
    x = np.abs(images(64))
    source = Source(path=Path("m.onnx"), model=model, digest=digest_of(b"m"))
    return Quantizer(source, batches=lambda: [{"x": x[at : at + batch]} for at in range(0, 64, batch)])


def means(content: bytes) -> NDArray[np.float64]:
    """Each class's mean, before the Softmax."""
    model = onnx.load_from_string(content)
    softmax = next(node for node in model.graph.node if node.op_type == "Softmax")
    model.graph.output.append(helper.make_empty_tensor_value_info(softmax.input[0]))
    (shown,) = session(model.SerializeToString()).run([softmax.input[0]], {"x": np.abs(images(64))})
    return np.asarray(shown.mean(axis=0), np.float64)


@pytest.mark.parametrize("batch", [64, 1])
def test_the_means_of_the_last_layer_are_nearer_to_float(batch: int) -> None:
    model = separable(shifted())
    wanted = means(model.SerializeToString())
    made = quantizer(model, batch=batch)
    plain, corrected = (means(made.apply(StaticRecipe(corrected=each))) for each in (False, True))
    assert np.abs(corrected - wanted).max() < np.abs(plain - wanted).max() / 4


def test_each_channel_of_a_convolution_gets_back_what_it_lost() -> None:
    weights = np.full((4, 3, 1, 1), 0.0115, np.float32) * np.arange(1, 5, dtype=np.float32).reshape(4, 1, 1, 1)
    weights[:, 0] = 4.0
    tensors = {"w": weights, "b": np.zeros(4, np.float32)}
    model = graph_of([helper.make_node("Conv", ["x", "w", "b"], ["y"])], tensors, x=["n", 3, 8, 8], y=["n", 4, 8, 8])
    made, x = quantizer(model), {"x": np.abs(images(64))}

    def channels(content: bytes) -> NDArray[np.float64]:
        (shown,) = session(content).run(None, x)
        return np.asarray(shown.mean(axis=(0, 2, 3)), np.float64)

    wanted = channels(model.SerializeToString())
    plain, corrected = (channels(made.apply(StaticRecipe(corrected=each))) for each in (False, True))
    assert np.abs(corrected - wanted).max() < np.abs(plain - wanted).max() / 4


def test_nothing_but_biases_changes() -> None:
    made = quantizer(separable(shifted()))
    plain, corrected = (onnx.load_from_string(made.apply(StaticRecipe(corrected=each))) for each in (False, True))
    assert [node.op_type for node in plain.graph.node] == [node.op_type for node in corrected.graph.node]
    changed = [
        one.data_type
        for one, other in zip(plain.graph.initializer, corrected.graph.initializer, strict=True)
        if one.raw_data != other.raw_data or one.int32_data != other.int32_data
    ]
    assert changed
    assert set(changed) == {onnx.TensorProto.INT32}


def test_it_is_the_same_each_time() -> None:
    model = separable(shifted())
    assert len({quantizer(model).apply(StaticRecipe(corrected=True)) for _ in range(2)}) == 1


def test_a_model_without_biases_has_none_to_correct() -> None:
    tensors = {"w": np.ones((4, 3, 1, 1), np.float32)}
    model = graph_of([helper.make_node("Conv", ["x", "w"], ["y"])], tensors, x=["n", 3, 8, 8], y=["n", 4, 8, 8])
    with pytest.raises(RecipeFailed, match="no layer has a bias to correct"):
        quantizer(model).apply(StaticRecipe(corrected=True))


def test_the_recipe_tells_of_it() -> None:
    assert StaticRecipe(corrected=True).choices()["bias_correction"] == "true"
    assert "bias_correction" not in StaticRecipe().choices()
