"""Uneven channels are evened out between layers: no answer changes by a bit, and 8 bits hold what they could not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper

from converters.graphs.equalize import equalize
from converters.graphs.observe import session
from converters.quantizing.quantize import Quantizer
from converters.recipe import StaticRecipe, WeightsRecipe
from converters.sources import Source
from fleet_protocol.digests import digest_of
from runtime import parity
from tests.support.conv_models import Tensors, graph_of, images, separable, separable_tensors


def uneven(seed: int = 1) -> Tensors:
    """Channels that differ by thousands, taken back in the layers that read them: as if nothing were."""
    tensors = separable_tensors(seed)
    by = np.exp(np.random.default_rng(seed).normal(size=16) * 2).astype(np.float32)
    tensors["wd"] *= by[:, None, None, None]
    tensors["bd"] *= by
    tensors["w2"] /= by[None, :, None, None]
    return tensors


def answers(content: bytes, x: NDArray[np.float32]) -> NDArray[np.float32]:
    (values,) = session(content).run(None, {"x": x})
    return np.asarray(values, np.float32)


def shaped(model: onnx.ModelProto) -> onnx.ModelProto:
    return onnx.shape_inference.infer_shapes(model)


def test_no_answer_changes_by_a_bit() -> None:
    before = shaped(separable(uneven()))
    after = onnx.ModelProto()
    after.CopyFrom(before)
    assert equalize(after, [{"x": images()}]) >= 1
    assert after != before
    x = images(32, seed=5)
    np.testing.assert_array_equal(answers(after.SerializeToString(), x), answers(before.SerializeToString(), x))


@pytest.mark.parametrize("recipe", [WeightsRecipe(smallest=16), StaticRecipe()])
def test_eight_bits_hold_what_they_could_not(recipe: WeightsRecipe | StaticRecipe) -> None:
    tensors = uneven()
    source = Source(path=Path("m.onnx"), model=separable(tensors), digest=digest_of(b"m"))
    quantizer = Quantizer(source, batches=lambda: [{"x": images(64)}])
    x = images(64, seed=5)
    wanted = answers(source.model.SerializeToString(), x)
    assert parity.sqnr_db(wanted, answers(quantizer.apply(recipe), x)) > 25


def test_even_channels_are_left_alone() -> None:
    model = shaped(separable({name: np.full_like(values, 0.1) for name, values in separable_tensors().items()}))
    before = model.SerializeToString(deterministic=True)
    assert equalize(model, [{"x": images()}]) == 0
    assert model.SerializeToString(deterministic=True) == before


def test_a_limit_lets_no_factor_pass() -> None:
    model = shaped(separable(uneven(), clip=True))
    assert equalize(model, [{"x": images()}]) == 0


def test_weights_that_two_layers_share_are_left_alone() -> None:
    tensors = {"w": np.eye(4, dtype=np.float32) * np.array([1, 10, 100, 1000], np.float32)}
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]), helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("MatMul", ["b", "w"], ["y"]),
    ]  # fmt: skip
    model = shaped(graph_of(nodes, tensors, x=["n", 4], y=["n", 4]))
    assert equalize(model, [{"x": np.ones((4, 4), np.float32)}]) == 0


def test_products_and_their_biases_take_part() -> None:
    chance = np.random.default_rng(0)
    by = np.array([1, 64, 1, 1 / 64, 1, 1, 1, 1], np.float32)
    tensors = {
        "w": chance.normal(size=(6, 8)).astype(np.float32) * by, "b": chance.normal(size=8).astype(np.float32) * by,
        "v": chance.normal(size=(8, 3)).astype(np.float32) / by[:, None],
    }  # fmt: skip
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]), helper.make_node("Add", ["a", "b"], ["c"]),
        helper.make_node("Relu", ["c"], ["d"]), helper.make_node("MatMul", ["d", "v"], ["y"]),
    ]  # fmt: skip
    model = shaped(graph_of(nodes, tensors, x=["n", 6], y=["n", 3]))
    x = chance.normal(size=(32, 6)).astype(np.float32)
    before = answers(model.SerializeToString(), x)
    assert equalize(model, [{"x": x}]) == 1
    np.testing.assert_array_equal(answers(model.SerializeToString(), x), before)
