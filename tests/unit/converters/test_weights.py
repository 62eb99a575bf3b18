"""Weight-only int8: how close, how small, and what it leaves alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from converters.graphs.weights import pack, quantize_weights
from runtime import load
from tests.support.models import mlp_classifier, samples

FINITE = st.floats(-1e6, 1e6, width=32)


@given(
    hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=4, max_side=5), elements=FINITE), st.sampled_from([0, 1, -1])
)
def test_every_weight_comes_back_within_half_a_step_of_its_channel(values: NDArray[np.float32], axis: int) -> None:
    packed, scales = pack(values, axis)
    others = tuple(at for at in range(values.ndim) if at != axis % values.ndim)
    steps = np.expand_dims(scales, others).astype(np.float64)
    assert np.all(np.abs(packed * steps - values) <= steps * 0.5001)


def test_a_channel_of_zeros_stays_zero() -> None:
    packed, scales = pack(np.zeros((2, 3), np.float32), 0)
    assert not packed.any()
    assert np.all(scales > 0)


def test_a_model_shrinks_and_answers_nearly_the_same(tmp_path: Path) -> None:
    path = mlp_classifier(tmp_path / "m.onnx")
    model = onnx.load(str(path))
    assert quantize_weights(model, smallest=256) == 2
    onnx.checker.check_model(model)
    (tmp_path / "w.onnx").write_bytes(model.SerializeToString())
    assert (tmp_path / "w.onnx").stat().st_size < 0.35 * path.stat().st_size
    inputs = {"pixels": samples(50)[0]}
    before, after = load(path)(inputs)["scores"], load(tmp_path / "w.onnx")(inputs)["scores"]
    np.testing.assert_allclose(after, before, atol=0.02)


def test_small_tensors_and_biases_stay_float(tmp_path: Path) -> None:
    model = onnx.load(str(mlp_classifier(tmp_path / "m.onnx")))
    assert quantize_weights(model, smallest=10**6) == 0
    assert all(tensor.data_type == TensorProto.FLOAT for tensor in model.graph.initializer)


@pytest.mark.parametrize(("transposed", "channels"), [(1, 8), (0, 16)])
def test_gemm_has_one_scale_for_each_output_channel(transposed: int, channels: int) -> None:
    weights = np.random.default_rng(0).normal(size=(8, 16)).astype(np.float32)
    node = helper.make_node("Gemm", ["x", "w"], ["y"], transB=transposed)
    width = 16 if transposed else 8
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", width])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", channels])],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph)
    quantize_weights(model, smallest=1)
    scales = next(tensor for tensor in model.graph.initializer if tensor.name == "w/scale")
    assert list(scales.dims) == [channels]
    assert [node.op_type for node in model.graph.node] == ["DequantizeLinear", "Gemm"]
