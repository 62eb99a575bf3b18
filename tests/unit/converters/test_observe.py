"""Looking inside a model a few samples at a time."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from converters.errors import RecipeFailed
from converters.graphs.observe import inner_bytes, pieces
from converters.quantizing.ranges import BINS, _counted, _histograms
from tests.support.conv_models import graph_of


@pytest.mark.parametrize(
    ("size", "at_most", "wanted"),
    [(2, None, [2, 2, 1, 2, 2]), (9, None, [5, 4]), (2, 6, [2, 2, 1, 1]), (4, 5, [4, 1]), (1, 0, [])],
)
def test_pieces_are_the_same_samples_in_order(size: int, at_most: int | None, wanted: list[int]) -> None:
    x = np.arange(9)
    found = [each["x"] for each in pieces([{"x": x[:5]}, {"x": x[5:]}], size, at_most=at_most)]
    assert [len(each) for each in found] == wanted
    assert np.concatenate([*found, x[:0]]).tolist() == x[: sum(wanted)].tolist()


def test_all_values_of_a_graph_count_for_its_memory() -> None:
    nodes = [helper.make_node("Relu", ["x"], ["h"]), helper.make_node("Concat", ["h", "h"], ["y"], axis=1)]
    model = graph_of(nodes, {}, x=["n", 10], y=["n", 20])
    assert inner_bytes(model, {"x": np.ones((1, 10), np.float32)}) == 4 * (10 + 20)
    with pytest.raises(RecipeFailed):
        inner_bytes(model, {"x": np.ones((1, 11), np.int64)})


@pytest.mark.parametrize("span", [(-1.0, 3.0), (0.1, 0.2), (-5e8, -1.0)])
def test_values_are_counted_where_numpy_counts_them(span: tuple[float, float]) -> None:
    values = np.random.default_rng(0).uniform(*span, 10_000).astype(np.float32)
    values = np.clip(np.append(values, span), *span).astype(np.float32)
    counts, wanted = _counted(values, span), np.histogram(values, BINS, span)[0]
    assert counts.sum() == len(values)
    assert np.abs(np.cumsum(counts - wanted)).max() <= 1


def test_of_large_values_only_as_many_elements_are_counted_as_say_enough() -> None:
    """2**18 elements a sample: four samples are enough."""
    model = graph_of([helper.make_node("Neg", ["x"], ["y"])], {}, x=["n", 2**18], y=["n", 2**18])
    x = np.tile(np.linspace(-1, 1, 2**18, dtype=np.float32), (9, 1))
    batches = [{"x": x[at : at + 1]} for at in range(len(x))]
    assert {name: int(counts.sum()) for name, counts in _histograms(model, {"y": (-1.0, 1.0)}, batches).items()} == {"y": 2**20}
    few = [{"x": x[:2]}]
    assert int(_histograms(model, {"x": (-1.0, 1.0)}, few)["x"].sum()) == 2**19
