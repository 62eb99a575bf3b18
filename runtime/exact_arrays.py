"""Lists, and arrays of a kindred type, as arrays of the type that is wanted, where that changes values by rounding at most.

numpy itself would cut 1.5 down to 1, let 300 run over to 44, read numbers out of texts, and take any text for true.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fleet_protocol.tensors import NUMPY_NAMES, TensorSpec
from runtime.engine import Array
from runtime.errors import InvalidInput


def of_kind(array: Array, spec: TensorSpec) -> bool:
    """Whether the array's type is a kindred one: of the same kind, or one that it can hold; whole numbers all are."""
    wanted = np.dtype(NUMPY_NAMES[spec.datatype])
    return {array.dtype.kind, wanted.kind} <= set("iu") or np.can_cast(array.dtype, wanted, "same_kind")


def exact_array(value: Any, spec: TensorSpec) -> Array:  # noqa: ANN401  # lists as deep as the input has dimensions
    """`value` as an array of the spec's type; its shape is not looked at. Raises `InvalidInput`."""
    try:
        given = np.asarray(value)
        if given.size and not of_kind(given, spec):
            raise TypeError("it holds what is no number" if given.dtype == object else f"it holds {given.dtype.name}")
        if spec.datatype == "BYTES":
            return np.asarray(value, object)  # numpy's own texts lose zeros at their ends
        with np.errstate(over="raise"):
            made: Array = given.astype(NUMPY_NAMES[spec.datatype], copy=False)
        if made.dtype.kind in "iu" and not np.array_equal(made, given):
            raise OverflowError(f"it holds numbers outside of {spec.datatype}")
    except (ValueError, TypeError, OverflowError, FloatingPointError) as error:
        raise InvalidInput(f"Input {spec.name} cannot be made of this: {error}; wanted {spec.describe()}.") from error
    return made
