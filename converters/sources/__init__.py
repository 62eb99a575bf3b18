"""Readers: each turns one kind of model into a `Source`, which is ONNX, and proves that it answers as before.

`reading` tells the kinds apart; frameworks are imported by their own reader only (`keras_reader`, `torch_reader`, …).
"""

from converters.sources.onnx_source import Source, read_onnx
from converters.sources.reading import SAMPLES, Trust, read_source

__all__ = ["SAMPLES", "Source", "Trust", "read_onnx", "read_source"]
