"""The child that prepares a model: `python -m runtime.tuning.prepared_child`, asked by `runtime.tuning.prepared`.

onnxruntime optimises the graph, packs the weights for this processor's kernels and writes both; of a TFLite model XNNPACK packs
the weights. Then the plain and the prepared model answer the same inputs, so that nobody has to believe that they are the same
function, nor that this library bears what is asked of it: where it does not, it is this child that ends.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from runtime import parity
from runtime.engine import Array, format_of
from runtime.engines import litert_cached
from runtime.errors import ModelRejected
from runtime.example_inputs import repeated, sample_requests, takes_batches
from runtime.model import Model, load

GRAPH: Final = "model.onnx"
WEIGHTS: Final = "weights.bin"

_EXTERNAL_FROM_BYTES: Final = "1024"
"""Smaller tensors stay in the graph, where they cost nothing."""
_COMPARED_SAMPLES: Final = 8


class BuildOrder(msgspec.Struct, frozen=True, kw_only=True):
    """Which model to prepare, into which (existing) directory, and with what options it will be loaded from there."""

    model: str
    directory: str
    session_options: dict[str, str]
    packed: bool
    load_options: dict[str, str]
    golden: str | None = None


class BuildResult(msgspec.Struct, frozen=True, kw_only=True):
    """How near the answers of the prepared model are to the plain one's: the least over all outputs, in dB."""

    sqnr_db: float


def build(order: BuildOrder) -> BuildResult:
    """Write the prepared files and compare. Raises `RuntimeFailure`."""
    path, directory = Path(order.model), Path(order.directory)
    plain = load(path, session_options=order.session_options)
    if format_of(path) == "tflite":
        litert_cached.write(path, directory, inputs=plain.inputs, outputs=plain.outputs)
        prepared = load(path, session_options=order.load_options, compiled=directory)
    else:
        _write(path, directory, order)
        prepared = load(directory / GRAPH, session_options=order.load_options)
    return BuildResult(sqnr_db=min(_likeness(plain, prepared, request) for request in _requests(plain, order.golden)))


def _requests(model: Model, golden: str | None) -> list[dict[str, Array]]:
    """With one of another shape among them, where the model takes any."""
    found = sample_requests(model.inputs, golden, count=_COMPARED_SAMPLES)
    if takes_batches(model.inputs):
        found.insert(1, repeated(found[0], 3))
    return found


def _write(model: Path, directory: Path, order: BuildOrder) -> None:
    import onnxruntime as ort

    from runtime.engines.onnx_engine import PROVIDER, make_options

    (directory / WEIGHTS).touch()  # a model whose weights are all small writes none
    options = make_options(order.session_options, None)
    options.optimized_model_filepath = str(directory / GRAPH)
    entries = {
        "session.optimized_model_external_initializers_file_name": WEIGHTS,
        "session.optimized_model_external_initializers_min_size_in_bytes": _EXTERNAL_FROM_BYTES,
        "session.save_external_prepacked_constant_initializers": "1" if order.packed else "0",
    }
    for key, value in entries.items():
        options.add_session_config_entry(key, value)
    try:
        ort.InferenceSession(str(model), options, providers=[PROVIDER])
    except Exception as error:  # onnxruntime's errors have no common root
        raise ModelRejected(
            f"onnxruntime {ort.__version__} cannot optimise it: {' '.join(str(error).split())[:600]}."
        ) from error


def _likeness(plain: Model, prepared: Model, request: Mapping[str, Array]) -> float:
    before, after = plain(request), prepared(request)
    return min((parity.likeness_db(before[name], after[name]) for name in before), default=parity.SQNR_LIMIT_DB)


if __name__ == "__main__":
    from runtime.children import serve

    serve(BuildOrder, build)
