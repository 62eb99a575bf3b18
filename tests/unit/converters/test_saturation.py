"""What a 16-bit-saturating processor computes: by hand, against a slow sum, and on whole models."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from onnx import helper

from converters.graphs.observe import session
from converters.quantizing.saturation import emulate, layers_at_risk, lost, risky
from tests.support.conv_models import graph_of, images
from tests.support.saturating import heavy, static


def slow(activations: NDArray[np.uint8], weights: NDArray[np.int32]) -> NDArray[np.int64]:
    """`vpmaddubsw` as its manual says, one pair after another."""
    sums = np.zeros((len(activations), weights.shape[1]), np.int64)
    for row, values in enumerate(activations):
        for output in range(weights.shape[1]):
            terms = [int(a) * int(w) for a, w in zip(values, weights[:, output], strict=True)]
            pairs = [sum(terms[at : at + 2]) for at in range(0, len(terms), 2)]
            sums[row, output] = sum(max(-32768, min(32767, pair)) for pair in pairs)
    return sums


def test_two_large_products_are_cut_off() -> None:
    weights = np.array([[127], [127], [0]], np.int32)
    assert lost(np.array([[255, 255, 9]], np.uint8), weights).item() == 2 * 127 * 255 - 32767
    assert lost(np.array([[128, 128, 9]], np.uint8), weights).item() == 0


def test_negative_sums_are_cut_off_at_the_other_end() -> None:
    assert lost(np.array([[255, 255]], np.uint8), np.array([[-127], [-127]], np.int32)).item() == -2 * 127 * 255 + 32768


def test_weights_of_seven_bits_are_never_at_risk() -> None:
    assert not risky(np.full((6, 4), 64, np.int32)).any()
    assert risky(np.array([[64], [65]], np.int32)).all()
    assert not risky(np.array([[127], [-127]], np.int32)).any()


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 9), st.integers(1, 3), st.data())
def test_the_loss_is_the_manuals(terms: int, outputs: int, data: st.DataObject) -> None:
    activations = data.draw(hnp.arrays(np.uint8, (3, terms)))
    weights = data.draw(hnp.arrays(np.int8, (terms, outputs))).astype(np.int32)
    exact = activations.astype(np.int64) @ weights
    np.testing.assert_array_equal(exact - lost(activations, weights), slow(activations, weights))


def answers(model: onnx.ModelProto, x: NDArray[np.float32]) -> NDArray[np.float32]:
    (values,) = session(model.SerializeToString()).run(None, {"x": x})
    return np.asarray(values, np.float32)


def test_reduced_range_is_safe_and_computed_as_it_stands() -> None:
    x = images(32, seed=4)
    model = static(heavy(), x, reduce_range=True)
    assert layers_at_risk(model) == []
    ((emulated,),) = emulate(model, [{"x": x}])
    np.testing.assert_array_equal(emulated, answers(model, x))


def test_full_range_is_ruined_where_sums_overflow() -> None:
    x = images(32, seed=4)
    model = static(heavy(), x, reduce_range=False)
    layers = layers_at_risk(model)
    assert "Conv" in {layer.node.op_type for layer in layers}
    ((loud,),) = emulate(model, [{"x": x}])
    assert np.abs(loud - answers(model, x)).max() > 0.02


def test_a_product_of_matrices_loses_what_its_pairs_lose_in_the_layers_own_unit() -> None:
    chance = np.random.default_rng(0)
    weights = chance.integers(-127, 128, (6, 4)).astype(np.int8)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "half", "zx"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "half", "zx"], ["xd"]),
        helper.make_node("DequantizeLinear", ["w", "one", "zw"], ["wd"]),
        helper.make_node("MatMul", ["xd", "wd"], ["m"]),
        helper.make_node("QuantizeLinear", ["m", "coarse", "zy"], ["mq"]),
        helper.make_node("DequantizeLinear", ["mq", "coarse", "zy"], ["y"]),
    ]
    zeros = {"zx": np.uint8(3), "zw": np.int8(0), "zy": np.uint8(128)}
    tensors = {"w": weights, "one": np.float32(1), "half": np.float32(0.5), "coarse": np.float32(400), **zeros}
    model = graph_of(nodes, tensors, x=["n", 6], y=["n", 4])
    stored = chance.integers(3, 256, (20, 6)).astype(np.uint8)
    x = ((stored - 3) / 2).astype(np.float32)
    ((emulated,),) = emulate(model, [{"x": x}])
    wide = weights.astype(np.int32)
    np.testing.assert_allclose(emulated, (slow(stored, wide) - 3 * wide.sum(axis=0)) / 2, atol=200.1)
    assert np.abs(emulated - answers(model, x)).max() > 400


@pytest.mark.parametrize(("auto_pad", "strides"), [("SAME_UPPER", 2), ("SAME_LOWER", 2), ("VALID", 1), ("NOTSET", 2)])
def test_a_convolution_loses_what_its_unfolded_input_loses(auto_pad: str, strides: int) -> None:
    chance = np.random.default_rng(0)
    weights = chance.integers(-127, 128, (4, 3, 3, 3)).astype(np.int8)
    pads = {"pads": [1, 0, 0, 1]} if auto_pad == "NOTSET" else {"auto_pad": auto_pad}
    unit, zero = np.float32(1), {"zx": np.uint8(3), "zw": np.int8(0), "zy": np.uint8(0)}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "one", "zx"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "one", "zx"], ["xd"]),
        helper.make_node("DequantizeLinear", ["w", "one", "zw"], ["wd"]),
        helper.make_node("Conv", ["xd", "wd"], ["c"], kernel_shape=[3, 3], strides=[strides] * 2, **pads),
        helper.make_node("QuantizeLinear", ["c", "coarse", "zy"], ["cq"]),
        helper.make_node("DequantizeLinear", ["cq", "coarse", "zy"], ["y"]),
    ]
    tensors = {"w": weights, "one": unit, "coarse": np.float32(900), **zero}
    model = graph_of(nodes, tensors, x=["n", 3, 7, 7], y=["n", 4, "h", "w"])
    x = chance.integers(0, 250, (2, 3, 7, 7)).astype(np.float32)
    ((emulated,),) = emulate(model, [{"x": x}])
    np.testing.assert_allclose(emulated, expected(x, weights, emulated.shape, auto_pad, strides), atol=900)
    assert np.abs(emulated - answers(model, x)).max() > 900


def expected(
    x: NDArray[np.float32], weights: NDArray[np.int8], shape: tuple[int, ...], auto_pad: str, strides: int
) -> NDArray[np.float64]:
    """One output after another: taps in order, channels within them; activations are stored with zero point 3."""
    around = {"SAME_UPPER": (1, 1), "SAME_LOWER": (1, 1), "VALID": (0, 0), "NOTSET": (1, 0)}[auto_pad]
    side = {"NOTSET": (0, 1)}.get(auto_pad, around)
    stored = np.pad(x + 3, ((0, 0), (0, 0), around, side), constant_values=3).astype(np.uint8)
    made = np.zeros(shape)
    matrix = np.moveaxis(weights, 1, -1).reshape(4, -1).T.astype(np.int32)
    for n, _, row, column in np.ndindex(shape[0], 1, *shape[2:]):
        window = stored[n, :, row * strides : row * strides + 3, column * strides : column * strides + 3]
        terms = np.moveaxis(window, 0, -1).reshape(1, -1)
        made[n, :, row, column] = slow(terms, matrix)[0] - 3 * matrix.sum(axis=0)
    return np.clip(made, 0, 255 * 900)
