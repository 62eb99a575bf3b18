"""Models whose 8-bit sums overflow 16 bits, quantized with and without the cure."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from converters.quantizing.quantize import Quantizer
from converters.recipe import StaticRecipe
from converters.sources import Source
from fleet_protocol.digests import digest_of
from tests.support.conv_models import separable, separable_tensors


def static(model: onnx.ModelProto, x: NDArray[np.float32], *, reduce_range: bool) -> onnx.ModelProto:
    source = Source(path=Path("m.onnx"), model=model, digest=digest_of(b"m"))
    return onnx.load_from_string(Quantizer(source, batches=lambda: [{"x": x}]).apply(StaticRecipe(reduce_range=reduce_range)))


def heavy() -> onnx.ModelProto:
    """A classifier whose pointwise layer has large weights and large activations: full-range int8 overflows everywhere."""
    tensors = separable_tensors(2)
    tensors["bd"][:] = 5
    tensors["w2"] = np.float32(0.3) + tensors["w2"] * np.float32(0.05)
    return separable(tensors)
