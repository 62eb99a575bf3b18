"""int8 TFLite from ONNX without TensorFlow: an emitter on LiteRT's own flatbuffer schema, a proof, and ai-edge-quantizer.

    content = emit(prepare(onnx_model))          # float32, NCHW inputs as ONNX has them

`source` prepares the ONNX model, `emitter` walks it, `operators/` is the table, `passes` shorten the graph, `serialise` writes
it; `proof` holds it against ONNX, `quantise` makes int8 of it, `variants` is what the conversion pipeline calls. May not live
here: the choice of variants, bundles, anything that a device needs.
"""

from converters.tflite.emitter import emit
from converters.tflite.source import Prepared, prepare

__all__ = ["Prepared", "emit", "prepare"]
