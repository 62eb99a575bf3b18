"""A corpus of malformed inference requests, and what their refusal must say. Used on the codec and over HTTP."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final


@dataclass(frozen=True)
class Malformed:
    """One bad body. `message` is a regular expression that the error must match."""

    name: str
    body: bytes
    message: str
    header: str | None = None
    """What `Inference-Header-Content-Length` says; None: there is none."""

    @property
    def headers(self) -> dict[str, str]:
        """The HTTP headers that it comes with."""
        return {} if self.header is None else {"Inference-Header-Content-Length": self.header}


def _tensor(case: str, message: str, /, **changes: Any) -> Malformed:
    """A request whose only tensor differs from a good one; a change to `...` leaves the key out."""
    tensor = {"name": "pixels", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]} | changes
    kept = {key: value for key, value in tensor.items() if value is not ...}
    return Malformed(case, json.dumps({"inputs": [kept]}).encode(), message)


_GOOD: Final = {"name": "pixels", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}

MALFORMED: Final = (
    Malformed("nothing", b"", "not an inference request"),
    Malformed("no JSON", b"pixels=1", "not an inference request"),
    Malformed("no UTF-8", b'{"inputs": [{"name": "\xff\xfe"}]}', "not an inference request"),
    Malformed("cut short", b'{"inputs": [{"name": "pixels", "sha', "truncated"),
    Malformed("two documents", b"{}{}", "not an inference request"),
    Malformed("a list", b"[]", "Expected `object`"),
    Malformed("null", b"null", "Expected `object`"),
    Malformed("no inputs", b"{}", "missing required field `inputs`"),
    Malformed("inputs of another type", b'{"inputs": 3}', "Expected `array`"),
    Malformed("too many inputs", json.dumps({"inputs": [_GOOD] * 300}).encode(), "length <= 256"),
    Malformed("an input given twice", json.dumps({"inputs": [_GOOD, _GOOD]}).encode(), "pixels is given twice"),
    Malformed("nested too deep", b'{"inputs": [' + b"[" * 100_000, "not an inference request"),
    Malformed(
        "data nested too deep",
        b'{"inputs": [{"name": "pixels", "shape": [1], "datatype": "FP32", "data": ' + b"[" * 100_000 + b"]" * 100_000 + b"}]}",
        "recursion|cannot be read",
    ),
    _tensor("no name", "missing required field `name`", name=...),
    _tensor("an empty name", "length >= 1", name=""),
    _tensor("no shape", "missing required field `shape`", shape=...),
    _tensor("a negative size", r"Expected `int` >= 0", shape=[-1, 2]),
    _tensor("a claim of many bytes", "wants 1099511627776", shape=[2**40]),
    _tensor("a size beyond all bounds", "<= 1099511627776|out of range", shape=[2**80]),
    _tensor("an impossible product", "impossible shape", shape=[0, 2**40, 2**40], data=[]),
    _tensor("a size that is no number", "Expected `int`", shape=["2"]),
    _tensor("a rank beyond all bounds", "length <= 16", shape=[1] * 17),
    _tensor("no datatype", "missing required field `datatype`", datatype=...),
    _tensor("an unknown datatype", "Invalid enum value 'FLOAT32'", datatype="FLOAT32"),
    _tensor("no data", "has no `data`", data=...),
    _tensor("data that is no list", "Expected `array`", data=7),
    _tensor("data that is null", "Expected `array`", data=None),
    _tensor("too little data", r"has 1 values; its shape \[1, 2\] wants 2", data=[1]),
    _tensor("too much data", "has 3 values", data=[1, 2, 3]),
    _tensor("nested otherwise than the shape", "not nested as its shape", data=[[1], [2]]),
    _tensor("ragged data", "not nested as its shape", shape=[2, 2], data=[[1, 2], [3]]),
    _tensor("texts for numbers", "Expected `float`, got `str`", data=["1", "2"]),
    _tensor("nested texts for numbers", "Expected `float`, got `str`", data=[["1", "2"]]),
    _tensor("nested nulls", "Expected `float`, got `null`", data=[[None, 1]]),
    _tensor("fractions for whole numbers", "Expected `int`, got `float`", datatype="INT32", data=[1.5, 2]),
    _tensor("truth for numbers", "Expected `int`, got `bool`", datatype="INT32", data=[True, False]),
    _tensor("numbers for truth", "Expected `bool`, got `int`", datatype="BOOL", data=[0, 1]),
    _tensor("numbers for texts", "Expected `str`, got `int`", datatype="BYTES", data=[0, 1]),
    _tensor("a number too large for its type", "outside of INT8", datatype="INT8", data=[1, 200]),
    _tensor("a float too large for its type", "outside of FP32", data=[1, 1e300]),
    _tensor("a half too large for its type", "outside of FP16", datatype="FP16", data=[1, 1e6]),
    _tensor("binary data without its header", "no Inference-Header", parameters={"binary_data_size": 8}, data=...),
    _tensor("shared memory", "shared memory is not spoken", parameters={"shared_memory_region": "a"}, data=...),
    _tensor("parameters of another type", "Expected `object`", parameters=[1]),
    Malformed(
        "a float beyond all bounds",
        b'{"inputs": [{"name": "pixels", "shape": [1], "datatype": "FP32", "data": [1e999]}]}',
        "out of range|cannot be read",
    ),
    Malformed(
        "NaN",
        b'{"inputs": [{"name": "pixels", "shape": [1], "datatype": "FP32", "data": [NaN]}]}',
        "not an inference request",
    ),
    Malformed(
        "an output without a name",
        json.dumps({"inputs": [_GOOD], "outputs": [{}]}).encode(),
        "missing required field `name`",
    ),
    Malformed(
        "fewer classes than none",
        json.dumps({"inputs": [_GOOD], "outputs": [{"name": "scores", "parameters": {"classification": -1}}]}).encode(),
        "Expected `int` >= 0",
    ),
    Malformed(
        "an output into shared memory",
        json.dumps({"inputs": [_GOOD], "outputs": [{"name": "s", "parameters": {"shared_memory_region": "a"}}]}).encode(),
        "shared memory is not spoken",
    ),
    Malformed(
        "binary output that is no truth",
        json.dumps({"inputs": [_GOOD], "parameters": {"binary_data_output": 1}}).encode(),
        "binary_data_output: Expected `bool`",
    ),
)


def binary(raw: bytes, *tensors: dict[str, Any], **more: Any) -> tuple[bytes, int]:
    """A request with raw tensors behind its JSON, and the JSON's length."""
    head = json.dumps({"inputs": list(tensors), **more}).encode()
    return head + raw, len(head)


def raw_tensor(size: Any = 8, **changes: Any) -> dict[str, Any]:
    """A tensor of so many raw bytes; good if they are 8."""
    return {"name": "pixels", "shape": [1, 2], "datatype": "FP32", "parameters": {"binary_data_size": size}} | changes


def _binary(case: str, message: str, raw: bytes, *tensors: dict[str, Any], header: str | None = None) -> Malformed:
    body, length = binary(raw, *tensors)
    return Malformed(case, body, message, str(length) if header is None else header)


_TWO: Final = bytes(8)
_OTHER: Final = raw_tensor(name="other")

MALFORMED_BINARY: Final = (
    _binary("no data behind the JSON", "claims 8 bytes of binary data; 0 are left", b"", raw_tensor()),
    _binary("data cut short", "claims 8 bytes of binary data; 7 are left", _TWO[:7], raw_tensor()),
    _binary("data too long", "1 bytes of binary data are of no input", _TWO + b"x", raw_tensor()),
    _binary("data that no input claims", "8 bytes of binary data are of no input", _TWO, _GOOD),
    _binary("a negative size", "Expected `int` >= 0", _TWO, raw_tensor(-8)),
    _binary("a claim of 2 GB", "claims 2147483648 bytes of binary data; 8 are left", _TWO, raw_tensor(2**31)),
    _binary("a claim beyond all bounds", "<= 4611686018427387904|out of range", _TWO, raw_tensor(2**70)),
    _binary("a size that is no number", "Expected `int", _TWO, raw_tensor("8")),
    _binary("a shape of 2 GB", "has 8 bytes .* wants 8589934592", _TWO, raw_tensor(shape=[2**31])),
    _binary("an impossible shape", "impossible shape", b"", raw_tensor(0, shape=[0, 2**40, 2**40])),
    _binary(
        "another datatype", r"has 8 bytes of binary data; FP64 of shape \[1, 2\] wants 16", _TWO, raw_tensor(datatype="FP64")
    ),
    _binary("a datatype that numpy lacks", "Invalid enum value 'BF16'", _TWO, raw_tensor(datatype="BF16")),
    _binary("data in two places", "both `data` and a `binary_data_size`", _TWO, raw_tensor(data=[1, 2])),
    _binary("an input given twice", "pixels is given twice", _TWO * 2, raw_tensor(), raw_tensor()),
    _binary(
        "sizes in another order than the bytes",
        r"Input pixels has 16 bytes .* wants 8",
        _TWO * 3,
        raw_tensor(16),
        _OTHER | {"shape": [1, 4]},
    ),
    _binary("a truth of 2", "neither 0 nor 1", b"\x01\x02", raw_tensor(2, datatype="BOOL")),
    _binary("a text's length cut short", "breaks off in the length of element 0", b"\x01\0", raw_tensor(2, datatype="BYTES")),
    _binary(
        "a text that claims 4 GB", "element 0 claims 4294967295 bytes; 1 are left", b"\xff" * 5, raw_tensor(5, datatype="BYTES")
    ),
    _binary("too few texts", "has 1 elements; its shape .* wants 2", b"\x01\0\0\0a", raw_tensor(5, datatype="BYTES")),
    _binary("too many texts", "has 3 elements; its shape .* wants 2", bytes(12), raw_tensor(12, datatype="BYTES")),
    _binary("JSON longer than the body", "is 100000, and the body has only", _TWO, raw_tensor(), header="100000"),
    _binary("JSON of 2 GB", "is 2147483648, and the body has only", _TWO, raw_tensor(), header="2147483648"),
    _binary("JSON cut short", "truncated|not an inference request", _TWO, raw_tensor(), header="10"),
    _binary("no JSON at all", "not an inference request", _TWO, raw_tensor(), header="0"),
    _binary(
        "JSON that swallows the data",
        "not an inference request",
        _TWO,
        raw_tensor(),
        header=str(binary(b"1234", raw_tensor())[1] + 4),
    ),
)
"""Requests of the binary tensor extension whose header is a number."""

BAD_HEADERS: Final = ("", "-1", "1.5", "8 bytes", "0x10", "９", "9" * 400)
"""Values of `Inference-Header-Content-Length` that are no length."""
