"""What is gained by keeping what an execution provider compiles: loads, and the memory of a second version, each ÷ without.

For every provider that works here and keeps what it compiles; where there is none, the answer is empty. `scripts/test-plugins`
makes an environment with OpenVINO and QNN (whose accelerator is emulated on x86-64).
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

import onnx

from bench.interleaved import medians, ratios
from bench.runtime import LOADS, _encoder, _mobilenet, second_version_bytes
from fleet_protocol.digests import digest_of
from runtime.engines import providers
from runtime.errors import CannotPrepare
from runtime.example_inputs import example
from runtime.model import load
from runtime.tuning import compiled


def measure() -> dict[str, object]:
    compiling = [each.name for each in providers.working() if each.cache]
    with tempfile.TemporaryDirectory(prefix="edgeward-bench-") as scratch:
        made = Path(scratch)
        models = [_fixed(each) for each in (_encoder(made / "encoder.onnx"), _mobilenet(made / "mobilenet.onnx"))]
        return {name: {path.stem: _gain(name, path, made / "cache") for path in models} for name in compiling}


def _fixed(path: Path) -> Path:
    """The model for one sample: QNN compiles fixed shapes only."""
    model = onnx.load(path)
    for value in (*model.graph.input, *model.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if not dim.HasField("dim_value"):
                dim.dim_value = 1
    del model.graph.value_info[:]
    onnx.save(onnx.shape_inference.infer_shapes(model), path)
    return path


def _gain(provider: str, path: Path, cache: Path) -> dict[str, object]:
    try:
        entry = compiled.compile_for(provider, path, digest=digest_of(path.read_bytes()), cache=cache)
    except CannotPrepare as error:
        return {"not kept": str(error)}
    ways = {
        "plain": partial(load, path, provider=provider),
        "compiled": partial(load, path, provider=provider, compiled=entry),
    }
    inputs = example(ways["plain"]().inputs)
    memory = {name: second_version_bytes(way, inputs) for name, way in ways.items()}
    return {
        "load": ratios(medians(ways, rounds=LOADS, batch=1), to="plain"),
        "anonymous memory of a second version": ratios(memory, to="plain"),
    }
