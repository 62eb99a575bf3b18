"""Operators of ai.onnx.ml, as scikit-learn's models are exported, held against ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from converters.errors import RecipeFailed
from converters.tflite import emit, prepare
from converters.tflite.rewriting import RULES
from tests.support.tflite_cases import SAMPLES, assert_agree, feeds, run_onnx, run_tflite

WEIGHTS = np.random.default_rng(1).normal(size=(3, 4)).round(3)
SCORES = {
    "coefficients": WEIGHTS.reshape(-1).tolist(), "intercepts": [0.5, -0.25, 0.0], "classlabels_ints": [3, 5, 9],
}  # fmt: skip
TWO = {"coefficients": WEIGHTS[0].tolist(), "intercepts": [0.5], "classlabels_ints": [3, 5]}

CASES: list[tuple[str, dict[str, Any]]] = [
    ("Scaler", {"offset": [1.0, 0.0, -1.0, 0.5], "scale": [2.0, 1.0, 0.5, 3.0]}),
    ("Scaler", {"offset": [0.5], "scale": [2.0]}),
    ("Normalizer", {"norm": "L1"}),
    ("Normalizer", {"norm": "L2"}),
    ("Binarizer", {"threshold": 0.5}),
    ("Imputer", {"imputed_value_floats": [1.0, 2.0, 3.0, 4.0], "replaced_value_float": float("nan")}),
    ("Imputer", {"imputed_value_floats": [7.0], "replaced_value_float": 0.0}),
    ("LinearRegressor", {"coefficients": WEIGHTS[0].tolist(), "intercepts": [0.5]}),
    ("LinearRegressor", {"coefficients": WEIGHTS.reshape(-1).tolist(), "targets": 3}),
    *(("LinearClassifier", {**SCORES, "post_transform": transform}) for transform in ("NONE", "SOFTMAX", "LOGISTIC")),
    *(("LinearClassifier", {**TWO, "post_transform": transform}) for transform in ("NONE", "LOGISTIC")),
]


def table(op: str, attributes: Mapping[str, Any]) -> onnx.ModelProto:
    """The operator over x[samples, 4]; a classifier answers with a label too."""
    kinds = [TensorProto.INT64, TensorProto.FLOAT] if op == "LinearClassifier" else [TensorProto.FLOAT]
    outputs = [f"y{at}" for at in range(len(kinds))]
    columns = len(attributes.get("classlabels_ints", [])) or attributes.get("targets", 1 if op == "LinearRegressor" else 4)
    shapes: list[list[int | str]] = [[SAMPLES], [SAMPLES, columns]]
    node = helper.make_node(op, ["x"], outputs, name="tested", domain="ai.onnx.ml", **attributes)
    made = helper.make_graph(
        [node],
        "table",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [SAMPLES, 4])],
        [
            helper.make_tensor_value_info(name, kind, dims)
            for name, kind, dims in zip(outputs, kinds, shapes[-len(kinds) :], strict=True)
        ],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("ai.onnx.ml", 3)], ir_version=8)


@pytest.mark.parametrize(("op", "attributes"), CASES, ids=[f"{op}-{at}" for at, (op, _) in enumerate(CASES)])
def test_an_operator_of_tables_answers_as_onnx_does(op: str, attributes: dict[str, Any]) -> None:
    assert_agree(table(op, attributes), samples=(1, 40))


def test_what_is_missing_is_replaced() -> None:
    model = table(*CASES[5])
    inputs = feeds(model, 3)
    inputs["x"][1, 2] = np.nan
    np.testing.assert_array_equal(run_tflite(emit(prepare(model)), inputs)["y0"], run_onnx(model, inputs)["y0"])


@pytest.mark.parametrize("given", [(SAMPLES, 4), (4,)])
def test_columns_are_picked_by_their_numbers(given: tuple[int | str, ...]) -> None:
    nodes = [
        helper.make_node("ArrayFeatureExtractor", ["x", "columns"], ["picked"], domain="ai.onnx.ml"),
        helper.make_node("Relu", ["picked"], ["y"]),
    ]
    made = helper.make_graph(
        nodes,
        "columns",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, given)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [given[0] if len(given) > 1 else 1, 2])],
        [numpy_helper.from_array(np.array([3, 1], np.int64), "columns")],
    )
    opsets = [helper.make_opsetid("ai.onnx.ml", 3), helper.make_opsetid("", 17)]
    assert_agree(helper.make_model(made, opset_imports=opsets, ir_version=8))


def test_labels_that_are_texts_have_no_form() -> None:
    attributes = {"classlabels_strings" if name == "classlabels_ints" else name: value for name, value in SCORES.items()}
    model = table("LinearClassifier", attributes | {"classlabels_strings": ["a", "b", "c"]})
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.STRING
    with pytest.raises(RecipeFailed):
        emit(prepare(model))


def test_every_rule_for_tables_has_a_case() -> None:
    tested = {f"ai.onnx.ml.{op}" for op, _ in CASES} | {"ai.onnx.ml.ArrayFeatureExtractor"}
    assert {name for name in RULES if name.startswith("ai.onnx.ml.")} == tested
