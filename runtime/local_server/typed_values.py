"""Numbers and texts that come one by one in a protobuf message, as arrays. Pure; both gRPC protocols read them here.

A protocol carries small types in wider fields; a value that its type cannot hold raises `MalformedRequest`.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from fleet_protocol.tensors import DataType
from runtime import oip_binary
from runtime.engine import Array
from runtime.errors import MalformedRequest


def narrowed(name: str, array: Array, dtype: np.dtype[Any], datatype: DataType) -> Array:
    """The integers of input `name` as `dtype`, which is what `datatype` is kept as. Raises `MalformedRequest`."""
    if array.dtype == dtype:
        return array
    bounds = np.iinfo(dtype)
    if array.size and not (bounds.min <= array.min() and array.max() <= bounds.max):
        raise MalformedRequest(f"Input {name} has a value outside of {datatype}: {bounds.min} to {bounds.max}.")
    return array.astype(dtype)


def texts(values: Collection[bytes]) -> Array:
    """One text for each value, object[count]. Raises `MalformedRequest`."""
    array = np.empty(len(values), np.object_)
    for index, value in enumerate(values):
        array[index] = oip_binary.text(value)
    return array
