"""The recipes applied: what comes out is int8, runs, is the same each time, and a misfit is one variant's fault."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from converters.errors import RecipeFailed
from converters.quantizing.quantize import Quantizer
from converters.recipe import FLOAT, StaticRecipe, WeightsRecipe
from converters.sources import read_onnx
from runtime import load
from tests.support.models import identity, mlp_classifier, samples


def quantizer(path: Path) -> Quantizer:
    batch = {"pixels": samples(64)[0]}
    return Quantizer(read_onnx(path), batches=lambda: [batch, batch])


def test_float_is_the_given_model_but_for_names(tmp_path: Path) -> None:
    path = mlp_classifier(tmp_path / "m.onnx")
    content = quantizer(path).apply(FLOAT)
    (tmp_path / "f.onnx").write_bytes(content)
    assert len(content) < path.stat().st_size
    inputs = {"pixels": samples(50)[0]}
    np.testing.assert_array_equal(load(tmp_path / "f.onnx")(inputs)["scores"], load(path)(inputs)["scores"])


def test_static_int8_computes_in_integers_and_agrees_with_float(tmp_path: Path) -> None:
    path = mlp_classifier(tmp_path / "m.onnx")
    content = quantizer(path).apply(StaticRecipe())
    (tmp_path / "s.onnx").write_bytes(content)
    operators = [node.op_type for node in onnx.load_from_string(content).graph.node]
    assert operators.count("QuantizeLinear") >= 3
    inputs = {"pixels": samples(200, seed=3)[0]}
    before, after = load(path)(inputs)["scores"], load(tmp_path / "s.onnx")(inputs)["scores"]
    assert np.mean(before.argmax(1) == after.argmax(1)) > 0.97


def test_softmax_stays_float(tmp_path: Path) -> None:
    model = onnx.load_from_string(quantizer(mlp_classifier(tmp_path / "m.onnx")).apply(StaticRecipe()))
    softmax = next(node for node in model.graph.node if node.op_type == "Softmax")
    assert softmax.output[0] == "scores"


def largest_weight(content: bytes) -> int:
    tensors = onnx.load_from_string(content).graph.initializer
    matrices = [
        numpy_helper.to_array(tensor) for tensor in tensors if tensor.data_type == TensorProto.INT8 and len(tensor.dims) == 2
    ]
    assert matrices
    return max(int(np.abs(matrix.astype(np.int32)).max()) for matrix in matrices)


def test_reduced_range_keeps_weights_to_seven_bits_so_that_no_processor_saturates(tmp_path: Path) -> None:
    made = quantizer(mlp_classifier(tmp_path / "m.onnx"))
    assert largest_weight(made.apply(StaticRecipe())) <= 64
    assert largest_weight(made.apply(StaticRecipe(reduce_range=False))) > 64


def test_weight_only_runs_with_its_session_options(tmp_path: Path) -> None:
    path, recipe = mlp_classifier(tmp_path / "m.onnx"), WeightsRecipe()
    (tmp_path / "w.onnx").write_bytes(quantizer(path).apply(recipe))
    inputs = {"pixels": samples(200, seed=3)[0]}
    after = load(tmp_path / "w.onnx", session_options=recipe.session_options)(inputs)["scores"]
    np.testing.assert_allclose(after, load(path)(inputs)["scores"], atol=0.03)


def operators_that_run(model: Path, optimised: Path, options: Mapping[str, str]) -> set[str]:
    """The operators that are left when onnxruntime has optimised `model` under these session options."""
    chosen = onnxruntime.SessionOptions()
    chosen.optimized_model_filepath = str(optimised)
    for key, value in options.items():
        chosen.add_session_config_entry(key, value)
    onnxruntime.InferenceSession(str(model), chosen, providers=["CPUExecutionProvider"])
    return {node.op_type for node in onnx.load(str(optimised)).graph.node}


def test_only_with_its_session_options_are_weights_unpacked_once_and_not_at_every_call(tmp_path: Path) -> None:
    recipe, made = WeightsRecipe(), tmp_path / "w.onnx"
    made.write_bytes(quantizer(mlp_classifier(tmp_path / "m.onnx")).apply(recipe))
    at_every_call = operators_that_run(made, tmp_path / "plain.onnx", {})
    once = operators_that_run(made, tmp_path / "chosen.onnx", recipe.session_options)
    assert any("DequantizeLinear" in name or "NBits" in name for name in at_every_call)
    assert not any("DequantizeLinear" in name or "NBits" in name for name in once)


@pytest.mark.parametrize("recipe", [StaticRecipe(), WeightsRecipe()])
def test_the_same_model_and_samples_give_the_same_bytes(tmp_path: Path, recipe: StaticRecipe | WeightsRecipe) -> None:
    path = mlp_classifier(tmp_path / "m.onnx")
    assert quantizer(path).apply(recipe) == quantizer(path).apply(recipe)


@pytest.mark.parametrize("recipe", [StaticRecipe(), WeightsRecipe()])
def test_what_is_made_carries_no_notes_of_the_tools(tmp_path: Path, recipe: StaticRecipe | WeightsRecipe) -> None:
    model = onnx.load_from_string(quantizer(mlp_classifier(tmp_path / "m.onnx")).apply(recipe))
    assert not model.metadata_props
    assert not model.graph.value_info
    assert {entry.domain for entry in model.opset_import} <= {"", "ai.onnx"}


@pytest.mark.parametrize("recipe", [StaticRecipe(), WeightsRecipe()])
def test_a_model_without_layers_has_nothing_to_quantize(tmp_path: Path, recipe: StaticRecipe | WeightsRecipe) -> None:
    source = read_onnx(identity(tmp_path / "m.onnx"))
    made = Quantizer(source, batches=lambda: [{"x": np.zeros((4, 4), np.float32)}])
    with pytest.raises(RecipeFailed, match=r"^(changes nothing|cannot be made)"):
        made.apply(recipe)


def test_an_old_operator_set_is_raised_for_scales_a_channel(tmp_path: Path) -> None:
    weights = numpy_helper.from_array(np.random.default_rng(0).normal(size=(32, 32)).astype(np.float32), "w")
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 32]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", values[:1], values[1:], [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    (tmp_path / "w.onnx").write_bytes(Quantizer(read_onnx(tmp_path / "m.onnx"), batches=list).apply(WeightsRecipe()))
    inputs = {"x": np.random.default_rng(1).normal(size=(5, 32)).astype(np.float32)}
    np.testing.assert_allclose(load(tmp_path / "w.onnx")(inputs)["y"], load(tmp_path / "m.onnx")(inputs)["y"], atol=0.15)


def test_messages_of_the_tools_lose_this_runs_temporary_paths(tmp_path: Path) -> None:
    def batches() -> list[dict[str, Any]]:
        raise ValueError("cannot open /tmp/edgeward-convert-a1b2c3/prepared.onnx here.")

    source = read_onnx(mlp_classifier(tmp_path / "m.onnx"))
    with pytest.raises(RecipeFailed, match=r"^cannot be made from this model: cannot open the model here$"):
        Quantizer(source, batches=batches).apply(StaticRecipe())


def test_a_full_disk_is_no_fault_of_the_recipe(tmp_path: Path) -> None:
    def batches() -> list[dict[str, Any]]:
        raise OSError(errno.ENOSPC, "No space left on device")

    source = read_onnx(mlp_classifier(tmp_path / "m.onnx"))
    with pytest.raises(OSError, match="No space left"):
        Quantizer(source, batches=batches).apply(StaticRecipe())


def test_a_bias_with_an_axis_too_many_is_quantized_as_scikit_learn_writes_it(tmp_path: Path) -> None:
    path = mlp_classifier(tmp_path / "m.onnx")
    model = onnx.load(str(path))
    for tensor in model.graph.initializer:
        if tensor.name.startswith("bias"):
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor)[None, :], tensor.name))
    path.write_bytes(model.SerializeToString())
    (tmp_path / "s.onnx").write_bytes(quantizer(path).apply(StaticRecipe()))
    inputs = {"pixels": samples(100, seed=3)[0]}
    before, after = load(path)(inputs)["scores"], load(tmp_path / "s.onnx")(inputs)["scores"]
    assert np.mean(before.argmax(1) == after.argmax(1)) > 0.95
