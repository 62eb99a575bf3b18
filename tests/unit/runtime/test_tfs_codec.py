"""TensorFlow Serving's JSON: what is read, what is written, and what is refused."""

from __future__ import annotations

import base64
import contextlib
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hypothesis_numpy

from fleet_protocol.tensors import NUMPY_NAMES, DataType, TensorSpec
from runtime.errors import MalformedRequest
from runtime.local_server import tfs


def spec(name: str = "x", datatype: DataType = "FP32", shape: tuple[int, ...] = (-1, 2)) -> TensorSpec:
    return TensorSpec(name=name, datatype=datatype, shape=shape)


def predict(request: Any, *specs: TensorSpec) -> tfs.PredictRequest:
    return tfs.decode_predict(json.dumps(request).encode(), specs or (spec(),))


def test_rows_and_columns_of_one_input_are_read() -> None:
    for request, rows in (
        ({"instances": [[1, 2], [3, 4], [5, 6]]}, 3),
        ({"instances": [{"x": [1, 2]}, {"x": [3, 4]}, {"x": [5, 6]}]}, 3),
        ({"inputs": [[1, 2], [3, 4], [5, 6]]}, None),
        ({"inputs": {"x": [[1, 2], [3, 4], [5, 6]]}, "signature_name": "serving_default"}, None),
    ):
        got = predict(request)
        assert got.rows == rows
        assert got.inputs["x"].dtype == np.float32
        assert got.inputs["x"].tolist() == [[1, 2], [3, 4], [5, 6]]


def test_rows_and_columns_of_several_inputs_are_read() -> None:
    specs = (spec("a", "INT32", (-1,)), spec("b", "FP64", (-1, 2)))
    for request in (
        {"instances": [{"a": 1, "b": [1, 2]}, {"b": [3, 4], "a": 2}]},
        {"inputs": {"a": [1, 2], "b": [[1, 2], [3, 4]]}},
    ):
        inputs = predict(request, *specs).inputs
        assert (inputs["a"].dtype.name, inputs["a"].tolist()) == ("int32", [1, 2])
        assert (inputs["b"].dtype.name, inputs["b"].tolist()) == ("float64", [[1, 2], [3, 4]])


def test_texts_are_read_plain_and_as_base64() -> None:
    packed = {"b64": base64.b64encode("ß".encode()).decode()}
    rows = spec("x", "BYTES", (-1,))
    for request in (
        {"instances": ["a", packed]},
        {"instances": [{"x": "a"}, {"x": packed}]},
        {"inputs": ["a", packed]},
        {"inputs": {"x": ["a", packed]}},
    ):
        assert predict(request, rows).inputs["x"].tolist() == ["a", "ß"]
    single = spec("x", "BYTES", ())
    assert predict({"inputs": packed}, single).inputs["x"].tolist() == "ß"
    assert predict({"inputs": {"x": packed}}, single).inputs["x"].tolist() == "ß"


def test_a_model_may_take_single_values() -> None:
    assert predict({"instances": [1, 2]}, spec(shape=(-1,))).inputs["x"].tolist() == [1, 2]
    assert predict({"inputs": 7}, spec(shape=())).inputs["x"].shape == ()


@pytest.mark.parametrize("datatype", sorted(set(NUMPY_NAMES) - {"BYTES", "BOOL", "FP16", "FP32", "FP64"}))
def test_whole_number_bounds_are_exact(datatype: DataType) -> None:
    bounds = np.iinfo(NUMPY_NAMES[datatype])
    whole = spec("x", datatype, (-1,))
    assert predict({"instances": [int(bounds.min), int(bounds.max)]}, whole).inputs["x"].tolist() == [bounds.min, bounds.max]
    for value in (int(bounds.min) - 1, int(bounds.max) + 1):
        with pytest.raises(MalformedRequest, match="Input x"):
            predict({"instances": [value]}, whole)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ([], "not a predict request"),
        ({}, "either `instances` .* or `inputs`"),
        ({"instances": [[1, 2]], "inputs": [[1, 2]]}, "either `instances` .* or `inputs`"),
        ({"signature_name": "other", "instances": [[1, 2]]}, "no signature 'other'; the only one is serving_default"),
        ({"instances": []}, "is empty|`instances` is empty"),
        ({"instances": {}}, "Expected `array`"),
        ({"instances": [["1", "2"]]}, "Expected `float`, got `str`"),
        ({"instances": [[None, 2]]}, "Expected `float`, got `null`"),
        ({"instances": [[True, 2]]}, "Expected `float`, got `bool`"),
        ({"instances": [[1, 2], [3]]}, "lists of different lengths"),
        ({"instances": [1, 2]}, "Expected `array`, got `int`"),
        ({"instances": [[[1, 2]]]}, "Expected `float`, got `array`"),
        ({"instances": [[1e300, 2]]}, "outside of FP32"),
        ({"instances": [{"y": [1, 2]}]}, "no input y; it has x"),
        ({"instances": [{"x": [1, 2]}, {}]}, "Row 1 has nothing, where row 0 has x"),
        ({"instances": [{"x": [1, 2]}, {"x": [1]}]}, "rows of different shapes"),
        ({"instances": [{"x": [1, 2]}, 3]}, "Expected `array`, got `object`"),
        ({"inputs": {"y": [[1, 2]]}}, "no input y; it has x"),
        ({"inputs": {"b64": "AA=="}}, "no input b64; it has x"),
        ({"inputs": "1"}, "Expected `array`, got `str`"),
    ],
)
def test_a_malformed_predict_request_is_refused_with_what_is_wrong(request_: Any, message: str) -> None:
    with pytest.raises(MalformedRequest, match=message):
        predict(request_)


@pytest.mark.parametrize("text", ["%%%", "YQ", "é"])
def test_a_text_that_is_no_base64_is_refused(text: str) -> None:
    with pytest.raises(MalformedRequest, match="is not base64"):
        predict({"instances": [{"b64": text}]}, spec("x", "BYTES", (-1,)))


def test_base64_of_bytes_that_are_no_text_stays_bytes_which_a_model_of_texts_refuses_itself() -> None:
    assert predict({"instances": [{"b64": "/w=="}]}, spec("x", "BYTES", (-1,))).inputs["x"].tolist() == [b"\xff"]


def test_a_single_value_has_no_rows() -> None:
    with pytest.raises(MalformedRequest, match="Ask in columns"):
        predict({"instances": [1]}, spec(shape=()))


def answered(rows: int | None, **outputs: np.ndarray) -> Any:
    return json.loads(tfs.encode_predict(outputs, rows=rows))


def test_an_answer_comes_in_the_form_of_the_question() -> None:
    a, b = np.array([[1.5], [2.5]], np.float32), np.array([1, 2], np.int64)
    assert answered(2, a=a) == {"predictions": [[1.5], [2.5]]}
    assert answered(2, a=a, b=b) == {"predictions": [{"a": [1.5], "b": 1}, {"a": [2.5], "b": 2}]}
    assert answered(None, a=a) == {"outputs": [[1.5], [2.5]]}
    assert answered(None, a=a, b=b) == {"outputs": {"a": [[1.5], [2.5]], "b": [1, 2]}}


def test_texts_of_an_output_called_bytes_are_answered_as_base64() -> None:
    texts = np.array([["ß"]], object)
    assert answered(None, a=texts) == {"outputs": [["ß"]]}
    assert answered(None, a_bytes=texts) == {"outputs": [[{"b64": base64.b64encode("ß".encode()).decode()}]]}


def test_an_output_without_a_row_for_each_instance_is_refused() -> None:
    for wrong in (np.array(1.0), np.ones(3)):
        with pytest.raises(MalformedRequest, match=r"Output a of shape .* has no row for each of 2"):
            answered(2, a=wrong)


def examples(request: Any, *specs: TensorSpec) -> dict[str, np.ndarray]:
    return tfs.decode_examples(json.dumps(request).encode(), specs or (spec(),))


def test_examples_share_their_context_and_may_be_flat() -> None:
    image, size = spec("image", "FP32", (-1, 2, 2)), spec("size", "INT64", (-1, 1))
    for picture in ([1, 2, 3, 4], [[1, 2], [3, 4]]):
        read = examples(
            {"context": {"size": 7}, "examples": [{"image": picture}, {"image": picture, "size": [8]}]}, image, size
        )
        assert read["image"].tolist() == [[[1, 2], [3, 4]]] * 2
        assert read["size"].tolist() == [[7], [8]]
    assert examples({"examples": [{"x": "a"}]}, spec("x", "BYTES", (-1,)))["x"].tolist() == ["a"]


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({}, "missing required field `examples`"),
        ({"examples": []}, "`examples` is empty"),
        ({"examples": [3]}, "Expected `object`"),
        ({"examples": [{"y": 1}]}, "no input y; it has x"),
        ({"examples": [{"x": [1, 2, 3]}]}, r"Input x has 3 values; wanted x: FP32\[\?, 2\]"),
        ({"examples": [{"x": [1, 2]}, {}]}, "Rows must be alike"),
        ({"examples": [{"x": [1, 2]}], "signature_name": "other"}, "no signature 'other'"),
    ],
)
def test_a_malformed_list_of_examples_is_refused_with_what_is_wrong(request_: Any, message: str) -> None:
    with pytest.raises(MalformedRequest, match=message):
        examples(request_)


def test_classes_come_with_their_labels_or_their_numbers() -> None:
    scores = np.array([[0.25, 0.75]], np.float32)
    assert json.loads(tfs.encode_classification(scores, ("cat",))) == {"results": [[["cat", 0.25], ["1", 0.75]]]}


def test_regressions_are_a_number_each() -> None:
    for values in (np.array([1.5, 2]), np.array([[1.5], [2]])):
        assert json.loads(tfs.encode_regression(values)) == {"results": [1.5, 2]}


NUMBERS = [datatype for datatype in NUMPY_NAMES if datatype != "BYTES"]


@given(st.data(), st.sampled_from(NUMBERS), hypothesis_numpy.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=3))
def test_what_is_answered_can_be_asked_again_unchanged(data: st.DataObject, datatype: DataType, shape: tuple[int, ...]) -> None:
    array = data.draw(hypothesis_numpy.arrays(NUMPY_NAMES[datatype], shape))
    if array.dtype.kind == "f":
        array = np.nan_to_num(array, nan=0.5, posinf=1.0, neginf=-1.0)
    wanted = spec("x", datatype, (-1, *shape[1:]))
    for rows, answer, question in ((None, "outputs", "inputs"), (len(array), "predictions", "instances")):
        again = predict({question: answered(rows, x=array)[answer]}, wanted)
        assert again.inputs["x"].dtype == array.dtype
        assert again.rows == rows
        np.testing.assert_array_equal(again.inputs["x"], array)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["x", "y", "b64"]), inner, max_size=3),
    max_leaves=12,
)
_SHAPES = st.lists(st.sampled_from([-1, 1, 2]), max_size=3).map(tuple)


@settings(max_examples=400)
@given(
    st.dictionaries(st.sampled_from(["instances", "inputs", "examples", "context"]), _JSON, max_size=2),
    st.sampled_from([*NUMPY_NAMES]),
    _SHAPES,
    st.booleans(),
)
def test_no_request_raises_anything_but_the_codecs_own_error(
    request: dict[str, Any], datatype: DataType, shape: tuple[int, ...], two: bool
) -> None:
    specs = (spec("x", datatype, shape), spec("y", datatype, shape))[: 2 if two else 1]
    for read in (predict, examples):
        with contextlib.suppress(MalformedRequest):
            read(request, *specs)
