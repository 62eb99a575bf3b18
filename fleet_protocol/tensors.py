"""Tensor specs: names, types and shapes as the Open Inference Protocol v2 spells them, and how arrays fit them."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec

from fleet_protocol import limits

DataType = Literal[
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64", "BYTES"
]
"""The tensor data types of the Open Inference Protocol v2 (kserve/open-inference-protocol)."""

NUMPY_NAMES: Final[dict[DataType, str]] = {
    "BOOL": "bool",
    "UINT8": "uint8",
    "UINT16": "uint16",
    "UINT32": "uint32",
    "UINT64": "uint64",
    "INT8": "int8",
    "INT16": "int16",
    "INT32": "int32",
    "INT64": "int64",
    "FP16": "float16",
    "FP32": "float32",
    "FP64": "float64",
    "BYTES": "object",
}
"""The numpy dtype name of each data type; this package itself needs no numpy."""

DYNAMIC: Final = -1
"""A dimension that a request may choose."""

Dimension = Annotated[int, msgspec.Meta(ge=DYNAMIC)]
Shape = Annotated[tuple[Dimension, ...], msgspec.Meta(max_length=limits.TENSOR_RANK)]
TensorName = Annotated[str, msgspec.Meta(min_length=1, max_length=512)]


class TensorSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One input or output of a model: `shape` has −1 where the dimension is free."""

    name: TensorName
    datatype: DataType
    shape: Shape

    def accepts(self, shape: tuple[int, ...]) -> bool:
        """Whether an array of this shape fits."""
        return len(shape) == len(self.shape) and all(
            want in (DYNAMIC, got) for want, got in zip(self.shape, shape, strict=True)
        )

    def describe(self) -> str:
        """For error messages: `pixels: FP32[?, 64]`."""
        dims = ", ".join("?" if d == DYNAMIC else str(d) for d in self.shape)
        return f"{self.name}: {self.datatype}[{dims}]"
