"""Channels that meet: in residual sums, gates and Concat they go together or stay together, and every answer stays."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import helper

from converters.graphs.intervals import Interval, activated, multiplied
from converters.graphs.lossless import compress
from converters.graphs.observe import session
from tests.support.conv_models import Tensors, graph_of, images

WIDTH = 12


def answers(model: onnx.ModelProto, x: NDArray[np.float32]) -> NDArray[np.float32]:
    (values,) = session(model.SerializeToString()).run(None, {"x": x})
    return np.asarray(values, np.float32)


def holds(before: onnx.ModelProto, after: onnx.ModelProto) -> None:
    for factor in (1, 10):
        x = images(6, seed=77) * np.float32(factor)
        np.testing.assert_allclose(answers(after, x), answers(before, x), rtol=2e-4, atol=1e-5)


def drawn(seed: int = 0) -> Tensors:
    chance = np.random.default_rng(seed)
    shapes = {"stem": (WIDTH, 3, 3, 3), "one": (WIDTH, WIDTH, 3, 3), "two": (WIDTH, WIDTH, 3, 3), "out": (4, WIDTH, 1, 1)}
    weights = {name: (chance.normal(size=shape) / 8).astype(np.float32) for name, shape in shapes.items()}
    return weights | {f"{name}.b": np.full(shape[0], 0.05, np.float32) for name, shape in shapes.items()}


def conv(before: str, name: str, after: str, pad: int = 1) -> onnx.NodeProto:
    return helper.make_node("Conv", [before, name, f"{name}.b"], [after], name=name, pads=[pad] * 4)


def relu(before: str, after: str) -> onnx.NodeProto:
    return helper.make_node("Relu", [before], [after])


def residual(tensors: Tensors, meeting: str = "Add") -> onnx.ModelProto:
    """A stem, two convolutions beside a shortcut, and a last layer that reads what meets."""
    nodes = [
        conv("x", "stem", "s0"), relu("s0", "s"), conv("s", "one", "a0"), relu("a0", "a"), conv("a", "two", "b"),
        helper.make_node(meeting, ["b", "s"], ["m0"]), relu("m0", "m"), conv("m", "out", "y", 0),
    ]  # fmt: skip
    return graph_of(nodes, tensors, x=["n", 3, 8, 8], y=["n", 4, 8, 8])


def die(tensors: Tensors, layer: str, channels: list[int], bias: float = -0.5) -> None:
    tensors[layer][channels] = 0
    tensors[f"{layer}.b"][channels] = bias


def removed(model: onnx.ModelProto) -> dict[str, int]:
    found = compress(model, [{"x": images()}])
    holds(model, found.model)
    return {each.layer: each.channels for each in found.removed}


def test_channels_dead_on_both_sides_of_a_sum_go_from_all_layers_that_meet_there() -> None:
    tensors = drawn()
    die(tensors, "stem", [0, 1, 2, 3])
    die(tensors, "two", [0, 1, 2, 3], 0.0)
    assert removed(residual(tensors)) == {"stem": 4, "two": 4}


def test_a_constant_that_a_sum_makes_moves_into_the_layer_behind_it() -> None:
    tensors = drawn()
    die(tensors, "stem", [4, 5, 6, 7], -1.0)
    die(tensors, "two", [4, 5, 6, 7], 0.75)
    assert removed(residual(tensors)) == {"stem": 4, "two": 4}


def test_a_channel_that_lives_on_one_side_stays_on_both() -> None:
    tensors = drawn()
    die(tensors, "two", [0, 1, 2, 3])
    assert removed(residual(tensors)) == {}


def test_what_lies_within_a_block_goes_by_itself() -> None:
    tensors = drawn()
    die(tensors, "one", [0, 1, 2, 3, 9])
    assert removed(residual(tensors)) == {"one": 4}


def test_a_gate_that_closes_a_channel_for_good_takes_both_sides_along() -> None:
    tensors = drawn()
    die(tensors, "stem", [8, 9, 10, 11])
    tensors["one"][:, 8:] = 1.0
    assert removed(residual(tensors, "Mul")) == {"stem": 4, "two": 4}


def concatenated(tensors: Tensors, *, axis: int = 1) -> onnx.ModelProto:
    nodes = [
        conv("x", "stem", "s0"), relu("s0", "s"), conv("s", "one", "a0"), relu("a0", "a"),
        conv("s", "two", "b0"), relu("b0", "b"),
        helper.make_node("Concat", ["a", "b", "x"], ["c"], axis=axis), conv("c", "out", "y", 0),
    ]  # fmt: skip
    wide = {"out": np.random.default_rng(9).normal(size=(4, 2 * WIDTH + 3, 1, 1)).astype(np.float32)}
    return graph_of(nodes, tensors | wide, x=["n", 3, 8, 8], y=["n", 4, 8, 8])


def test_each_way_into_a_concat_loses_its_own_dead_channels() -> None:
    tensors = drawn()
    die(tensors, "one", [0, 1, 2, 3])
    die(tensors, "two", [2, 3, 4, 5, 6, 7, 8, 9], -0.1)
    assert removed(concatenated(tensors)) == {"one": 4, "two": 8}


CHANNELS = st.sets(st.integers(0, WIDTH - 1))


@settings(max_examples=25, deadline=None)
@given(CHANNELS, CHANNELS, CHANNELS, st.floats(-2, 2, width=32), st.sampled_from(["Add", "Sub", "Mul", "Max", "Min", "Concat"]))
def test_whatever_dies_the_answers_stay(one: set[int], two: set[int], stem: set[int], bias: float, meeting: str) -> None:
    tensors = drawn(len(one))
    for layer, channels in (("one", one), ("two", two), ("stem", stem)):
        die(tensors, layer, sorted(channels), bias)
    model = concatenated(tensors) if meeting == "Concat" else residual(tensors, meeting)
    holds(model, compress(model, [{"x": images()}]).model)


@pytest.mark.parametrize(("low", "high"), [(-9, -4), (-4, 0), (-2, -1.6), (-1.4, 2), (3, 9)])
def test_hard_swish_lies_within_its_bounds(low: float, high: float) -> None:
    found = activated(Interval(np.array([low]), np.array([high])), "HardSwish", {})
    assert found is not None
    x = np.linspace(low, high, 501)
    y = x * np.clip(x / 6 + 0.5, 0, 1)
    assert found.low[0] <= y.min() + 1e-3
    assert found.high[0] >= y.max() - 1e-12
    assert found.low[0] == pytest.approx(y.min(), abs=1e-3)


def test_zero_times_anything_is_zero() -> None:
    found = multiplied(Interval(np.zeros(1), np.zeros(1)), Interval(np.array([-1e200]), np.array([1e200])))
    assert found.low[0] == found.high[0] == 0
