"""The cures that a search tries: clipped ranges and smoothed products, each against what it promises."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from onnx import helper

from converters.errors import RecipeFailed
from converters.graphs.lossless import likeness
from converters.graphs.observe import session
from converters.graphs.smooth import factors, smooth
from converters.quantizing.quantize import Quantizer
from converters.quantizing.ranges import BINS, Ranges, clip
from converters.recipe import DYNAMIC, PRODUCTS, Clipping, DynamicRecipe, StaticRecipe
from converters.sources import Source
from fleet_protocol.digests import digest_of
from runtime import parity
from tests.support.conv_models import graph_of, images, separable, separable_tensors


def counted(values: NDArray[np.float64]) -> tuple[NDArray[np.int64], tuple[float, float]]:
    counts, edges = np.histogram(values, BINS)
    return counts.astype(np.int64), (float(edges[0]), float(edges[-1]))


@pytest.mark.parametrize("clipping", ["percentile", "mse"])
def test_a_lone_outlier_is_cut_and_the_rest_kept(clipping: Clipping) -> None:
    values = np.append(np.random.default_rng(0).normal(size=200_000), 60.0)
    low, high = clip(*counted(values), clipping)
    assert high < 50
    assert low <= -2.5


@pytest.mark.parametrize("clipping", ["percentile", "mse"])
def test_a_lone_outlier_below_is_cut_as_one_above_is(clipping: Clipping) -> None:
    values = np.append(np.random.default_rng(0).normal(size=200_000), -60.0)
    low, high = clip(*counted(values), clipping)
    assert low > -50
    assert high >= 2.5


def test_the_percentile_of_what_is_never_negative_begins_where_it_was_seen_to() -> None:
    values = np.append(np.random.default_rng(0).uniform(0.5, 1, size=200_000), 60.0)
    counts, seen = counted(values)
    low, high = clip(counts, seen, "percentile")
    assert low == seen[0]
    assert high < 50


def test_the_whole_range_is_what_was_seen() -> None:
    counts, seen = counted(np.random.default_rng(0).normal(size=1000))
    assert clip(counts, seen, "minmax") == seen


@given(
    hnp.arrays(np.float64, st.integers(2, 60), elements=st.floats(-1e6, 1e6, width=32)), st.sampled_from(["percentile", "mse"])
)
def test_a_clipped_range_is_never_empty_and_never_wider_than_what_was_seen(
    values: NDArray[np.float64], clipping: Clipping
) -> None:
    counts, seen = counted(values)
    if seen[0] >= seen[1]:
        return
    low, high = clip(counts, seen, clipping)
    assert low < high
    assert min(seen[0], 0) <= low
    assert high <= max(seen[1], 0)


def test_constants_and_whole_numbers_have_no_range() -> None:
    model = separable(separable_tensors())
    found = Ranges(model, lambda: [{"x": images()}]).of(["a1", "c2"], "mse")
    assert set(found) == {"a1", "c2"}
    assert found["a1"][0] == 0


def products(outlier: float = 80.0) -> onnx.ModelProto:
    """Two products that share an input with one channel that is much larger than the others, as in transformers."""
    chance = np.random.default_rng(1)
    scale = np.ones(32, np.float32)
    scale[3] = outlier
    first, second = (chance.normal(size=(32, 16)).astype(np.float32) / 6 for _ in range(2))
    first[3] /= outlier
    second[3] /= outlier
    tensors = {"s": scale, "a": first, "b": second}
    nodes = [
        helper.make_node("Mul", ["x", "s"], ["h"]),
        helper.make_node("MatMul", ["h", "a"], ["l"]),
        helper.make_node("MatMul", ["h", "b"], ["r"]),
        helper.make_node("Add", ["l", "r"], ["y"]),
    ]
    return graph_of(nodes, tensors, x=["n", 32], y=["n", 16])


def rows(count: int = 64, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(count, 32)).astype(np.float32)


def test_smoothing_changes_no_answer_and_divides_a_shared_input_once() -> None:
    model = products()
    smoothed = onnx.ModelProto()
    smoothed.CopyFrom(model)
    assert smooth(smoothed, [{"x": rows()}], 0.75) == 1
    assert [node.op_type for node in smoothed.graph.node].count("Mul") == 2
    assert likeness(model, smoothed, [{"x": rows(seed=5)}]) > 100


def sqnr(recipe: StaticRecipe | DynamicRecipe) -> float:
    source = Source(path=Path("m.onnx"), model=products(), digest=digest_of(b"m"))
    content = Quantizer(source, batches=lambda: [{"x": rows()}]).apply(recipe)
    inputs = {"x": rows(seed=9)}
    (before,), (after,) = (session(each).run(None, inputs) for each in (products().SerializeToString(), content))
    return parity.sqnr_db(before, after)


def test_smoothed_products_are_less_noisy_in_int8() -> None:
    plain = sqnr(StaticRecipe(operators=PRODUCTS))
    assert sqnr(StaticRecipe(operators=PRODUCTS, smooth=0.75)) > plain + 6


def test_the_dynamic_recipe_is_smoothed_too_and_says_so() -> None:
    assert sqnr(DYNAMIC) > sqnr(DynamicRecipe(smooth=None)) + 6
    assert DYNAMIC.choices()["smooth"] == "0.75"
    assert "smooth" not in DynamicRecipe(smooth=None).choices()


@given(st.floats(0.05, 0.95), hnp.arrays(np.float64, 8, elements=st.floats(0, 1e6)))
def test_factors_are_finite_and_leave_silent_channels_alone(alpha: float, activations: NDArray[np.float64]) -> None:
    found = factors(activations, np.ones(8), alpha)
    assert np.isfinite(found).all()
    assert (found > 0).all()
    assert (found[activations == 0] == 1).all()


def test_a_model_without_products_cannot_be_smoothed_or_made_dynamic() -> None:
    node = helper.make_node("Relu", ["x"], ["y"])
    source = Source(path=Path("m.onnx"), model=graph_of([node], {}, x=["n", 2], y=["n", 2]), digest=digest_of(b"m"))
    quantizer = Quantizer(source, batches=lambda: [{"x": np.ones((4, 2), np.float32)}])
    for recipe in (StaticRecipe(smooth=0.5, operators=PRODUCTS), DYNAMIC):
        with pytest.raises(RecipeFailed, match="changes nothing"):
            quantizer.apply(recipe)


def test_the_dynamic_recipe_keeps_convolutions_float() -> None:
    source = Source(path=Path("m.onnx"), model=separable(separable_tensors()), digest=digest_of(b"m"))
    made = onnx.load_from_string(Quantizer(source, batches=lambda: [{"x": images()}]).apply(DYNAMIC))
    operators = [node.op_type for node in made.graph.node]
    assert "MatMulInteger" in operators
    assert "ConvInteger" not in operators
