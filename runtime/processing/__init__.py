"""Does what `fleet_protocol.processing` declares: what users have to a model's inputs, its outputs to results.

    processor = Processor(manifest.processing, model.inputs, model.outputs, manifest.labels)
    prepared = processor.prepare([Path("cat.jpg").read_bytes()])
    [result] = processor.results(model(prepared.inputs), prepared.placements)

The one implementation, for conversion, devices and tests. Arrays are numpy's; only `decoding` needs Pillow, and only when an
encoded picture comes. No engine, no file and no server may be known here.
"""

from runtime.processing.processor import Prepared, Processor
from runtime.processing.results import Classes, Detections, Result
from runtime.processing.steps import rows

__all__ = ["Classes", "Detections", "Prepared", "Processor", "Result", "rows"]
