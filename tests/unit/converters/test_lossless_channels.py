"""Dead channels go and every answer stays: what counts as dead, what must not, and what the next layers get for it."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from converters.graphs.lossless import Compressed, compress
from converters.graphs.observe import session
from tests.support.conv_models import graph_of, images, separable, separable_tensors


def answers(model: onnx.ModelProto, x: NDArray[np.float32]) -> NDArray[np.float32]:
    (values,) = session(model.SerializeToString()).run(None, {"x": x})
    return np.asarray(values, np.float32)


def holds(before: onnx.ModelProto, found: Compressed) -> None:
    """On samples that the compression never saw, ten times as large too."""
    for factor in (1, 10):
        x = images(8, seed=77) * np.float32(factor)
        np.testing.assert_allclose(answers(found.model, x), answers(before, x), rtol=2e-4, atol=2e-6)


def widths(model: onnx.ModelProto) -> list[tuple[int, ...]]:
    return sorted(
        tuple(tensor.dims) for tensor in model.graph.initializer if len(numpy_helper.to_array(tensor).shape) in (2, 4)
    )


def test_a_model_whose_channels_all_live_is_left_as_it_is() -> None:
    model = separable(separable_tensors())
    found = compress(model, [{"x": images()}])
    assert found.model is model
    assert found.describe() == ""


def test_channels_that_relu_always_stops_go_with_their_depthwise_part() -> None:
    tensors = separable_tensors()
    tensors["w1"][4:12] = 0
    tensors["b1"][4:12] = -0.5
    tensors["bd"][4:12] = 0
    model = separable(tensors)
    found = compress(model, [{"x": images()}])
    assert [(each.layer, each.channels, each.of) for each in found.removed] == [("stem", 8, 16)]
    assert widths(found.model) == [(5, 24), (8, 1, 3, 3), (8, 3, 3, 3), (24, 8, 1, 1)]
    holds(model, found)


def test_a_channel_that_dies_in_the_depthwise_layer_goes_from_the_layer_before_too() -> None:
    tensors = separable_tensors()
    tensors["wd"][:4] = 0
    tensors["bd"][:4] = 0.7
    model = separable(tensors)
    found = compress(model, [{"x": images()}])
    assert found.channels == 4
    holds(model, found)


def test_a_constant_that_is_not_zero_moves_into_the_next_bias() -> None:
    tensors = separable_tensors()
    tensors["w2"][::3] = 0
    tensors["b2"][::3] = 2.5
    model = separable(tensors)
    found = compress(model, [{"x": images()}])
    assert found.channels == 8
    holds(model, found)


def test_a_constant_before_a_padded_window_stays_because_borders_see_zeros() -> None:
    tensors = separable_tensors()
    tensors["w1"][:4] = 0
    tensors["b1"][:4] = 1.0
    padded, bare = separable(tensors, pad=1), separable(tensors, pad=0)
    assert compress(padded, [{"x": images()}]).channels == 0
    found = compress(bare, [{"x": images()}])
    assert found.channels == 4
    holds(bare, found)


def test_widths_stay_multiples_of_four() -> None:
    tensors = separable_tensors()
    tensors["w1"][:7] = 0
    tensors["b1"][:7] = -1
    tensors["bd"][:7] = 0
    found = compress(separable(tensors), [{"x": images()}])
    assert found.channels == 4


def test_a_layer_without_a_living_channel_keeps_four() -> None:
    tensors = separable_tensors()
    tensors["w2"][:] = 0
    model = separable(tensors)
    found = compress(model, [{"x": images()}])
    assert found.channels == 20
    holds(model, found)


def test_decayed_weights_count_as_dead_while_they_are_lost_in_rounding() -> None:
    tensors = separable_tensors()
    tensors["w1"][:4] *= np.float32(1e-22)
    tensors["b1"][:4] = np.float32(1e-21)
    tensors["bd"][:4] = np.float32(-1e-3)
    model = separable(tensors, clip=True)
    found = compress(model, [{"x": images()}])
    assert found.channels == 4
    holds(model, found)


def test_small_weights_that_still_speak_stay() -> None:
    tensors = separable_tensors()
    tensors["w2"][:4] *= np.float32(1e-4)
    assert compress(separable(tensors), [{"x": images()}]).channels == 0


def test_a_channel_that_was_only_never_active_on_the_samples_stays() -> None:
    tensors = separable_tensors()
    tensors["b1"][:4] = -20.0
    assert compress(separable(tensors), [{"x": images()}]).channels == 0


def test_channels_that_the_model_answers_with_stay() -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"], kernel_shape=[1, 1])
    model = graph_of([node], {"w": np.zeros((8, 3, 1, 1), np.float32)}, x=["n", 3, 8, 8], y=["n", 8, 8, 8])
    assert compress(model, [{"x": images()}]).channels == 0


def test_channels_that_a_residual_sum_needs_stay() -> None:
    tensors = {
        "w": np.zeros((8, 3, 1, 1), np.float32),
        "v": np.ones((8, 3, 1, 1), np.float32),
        "o": np.ones((4, 8, 1, 1), np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], kernel_shape=[1, 1]),
        helper.make_node("Conv", ["x", "v"], ["b"], kernel_shape=[1, 1]),
        helper.make_node("Add", ["a", "b"], ["s"]),
        helper.make_node("Conv", ["s", "o"], ["y"], kernel_shape=[1, 1]),
    ]  # fmt: skip
    model = graph_of(nodes, tensors, x=["n", 3, 8, 8], y=["n", 4, 8, 8])
    found = compress(model, [{"x": images()}])
    np.testing.assert_allclose(answers(found.model, images(4)), answers(model, images(4)), rtol=1e-5)


@pytest.mark.parametrize("transposed", [False, True])
def test_flattened_maps_lose_whole_blocks_of_columns(transposed: bool) -> None:
    chance = np.random.default_rng(3)
    w = chance.normal(size=(12, 3, 1, 1)).astype(np.float32)
    w[2:6] = 0
    b = np.full(12, 0.3, np.float32)
    d = chance.normal(size=(12 * 64, 5)).astype(np.float32)
    nodes = [helper.make_node("Conv", ["x", "w", "b"], ["c"], kernel_shape=[1, 1]), helper.make_node("Relu", ["c"], ["a"])]
    if transposed:
        nodes.append(helper.make_node("Transpose", ["a"], ["t"], perm=[0, 2, 3, 1]))
    nodes += [
        helper.make_node("Reshape", ["t" if transposed else "a", "shape"], ["flat"]),
        helper.make_node("MatMul", ["flat", "d"], ["m"]),
        helper.make_node("Add", ["m", "e"], ["y"]),
    ]
    tensors = {"w": w, "b": b, "d": d, "e": np.ones(5, np.float32), "shape": np.array([-1, 12 * 64], np.int64)}
    model = graph_of(nodes, tensors, x=["n", 3, 8, 8], y=["n", 5])
    found = compress(model, [{"x": images()}])
    assert found.channels == 4
    x = images(4, seed=5)
    np.testing.assert_allclose(answers(found.model, x), answers(model, x), rtol=1e-4, atol=1e-4)


DEAD = st.fixed_dictionaries(
    {"1": st.sets(st.integers(0, 15)), "d": st.sets(st.integers(0, 15)), "2": st.sets(st.integers(0, 23))}
)


@settings(max_examples=25, deadline=None)
@given(DEAD, st.floats(-2, 2, width=32), st.sampled_from([0, 1]), st.booleans(), st.integers(0, 5))
def test_whatever_dies_the_answers_stay(dead: dict[str, set[int]], bias: float, pad: int, clip: bool, seed: int) -> None:
    tensors = separable_tensors(seed)
    for layer, channels in dead.items():
        tensors[f"w{layer}"][list(channels)] = 0
        tensors[f"b{layer}"][list(channels)] = bias
    model = separable(tensors, pad=pad, clip=clip)
    holds(model, compress(model, [{"x": images(seed=seed)}]))
