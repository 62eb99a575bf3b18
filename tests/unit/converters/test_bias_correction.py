"""Bias correction: means of channels are right again afterwards, and what cannot be corrected says so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper

from converters.errors import RecipeFailed
from converters.graphs.observe import session
from converters.graphs.weights import quantize_weights
from converters.quantizing.bias import shift_biases
from converters.quantizing.quantize import Quantizer
from converters.recipe import StaticRecipe, WeightsRecipe
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


def drawn(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(5).normal(size=shape).astype(np.float32)


LAYERS: dict[str, tuple[str, dict[str, Any], NDArray[np.float32]]] = {
    "convolution": ("Conv", {}, drawn(16, 8, 3, 3)),
    "depthwise": ("Conv", {"group": 8}, drawn(8, 1, 9, 9)),
    "grouped": ("Conv", {"group": 2}, drawn(16, 4, 3, 3)),
    "dense": ("Gemm", {}, drawn(8, 64)),
    "dense, turned": ("Gemm", {"transB": 1}, drawn(64, 8)),
    "product and sum": ("MatMul", {}, drawn(8, 64)),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_inputs_that_are_their_mean_everywhere_get_floats_own_answer_from_8_bit_weights(kind: str) -> None:
    model, x = layer(kind), inputs(kind)
    plain, shifted = (copied(model) for _ in range(2))
    assert shift_biases(shifted, [{"x": x}], smallest=16) == 1
    for each in (plain, shifted):
        assert quantize_weights(each, smallest=16) == 1
    wanted, without, found = (session(each.SerializeToString()).run(None, {"x": x})[0] for each in (model, plain, shifted))
    assert np.abs(without - wanted).max() > 1e-3
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_a_few_samples_that_are_far_off_have_no_say() -> None:
    model, x = layer("dense"), inputs("dense")
    calm, wild = (copied(model) for _ in range(2))
    shift_biases(calm, [{"x": x}], smallest=16)
    shift_biases(wild, [{"x": np.concatenate([x[:4] * 1e6, x, x[:3] * -1e7])}], smallest=16)
    one, other = (session(each.SerializeToString()).run(None, {"x": x})[0] for each in (calm, wild))
    np.testing.assert_allclose(one, other, atol=1e-4)


def test_a_bias_that_two_layers_share_stays_as_it_is() -> None:
    model = layer("dense")
    model.graph.node.append(helper.make_node("Gemm", ["x", "w", "b"], ["z"]))
    assert shift_biases(model, [{"x": inputs("dense")}], smallest=16) == 0


def layer(kind: str) -> onnx.ModelProto:
    operator, attributes, weights = LAYERS[kind]
    channels = len(weights) if operator == "Conv" or attributes else weights.shape[1]
    tensors = {"w": weights, "b": np.zeros(channels, np.float32)}
    places = [9, 9] if operator == "Conv" else []
    if operator == "MatMul":
        nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Add", ["h", "b"], ["y"])]
    else:
        nodes = [helper.make_node(operator, ["x", "w", "b"], ["y"], **attributes)]
    return graph_of(nodes, tensors, x=["n", 8, *places], y=["n", channels, *(["h", "w"] if places else [])])


def inputs(kind: str) -> NDArray[np.float32]:
    """The same in every sample and place, and different in every channel."""
    row = np.linspace(1, 3, 8).astype(np.float32)
    return np.ones((12, 8, 9, 9), np.float32) * row[:, None, None] if LAYERS[kind][0] == "Conv" else np.tile(row, (12, 1))


def copied(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def test_layers_in_16_bits_are_chosen_by_their_noise_and_said() -> None:
    tensors = separable_tensors()
    tensors["w2"][:, 0] *= 300
    made = quantizer(separable(tensors))
    recipe = WeightsRecipe(smallest=64)
    first, *_ = made.noisy_weights(recipe)
    node = next(node for node in made.prepared().graph.node if node.name == first)
    assert node.op_type == "Conv"
    halved = replace(recipe, halved=(first,))
    plain, mixed = (onnx.load_from_string(made.apply(each)) for each in (recipe, halved))
    int8 = [sum(tensor.data_type == onnx.TensorProto.INT8 for tensor in each.graph.initializer) for each in (plain, mixed)]
    assert int8[1] == int8[0] - 1
    assert halved.choices()["float16_nodes"] == first
    assert "float16_nodes" not in recipe.choices()
