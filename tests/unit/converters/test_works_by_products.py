"""Which models are smoothed and quantized by their products alone: those with attention, and no chain of dense layers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import helper

from converters.searching import works_by_products
from converters.sources import Source
from fleet_protocol.digests import digest_of
from tests.support.conv_models import graph_of

WEIGHTS = {"w": np.eye(4, dtype=np.float32)}


def source(nodes: list[onnx.NodeProto]) -> Source:
    model = graph_of(nodes, WEIGHTS, x=["n", 4], y=["n", 4])
    return Source(path=Path("m.onnx"), model=model, digest=digest_of(b"m"))


def dense(layers: int) -> list[onnx.NodeProto]:
    names = ["x", *(f"h{number}" for number in range(1, layers)), "y"]
    return [helper.make_node("MatMul", [names[at], "w"], [names[at + 1]]) for at in range(layers)]


def test_a_chain_of_dense_layers_is_none() -> None:
    assert not works_by_products(source(dense(10)))


def test_attention_multiplies_what_it_computed() -> None:
    attention = [
        helper.make_node("MatMul", ["x", "w"], ["query"]),
        helper.make_node("MatMul", ["x", "w"], ["key"]),
        helper.make_node("Transpose", ["key"], ["turned"]),
        helper.make_node("MatMul", ["query", "turned"], ["scores"]),
        helper.make_node("MatMul", ["scores", "w"], ["mixed"]),
        *(helper.make_node("MatMul", [name, "w"], [given]) for name, given in (("mixed", "wide"), ("wide", "y"))),
    ]
    assert works_by_products(source(attention))
    assert not works_by_products(source(attention[:4]))  # too few to speak of
