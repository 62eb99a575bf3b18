"""The binary tensor extension: what is written can be read, nothing but the codec's own error comes out, nothing is copied."""

from __future__ import annotations

import contextlib
import json
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hypothesis_numpy

from fleet_protocol.tensors import NUMPY_NAMES
from runtime import oip_binary
from runtime.errors import MalformedRequest
from runtime.local_server import oip
from tests.support.oip_requests import BAD_HEADERS, MALFORMED_BINARY, binary, raw_tensor

NUMBERS = [name for datatype, name in sorted(NUMPY_NAMES.items()) if datatype != "BYTES"]
DATATYPES = {name: datatype for datatype, name in NUMPY_NAMES.items()}
SHAPES = hypothesis_numpy.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
TEXTS = hypothesis_numpy.arrays(object, SHAPES, elements=st.text(max_size=8))
ARRAYS = st.sampled_from(NUMBERS).flatmap(lambda name: hypothesis_numpy.arrays(name, SHAPES)) | TEXTS


def placed(body: bytes, header_length: int) -> memoryview:
    """The body as the server holds it: its raw tensors begin where any number may."""
    lead_in = oip_binary.lead_in(header_length)
    return memoryview(bytearray(lead_in) + body)[lead_in:]


def everything(array: dict[str, np.ndarray], *, of: oip.InferRequest) -> oip.Answer:
    return oip.encode_response(array, model="m", version="1", request=of)


@given(st.lists(ARRAYS, max_size=4))
def test_what_is_answered_raw_can_be_sent_again_unchanged(arrays: list[np.ndarray]) -> None:
    outputs = {f"x{index}": array for index, array in enumerate(arrays)}
    answer = everything(outputs, of=oip.InferRequest({}, binary=True))
    length = answer.header_length if arrays else len(answer.content)
    assert length is not None
    head = json.loads(answer.content[:length])
    again, length = binary(answer.content[length:], *head["outputs"])
    request = oip.decode_request(placed(again, length), header_length=length)
    assert request.binary
    assert list(request.inputs) == list(outputs)
    for name, array in outputs.items():
        assert request.inputs[name].dtype == array.dtype
        assert request.inputs[name].flags.aligned
        np.testing.assert_array_equal(request.inputs[name], array)


@given(ARRAYS.filter(lambda array: array.ndim > 1))
def test_an_output_in_any_memory_order_is_written_row_by_row(array: np.ndarray) -> None:
    assert bytes(oip_binary.write(array.T)) == bytes(oip_binary.write(np.ascontiguousarray(array.T)))


@settings(max_examples=300)
@given(st.binary(max_size=120), st.integers(0, 130))
def test_no_bytes_raise_anything_but_the_codecs_own_error(body: bytes, length: int) -> None:
    with contextlib.suppress(MalformedRequest):
        oip.decode_request(body, header_length=length)


@settings(max_examples=400)
@given(
    st.sampled_from([*NUMPY_NAMES]),
    st.lists(st.integers(0, 3) | st.integers(-(2**70), 2**70), max_size=4),
    st.integers(-1, 20) | st.integers(-(2**70), 2**70) | st.none() | st.booleans() | st.text(max_size=3),
    st.binary(max_size=20),
)
def test_no_claim_raises_anything_but_the_codecs_own_error(datatype: str, shape: list[int], size: Any, raw: bytes) -> None:
    body, length = binary(raw, raw_tensor(size, shape=shape, datatype=datatype))
    with contextlib.suppress(MalformedRequest):
        request = oip.decode_request(body, header_length=length)
        assert request.inputs["pixels"].nbytes <= max(8 * len(raw), 8)


@pytest.mark.parametrize("case", MALFORMED_BINARY, ids=lambda case: case.name)
def test_a_malformed_request_is_refused_with_what_is_wrong_and_takes_no_memory(case: Any) -> None:
    length = oip_binary.header_length(case.header.encode())
    tracemalloc.start()
    try:
        with pytest.raises(MalformedRequest, match=case.message):
            oip.decode_request(case.body, header_length=length)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("value", BAD_HEADERS)
def test_a_header_that_is_no_length_is_refused(value: str) -> None:
    with pytest.raises(MalformedRequest, match="Inference-Header-Content-Length is"):
        oip_binary.header_length(value.encode())


def test_numbers_are_used_where_they_lie() -> None:
    image = np.arange(150528, dtype=np.float32)
    body, length = binary(image.tobytes(), raw_tensor(image.nbytes, shape=[1, 3, 224, 224]))
    held = placed(body, length)
    array = oip.decode_request(held, header_length=length).inputs["pixels"]
    assert np.shares_memory(array, np.frombuffer(held, np.uint8))
    assert array.flags.aligned
    np.testing.assert_array_equal(array.ravel(), image)


def test_numbers_behind_a_tensor_of_odd_length_are_copied_to_where_they_may_be_read() -> None:
    raw = b"\x01" + np.array([1.5, 2.5], "<f4").tobytes()
    body, length = binary(raw, raw_tensor(1, name="flag", shape=[1], datatype="BOOL"), raw_tensor())
    read = oip.decode_request(placed(body, length), header_length=length).inputs
    assert read["flag"].tolist() == [True]
    assert read["pixels"].tolist() == [[1.5, 2.5]]
    assert read["pixels"].flags.aligned


def test_numbers_are_little_endian_on_the_wire() -> None:
    body, length = binary(b"\x01\0\0\0\x02\0\0\0", raw_tensor(datatype="INT32"))
    array = oip.decode_request(body, header_length=length).inputs["pixels"]
    assert array.tolist() == [[1, 2]]
    assert array.dtype is np.dtype("int32")  # the very object by which a model's quick check knows it
    assert bytes(oip_binary.write(np.array([258], ">i2"))) == b"\x02\x01"


def test_json_and_raw_tensors_may_stand_side_by_side() -> None:
    listed = {"name": "listed", "shape": [1], "datatype": "INT64", "data": [7]}
    body, length = binary(np.ones(2, "<f4").tobytes(), listed, raw_tensor())
    read = oip.decode_request(body, header_length=length).inputs
    assert (read["listed"].tolist(), read["pixels"].tolist()) == ([7], [[1, 1]])


A, B = np.array([1], np.int64), np.array([True, False])
NAMED = [{"name": "a"}, {"name": "b"}]
RAW_A = [{"name": "a", "parameters": {"binary_data": True}}, {"name": "b"}]
LISTED_A = [{"name": "a", "parameters": {"binary_data": False}}, {"name": "b"}]


@pytest.mark.parametrize(
    ("raw", "request_says", "outputs", "expected"),
    [
        (False, None, None, ""),
        (True, None, None, "ab"),
        (True, None, [], "ab"),
        (True, False, None, ""),
        (False, True, None, "ab"),
        (True, None, NAMED, ""),
        (True, True, NAMED, "ab"),
        (False, None, RAW_A, "a"),
        (True, True, LISTED_A, "b"),
    ],
)
def test_an_output_is_raw_when_it_says_so_or_the_request_does_or_the_request_is_raw_and_names_none(
    raw: bool, request_says: bool | None, outputs: list[dict[str, Any]] | None, expected: str
) -> None:
    listed = {"name": "x", "shape": [1], "datatype": "INT64", "data": [7]}
    more: dict[str, Any] = {} if outputs is None else {"outputs": outputs}
    if request_says is not None:
        more["parameters"] = {"binary_data_output": request_says}
    body, length = binary(b"", listed, **more)
    request = oip.decode_request(body, header_length=length if raw else None)
    answer = everything({"a": A, "b": B}, of=request)
    head = json.loads(answer.content[: answer.header_length])
    sizes = {each["name"]: each["parameters"]["binary_data_size"] for each in head["outputs"] if "parameters" in each}
    assert "".join(sizes) == expected
    assert all(("data" in each) != (each["name"] in sizes) for each in head["outputs"])
    assert (answer.header_length is None) == (not expected)
    assert len(answer.content) - (answer.header_length or len(answer.content)) == sum(sizes.values())
