"""What an operator is: a function that emits one node's part and says what its results are."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from converters.tflite.emission import Call, Results

Operator = Callable[[Call], Results]
Table = Mapping[str, Operator]
