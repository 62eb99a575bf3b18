"""Traps of onnxruntime's tools that cost variants or accuracy, each with the model that fell into it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from converters.errors import RecipeFailed
from converters.graphs.observe import session
from converters.quantizing.quantize import Quantizer
from converters.recipe import DYNAMIC, HALF, PRODUCTS, StaticRecipe
from converters.sources import Source
from fleet_protocol.digests import digest_of
from runtime import parity
from tests.support.conv_models import graph_of, images, separable, separable_tensors


def source(model: onnx.ModelProto) -> Source:
    return Source(path=Path("m.onnx"), model=model, digest=digest_of(b"m"))


def run(content: bytes, **inputs: NDArray[np.generic]) -> NDArray[np.float32]:
    return np.asarray(session(content).run(None, inputs)[0], np.float32)


@pytest.mark.parametrize("count", [1, 8, 9, 16])
@pytest.mark.parametrize("loud", [0, -1])
def test_every_calibration_batch_counts_however_many_there_are(count: int, loud: int) -> None:
    batches = [{"x": images(4, seed=at)} for at in range(count)]
    batches[loud]["x"] *= np.float32(50)
    model = separable(separable_tensors())
    model.graph.node.pop()
    model.graph.output[0].name = "logits"
    content = Quantizer(source(model), batches=lambda: batches).apply(StaticRecipe())
    x = batches[loud]["x"]
    assert parity.sqnr_db(run(model.SerializeToString(), x=x), run(content, x=x)) > 20


@pytest.mark.parametrize("opset", [9, 11, 12])
def test_models_of_older_opsets_get_a_scale_a_channel(opset: int) -> None:
    tensors = separable_tensors()
    model = separable(tensors)
    model.opset_import[0].version = opset
    model.ir_version = 6
    content = Quantizer(source(model), batches=lambda: [{"x": images()}]).apply(StaticRecipe())
    x = images(16, seed=3)
    assert parity.sqnr_db(run(model.SerializeToString(), x=x), run(content, x=x)) > 25


def embedding(width: int = 32, words: int = 500) -> onnx.ModelProto:
    chance = np.random.default_rng(0)
    table = (chance.normal(size=(words, width)) * np.exp(chance.normal(size=(words, 1)))).astype(np.float32)
    tensors = {"table": table, "w": chance.normal(size=(width, 8)).astype(np.float32)}
    nodes = [helper.make_node("Gather", ["table", "x"], ["e"]), helper.make_node("MatMul", ["e", "w"], ["y"])]
    model = graph_of(nodes, tensors, x=["n", 6], y=["n", 6, 8])
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.INT64
    return model


@pytest.mark.parametrize("recipe", [DYNAMIC, StaticRecipe(smooth=0.75, operators=PRODUCTS)])
def test_tables_of_words_are_int8_in_integer_variants_and_only_picked_rows_are_unpacked(recipe: StaticRecipe) -> None:
    model = embedding()
    ids = np.random.default_rng(1).integers(0, 500, (64, 6))
    content = Quantizer(source(model), batches=lambda: [{"x": ids}]).apply(recipe)
    assert len(content) < 0.35 * model.ByteSize()
    made = onnx.load_from_string(content)
    tables = {tensor.name for tensor in made.graph.initializer if tensor.dims[:1] == [500]}
    assert {node.op_type for node in made.graph.node if tables & set(node.input)} == {"Gather"}
    assert parity.sqnr_db(run(model.SerializeToString(), x=ids), run(content, x=ids)) > 20


def test_halves_are_nearly_exact_and_half_as_large() -> None:
    model = separable(separable_tensors(first=64, second=128))
    content = Quantizer(source(model), batches=lambda: [{"x": images()}]).apply(HALF)
    assert len(content) < 0.6 * model.ByteSize()
    x = images(16, seed=3)
    assert parity.sqnr_db(run(model.SerializeToString(), x=x), run(content, x=x)) > 55


def test_weights_that_a_half_cannot_hold_stay_as_they_are() -> None:
    tensors = {"w": np.full((3, 100), 1e30, np.float32)}
    model = graph_of([helper.make_node("MatMul", ["x", "w"], ["y"])], tensors, x=["n", 3], y=["n", 100])
    quantizer = Quantizer(source(model), batches=lambda: [{"x": np.ones((4, 3), np.float32)}])
    with pytest.raises(RecipeFailed, match="16-bit floats can hold"):
        quantizer.apply(HALF)


def integers(content: bytes) -> int:
    made = onnx.load_from_string(content)
    return sum(numpy_helper.to_array(each).size for each in made.graph.initializer if each.data_type == TensorProto.INT8)


def test_keeping_an_activation_float_keeps_its_layer_float() -> None:
    quantizer = Quantizer(source(separable(separable_tensors())), batches=lambda: [{"x": images()}])
    nodes = quantizer.prepared().graph.node
    relu = next(node.name for node in nodes if node.op_type == "Relu")
    whole, kept = (integers(quantizer.apply(StaticRecipe(excluded=names))) for names in ((), (relu,)))
    assert kept <= whole - 16 * 27


def test_a_relu_that_packing_replaces_is_not_blamed_for_what_it_cuts_off() -> None:
    quantizer = Quantizer(source(separable(separable_tensors())), batches=lambda: [{"x": images()}])
    assert min(each.sqnr_db for each in quantizer.noise(StaticRecipe())) > 15


def test_values_behind_an_operator_of_another_domain_are_quantized_too() -> None:
    chance = np.random.default_rng(0)
    tensors = {"w": chance.normal(size=(6, 40)).astype(np.float32), "v": chance.normal(size=(40, 3)).astype(np.float32)}
    scaler = helper.make_node("Scaler", ["x"], ["s"], domain="ai.onnx.ml", offset=[0.0], scale=[2.0])
    nodes = [scaler, *(helper.make_node(kind, given, made) for kind, given, made in (
        ("Gemm", ["s", "w"], ["h"]), ("Relu", ["h"], ["r"]), ("Gemm", ["r", "v"], ["y"])
    ))]  # fmt: skip
    model = graph_of(nodes, tensors, x=["n", 6], y=["n", 3])
    model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3))
    x = chance.normal(size=(64, 6)).astype(np.float32)
    content = Quantizer(source(model), batches=lambda: [{"x": x}]).apply(StaticRecipe())
    assert integers(content) >= 6 * 40 + 40 * 3
    assert parity.sqnr_db(run(model.SerializeToString(), x=x), run(content, x=x)) > 25


def test_a_model_of_other_domains_only_is_told_that_it_has_no_integer_form() -> None:
    node = helper.make_node("Scaler", ["x"], ["y"], domain="ai.onnx.ml", offset=[0.0], scale=[2.0])
    model = graph_of([node], {}, x=["n", 6], y=["n", 6])
    del model.opset_import[:]
    model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3))
    quantizer = Quantizer(source(model), batches=lambda: [{"x": np.ones((4, 6), np.float32)}])
    with pytest.raises(RecipeFailed, match="none of the model's operators has an integer form"):
        quantizer.apply(StaticRecipe())


def test_values_that_are_no_float32_are_no_work_for_the_tools(capfd: pytest.CaptureFixture[str]) -> None:
    model = graph_of([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": np.ones((6, 3))}, x=["n", 6], y=["n", 3])
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = TensorProto.DOUBLE
    quantizer = Quantizer(source(model), batches=lambda: [{"x": np.ones((4, 6))}])
    with pytest.raises(RecipeFailed, match="is float32 and varies"):
        quantizer.apply(StaticRecipe())
    assert capfd.readouterr().err == ""
