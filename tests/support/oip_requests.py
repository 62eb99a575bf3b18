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
    _tensor("binary data", "binary tensor data is not spoken", parameters={"binary_data_size": 8}, data=...),
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
        "classification",
        json.dumps({"inputs": [_GOOD], "outputs": [{"name": "scores", "parameters": {"classification": 3}}]}).encode(),
        "classification extension is not spoken",
    ),
)
