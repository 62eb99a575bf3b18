"""onnxruntime on the CPU behind `Engine`: options from a closed list, external data contained, no custom operators.

Idle threads sleep (`allow_spinning` is off): onnxruntime's default burns some 50 ms of CPU after every run, which a device
on battery or with other work cannot afford. A variant's own session options come on top.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec
import onnxruntime as ort

from fleet_protocol.tensors import DYNAMIC, DataType, TensorSpec
from runtime.engine import Array
from runtime.errors import InferenceFailed, InvalidInput, ModelRejected
from runtime.onnx_files import check_external_data

PROVIDER: Final = "CPUExecutionProvider"

_DATATYPES: Final[dict[str, DataType]] = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}

CONFIG_ENTRIES: Final = frozenset(
    {
        "mlas.enable_gemm_fastmath_arm64_bfloat16",
        "optimization.disable_specified_optimizers",
        "optimization.enable_gelu_approximation",
        "session.disable_aot_function_inlining",
        "session.disable_double_qdq_remover",
        "session.disable_prepacking",
        "session.disable_quant_qdq",
        "session.dynamic_block_base",
        "session.enable_quant_qdq_cleanup",
        "session.force_spinning_stop",
        "session.inter_op.allow_spinning",
        "session.intra_op.allow_spinning",
        "session.qdq_matmulnbits_accuracy_level",
        "session.qdqisint8allowed",
        "session.set_denormal_as_zero",
        "session.x64quantprecision",
    }
)
"""What a manifest may set. The list is closed: onnxruntime takes any key in silence, and some name files or skip its checks."""

GRAPH_LEVEL: Final = "graph_optimization_level"
_GRAPH_LEVELS: Final = {
    "disable": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}

_LOG_NOTHING: Final = 4
"""Errors come as exceptions; onnxruntime would print them as well."""


class OnnxEngine:
    """One `InferenceSession`; see `Engine`."""

    def __init__(self, path: Path, *, session_options: Mapping[str, str], threads: int | None) -> None:
        options = make_options(session_options, threads)
        check_external_data(path)
        try:
            session = ort.InferenceSession(str(path), options, providers=[PROVIDER])
        except Exception as error:  # onnxruntime's errors have no common root
            raise ModelRejected(f"{path} is not a model that onnxruntime {ort.__version__} can load: {_said(error)}") from error
        self.inputs = tuple(_spec(node, path) for node in session.get_inputs())
        self.outputs = tuple(_spec(node, path) for node in session.get_outputs())
        self._session = session
        # `session.run` checks again what `Model` has checked, and makes its options anew: a third of a small model's time.
        # One RunOptions serves any number of runs at once.
        self._run = session._sess.run  # noqa: SLF001
        self._output_names = [spec.name for spec in self.outputs]
        self._run_options = _quiet_run()
        self.description = f"onnxruntime {ort.__version__}, CPU"

    def run(self, inputs: dict[str, Array]) -> list[Array]:
        """See `Engine`."""
        try:
            answers: list[Array] = self._run(self._output_names, inputs, self._run_options)
        except ort.capi.onnxruntime_pybind11_state.InvalidArgument as error:
            raise InvalidInput(f"onnxruntime refuses the inputs: {_said(error)}") from error
        except Exception as error:  # onnxruntime's errors have no common root
            raise InferenceFailed(f"onnxruntime failed: {_said(error)}") from error
        return answers

    def close(self) -> None:
        """See `Engine`. The session's memory goes with its last reference."""
        del self._run, self._session


def _quiet_run() -> ort.RunOptions:
    options = ort.RunOptions()
    options.log_severity_level = _LOG_NOTHING
    return options


def make_options(given: Mapping[str, str], threads: int | None) -> ort.SessionOptions:
    """The engine's options from a variant's own. Raises `ModelRejected` for one that is not on the list."""
    options = ort.SessionOptions()
    options.log_severity_level = _LOG_NOTHING
    if threads is not None:
        options.intra_op_num_threads = threads
    entries = {"session.intra_op.allow_spinning": "0", "session.inter_op.allow_spinning": "0"}
    for key, value in given.items():
        if key == GRAPH_LEVEL:
            options.graph_optimization_level = _graph_level(value)
        elif key in CONFIG_ENTRIES:
            entries[key] = value
        else:
            allowed = ", ".join(sorted(CONFIG_ENTRIES | {GRAPH_LEVEL}))
            raise ModelRejected(f"The session option {key!r} is not one that a variant may set. Allowed: {allowed}.")
    for key, value in entries.items():
        options.add_session_config_entry(key, value)
    return options


def _graph_level(value: str) -> ort.GraphOptimizationLevel:
    if value not in _GRAPH_LEVELS:
        raise ModelRejected(f"{GRAPH_LEVEL} = {value!r} is not a level. Allowed: {', '.join(_GRAPH_LEVELS)}.")
    return _GRAPH_LEVELS[value]


def _spec(node: ort.NodeArg, path: Path) -> TensorSpec:
    datatype = _DATATYPES.get(node.type)
    if datatype is None:
        raise ModelRejected(
            f"{path}: {node.name} is a {node.type}, which is no tensor that travels. Export the model with plain tensors "
            "(for scikit-learn: zipmap=False)."
        )
    shape = tuple(dim if isinstance(dim, int) and dim >= 0 else DYNAMIC for dim in node.shape or ())
    try:
        return msgspec.convert({"name": node.name, "datatype": datatype, "shape": shape}, TensorSpec)
    except msgspec.ValidationError as error:
        raise ModelRejected(f"{path}: {node.name!r} with shape {node.shape} is out of bounds: {error}.") from error


def _said(error: Exception) -> str:
    """The engine's own words in one line, without its prefix and addresses of its source."""
    text = " ".join(str(error).split())
    return text.split(" : ", 3)[-1][:600] if text.startswith("[ONNXRuntimeError]") else text[:600]
