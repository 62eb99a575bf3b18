"""Turns a trained model and some samples into a bundle: int8 beside float, each measured, with golden outputs and a report.

    bundle = converters.convert(Path("m.onnx"), Path("data.npz"), model="digits", version="1.0.0", out=Path("digits-1.0.0"))

`converters.compress` does the same for a PyTorch model and smaller ones that it trains from it.

Lives here: readers, recipes, training, calibration, evaluation, the parity report, the pipeline. May not live here: MQTT,
signing, publishing, anything that a device needs. Cores (`recipe`, `choice`, `metrics`, `parity`) do no IO.
"""

import runtime  # noqa: F401 - before any engine is imported: it keeps them from reporting to their vendor
from converters.bundle import Bundle, open_bundle, read_report, read_timing
from converters.compression.pipeline import compress
from converters.conversion import convert
from converters.errors import ConversionError

__all__ = ["Bundle", "ConversionError", "compress", "convert", "open_bundle", "read_report", "read_timing"]
