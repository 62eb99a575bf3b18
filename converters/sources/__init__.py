"""Readers: one module per kind of model file; each gives a `Source`. ONNX is the only kind so far."""

from converters.sources.onnx_source import Source, read_onnx

__all__ = ["Source", "read_onnx"]
