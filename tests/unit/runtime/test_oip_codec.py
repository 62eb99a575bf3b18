"""The Open Inference Protocol as JSON: what is read, what is written, and what is refused."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hypothesis_numpy

from fleet_protocol.tensors import NUMPY_NAMES, DataType
from runtime.errors import InferenceFailed, MalformedRequest
from runtime.local_server import oip
from tests.support.oip_requests import MALFORMED

NUMBERS = sorted(set(NUMPY_NAMES) - {"BYTES"})
FLOATS: list[DataType] = ["FP16", "FP32", "FP64"]


def body(**changes: Any) -> bytes:
    tensor = {"name": "x", "shape": [2, 2], "datatype": "FP32", "data": [1, 2, 3, 4]} | changes
    return json.dumps({"inputs": [tensor]}).encode()


def read(**changes: Any) -> np.ndarray:
    return oip.decode_request(body(**changes)).inputs["x"]


def test_flat_and_nested_data_are_the_same() -> None:
    for data in ([1, 2, 3, 4], [[1, 2], [3, 4]]):
        got = read(data=data)
        assert got.dtype == np.float32
        assert got.tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    ("datatype", "largest", "beyond"), [("FP32", 3.4028235e38, 3.4028236e38), ("FP16", 65519, 65520), ("FP64", 1.79e308, None)]
)
def test_numbers_are_taken_up_to_the_largest_that_their_datatype_rounds_to(
    datatype: str, largest: float, beyond: float
) -> None:
    got = read(data=[largest, 0, -largest, 1], datatype=datatype)
    assert got.tolist() == [[np.finfo(got.dtype).max if beyond else largest, 0], [-got[0, 0], 1]]
    for wrong in (beyond, -beyond) if beyond else ():
        with pytest.raises(MalformedRequest, match=f"outside of {datatype}"):
            read(data=[1, 2, wrong, 3], datatype=datatype)


def test_a_scalar_and_an_empty_tensor_are_read() -> None:
    assert read(shape=[], data=[7]).shape == ()
    assert read(shape=[0, 4], data=[]).shape == (0, 4)


@pytest.mark.parametrize("datatype", NUMBERS)
def test_every_datatype_becomes_its_numpy_type(datatype: str) -> None:
    data = [True, False, True, True] if datatype == "BOOL" else [0, 1, 2, 3]
    assert read(datatype=datatype, data=data).dtype.name == NUMPY_NAMES[datatype]  # type: ignore[index]  # a datatype's name


def test_texts_are_read() -> None:
    assert read(datatype="BYTES", data=["a", "ß", "", "\U0001f600"]).tolist() == [["a", "ß"], ["", "\U0001f600"]]


def test_whole_number_bounds_are_exact() -> None:
    assert read(datatype="UINT64", shape=[2], data=[0, 2**64 - 1]).tolist() == [0, 2**64 - 1]
    assert read(datatype="INT64", shape=[2], data=[-(2**63), 2**63 - 1]).tolist() == [-(2**63), 2**63 - 1]
    for datatype, value in (("UINT64", 2**64), ("UINT64", -1), ("INT64", 2**63), ("INT8", 128), ("UINT8", -1)):
        with pytest.raises(MalformedRequest, match=f"outside of {datatype}"):
            read(datatype=datatype, shape=[1], data=[value])


def test_an_id_and_wanted_outputs_are_read() -> None:
    request = json.loads(body())
    request |= {"id": "42", "outputs": [{"name": "b"}, {"name": "a"}], "parameters": {"sequence_id": 1}}
    read = oip.decode_request(json.dumps(request).encode())
    assert (read.id, [each.name for each in read.outputs or ()]) == ("42", ["b", "a"])
    assert bytes(read.parameters["sequence_id"]) == b"1"
    assert oip.decode_request(body()).outputs is None


@pytest.mark.parametrize("case", MALFORMED, ids=[case.name for case in MALFORMED])
def test_a_malformed_request_is_refused_with_what_is_wrong(case: Any) -> None:
    with pytest.raises(MalformedRequest, match=case.message):
        oip.decode_request(case.body)


def test_a_response_names_the_version_and_carries_the_wanted_outputs() -> None:
    outputs: dict[str, np.ndarray] = {
        "a": np.array([[1.5, 2]], np.float32),
        "b": np.array([3], np.int64),
        "c": np.array(["x"], object),
    }
    asked = oip.InferRequest(
        {}, (oip.WantedOutput("b"), oip.WantedOutput("a")), "7", parameters={"priority": msgspec.Raw(b"3")}
    )
    assert json.loads(oip.encode_response(outputs, model="m", version="1.0.0", request=asked).content) == {
        "model_name": "m",
        "model_version": "1.0.0",
        "id": "7",
        "parameters": {"priority": 3},
        "outputs": [
            {"name": "b", "datatype": "INT64", "shape": [1], "data": [3]},
            {"name": "a", "datatype": "FP32", "shape": [1, 2], "data": [1.5, 2.0]},
        ],
    }
    everything = json.loads(oip.encode_response(outputs, model="m", version="1.0.0", request=oip.InferRequest({})).content)
    assert [each["name"] for each in everything["outputs"]] == ["a", "b", "c"]
    assert "id" not in everything


def test_the_best_classes_are_written_as_score_index_and_label() -> None:
    scores = {"scores": np.array([[0.25, 0.5, 0.125], [3, 1, 2]], np.float32)}
    asked = oip.InferRequest({}, (oip.WantedOutput("scores", classes=2),))
    answer = oip.encode_response(scores, model="m", version="1", request=asked, labels=("cat", "dog"))
    (output,) = json.loads(answer.content)["outputs"]
    assert (output["datatype"], output["shape"]) == ("BYTES", [2, 2])
    assert output["data"] == ["0.500000:1:dog", "0.250000:0:cat", "3.000000:0:cat", "2.000000:2"]


def test_what_is_no_list_of_scores_has_no_best_classes() -> None:
    for array in (np.array(1.0), np.array(["a"], object), np.array([True])):
        asked = oip.InferRequest({}, (oip.WantedOutput("a", classes=1),))
        with pytest.raises(MalformedRequest, match="Output a is no list of scores"):
            oip.encode_response({"a": array}, model="m", version="1", request=asked)


def test_what_is_not_finite_is_refused_as_json_and_flagged_as_raw_bytes() -> None:
    outputs: dict[str, np.ndarray] = {
        "a": np.array([1, np.nan], np.float32),
        "b": np.ones(2, np.float32),
        "c": np.ones(1, np.int64),
    }

    def answer(*wanted: oip.WantedOutput) -> oip.Answer:
        return oip.encode_response(outputs, model="m", version="1", request=oip.InferRequest({}, wanted), finite=False)

    with pytest.raises(InferenceFailed, match="m 1 answered NaN or infinity, which JSON cannot say"):
        answer(oip.WantedOutput("a"))
    raw = answer(oip.WantedOutput("a", binary=True), oip.WantedOutput("b"), oip.WantedOutput("c"))
    assert json.loads(raw.content[: raw.header_length])["parameters"] == {"finite": False}


def test_an_output_that_is_not_there_is_refused() -> None:
    with pytest.raises(MalformedRequest, match="no output z; it has a"):
        oip.encode_response({"a": np.ones(1)}, model="m", version="1", request=oip.InferRequest({}, (oip.WantedOutput("z"),)))


@given(
    hypothesis_numpy.arrays(st.sampled_from([NUMPY_NAMES[each] for each in NUMBERS]), hypothesis_numpy.array_shapes(min_dims=0))
)
def test_what_is_answered_can_be_sent_again_unchanged(array: np.ndarray) -> None:
    if array.dtype.kind == "f":
        array = np.nan_to_num(array, nan=0.5, posinf=1.0, neginf=-1.0)
    answer = json.loads(oip.encode_response({"x": array}, model="m", version="1", request=oip.InferRequest({})).content)
    again = oip.decode_request(json.dumps({"inputs": answer["outputs"]}).encode()).inputs["x"]
    assert again.dtype == array.dtype
    np.testing.assert_array_equal(again, array)


@given(st.sampled_from(FLOATS), st.lists(st.floats(allow_nan=False, allow_infinity=False)))
def test_numbers_are_read_as_numpy_rounds_them_and_refused_where_it_makes_infinity(
    datatype: DataType, values: list[float]
) -> None:
    with np.errstate(over="ignore"):
        rounded = np.array(values).astype(NUMPY_NAMES[datatype])
    given = {"shape": [len(values)], "datatype": datatype, "data": values}
    if np.isfinite(rounded).all():
        np.testing.assert_array_equal(read(**given), rounded)
    else:
        with pytest.raises(MalformedRequest, match=f"outside of {datatype}"):
            read(**given)


@settings(max_examples=300)
@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_no_bytes_raise_anything_but_the_codecs_own_error(content: bytes) -> None:
    with contextlib.suppress(MalformedRequest):
        oip.decode_request(content)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=12,
)


@settings(max_examples=400)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "name": st.text(max_size=3) | _JSON,
            "shape": st.lists(st.integers(-2, 3), max_size=4) | _JSON,
            "datatype": st.sampled_from([*NUMPY_NAMES]) | _JSON,
            "data": _JSON,
            "parameters": _JSON,
        },
    )
)
def test_no_tensor_raises_anything_but_the_codecs_own_error(tensor: dict[str, Any]) -> None:
    with contextlib.suppress(MalformedRequest):
        oip.decode_request(json.dumps({"inputs": [tensor]}).encode())
