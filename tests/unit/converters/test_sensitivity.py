"""Which node is blamed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import helper

from converters.quantizing.quantize import Quantizer
from converters.quantizing.sensitivity import rank
from converters.recipe import StaticRecipe
from converters.sources import Source
from fleet_protocol.digests import digest_of
from tests.support.conv_models import images, separable, separable_tensors

CHAIN = [helper.make_node("Relu", [before], [after], name=f"n{after}") for before, after in ("xa", "ab", "bc")]


def test_the_node_where_the_noise_came_in_is_blamed_and_not_those_behind_it() -> None:
    found = rank(CHAIN, {"a": 60.0, "b": 20.0, "c": 20.0})
    assert [each.node for each in found] == ["nb", "na", "nc"]
    assert found[0].added > 0.009
    assert found[2].added == 0


def test_nodes_that_were_not_measured_are_left_out() -> None:
    assert [each.node for each in rank(CHAIN, {"b": 30.0})] == ["nb"]


def test_a_layer_with_one_huge_channel_suffers_most_and_is_named_as_the_quantizer_wants_it() -> None:
    tensors = separable_tensors(3)
    tensors["b2"][0] = 300.0
    tensors["w3"][:, 0] = 0
    source = Source(path=Path("m.onnx"), model=separable(tensors), digest=digest_of(b"m"))
    quantizer = Quantizer(source, batches=lambda: [{"x": images(32)}])
    recipe = StaticRecipe()
    noisy = quantizer.noise(recipe)
    assert noisy
    names = {node.name for node in quantizer.prepared().graph.node}
    assert {each.node for each in noisy} <= names
    kept = StaticRecipe(excluded=tuple(each.node for each in noisy[:3]))
    assert quantizer.apply(kept) != quantizer.apply(recipe)
    assert np.isfinite([each.sqnr_db for each in noisy]).all()
