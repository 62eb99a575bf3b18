"""onnxruntime behind `Engine`: options from a closed list, external data contained, no custom operators.

It runs on the CPU unless another execution provider is asked for (`runtime.engines.providers`). What such a provider leaves to
the CPU is counted and named in `description`; that it takes nothing at all is an error. Threads that wait spin for a moment
(`SPIN_US`) and then sleep: onnxruntime's default spins for some 50 ms after every run, which a device on battery or with other
work cannot afford. A variant's own session options come on top.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Final

import msgspec
import onnxruntime as ort

from fleet_protocol.tensors import DYNAMIC, DataType, TensorSpec
from runtime.engine import Array
from runtime.engines import nvidia_libraries, plugins, providers
from runtime.engines.onnx_buffers import BoundRuns, bound_runs
from runtime.engines.onnx_files import check_external_data, check_not_compiled
from runtime.errors import EngineUnavailable, InferenceFailed, InvalidInput, ModelRejected

PROVIDER: Final = "CPUExecutionProvider"
AUTO_SHARE: Final = 0.75
"""Of a model's nodes, at least: a provider that takes fewer is not chosen by `auto`, since copies cost more than it gains."""
SPIN_US: Final = 20
"""How long a thread waits for more work before it sleeps: longer than from one operator to the next, and far less than a run.

Near onnxruntime's default on an idle device, and near sleeping at once in CPU time (`docs/tune.md`). 50 µs are no
quicker, and lose beside a busy neighbour; with 10 µs the threads of larger models sleep too early.
"""
_BOUNDED_SPINNING: Final = (1, 26)
"""The first onnxruntime that takes `session.intra_op.spin_duration_us`; to older ones spinning has no end, so theirs sleep."""
_NAMED: Final = 4
"""Kinds of nodes that a description names."""

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
        "session.intra_op.spin_backoff_max",
        "session.intra_op.spin_duration_us",
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

_SIGNATURE: Final = re.compile(r"^/\S+\.(?:cc|h):\d+ .*?\) (?=[A-Z\[])")
_SOURCE: Final = re.compile(r"\b\w+\.(?:cc|h):\d+ \S+ ")
"""Where in onnxruntime's source an error was raised: file and line, then the function, with all its types in front."""


class OnnxEngine:
    """One `InferenceSession`; see `Engine`. `provider` is None for the CPU, or what `runtime.engines.providers` understands.

    `compiled` is the directory of what a named provider compiled of the model; an empty one is filled.
    """

    def __init__(
        self,
        path: Path,
        *,
        session_options: Mapping[str, str],
        threads: int | None,
        provider: str | None = None,
        compiled: Path | None = None,
    ) -> None:
        check_external_data(path)
        if provider not in (None, providers.CPU):
            check_not_compiled(path)
        opened = _opened(path, session_options, threads, provider, compiled)
        session = opened.session
        self.inputs = tuple(_spec(node, path) for node in session.get_inputs())
        self.outputs = tuple(_spec(node, path) for node in session.get_outputs())
        if not self.outputs:
            raise ModelRejected(f"{path} has no outputs. Export it with those that it shall answer.")
        self._session = session
        # `session.run` checks again what `Model` has checked, and makes its options anew: a third of a small model's time.
        # One RunOptions serves any number of runs at once.
        self._run = session._sess.run  # noqa: SLF001
        self._output_names = [spec.name for spec in self.outputs]
        self._run_options = _quiet_run()
        self._bound: BoundRuns | None = None
        self._unbound = session if session.get_providers() == [PROVIDER] else None
        """Until the first run, which shows whether more like it can be bound."""
        self.description = f"onnxruntime {ort.__version__}, {opened.where}"
        self.choice = opened.choice

    def run(self, inputs: dict[str, Array]) -> list[Array]:
        """See `Engine`."""
        try:
            bound = self._bound
            if bound is not None and (answer := bound.answer(inputs)) is not None:
                return [answer]
        except Exception:  # noqa: BLE001  # the usual run says what it is, or does better: where shapes hang on values
            self._bound = None
        try:
            answers: list[Array] = self._run(self._output_names, inputs, self._run_options)
        except ort.capi.onnxruntime_pybind11_state.InvalidArgument as error:
            raise InvalidInput(f"onnxruntime refuses the inputs: {said(error)}") from error
        except UnicodeEncodeError as error:
            raise InvalidInput(f"A text cannot be said in UTF-8: {error}.") from error
        except Exception as error:  # onnxruntime's errors have no common root
            raise InferenceFailed(f"onnxruntime failed: {said(error)}") from error
        session, self._unbound = self._unbound, None
        if session is not None:
            self._bound = bound_runs(session, self._run_options, inputs, answers)
        return answers

    def close(self) -> None:
        """See `Engine`. The session's memory goes with its last reference."""
        self._bound = self._unbound = None
        del self._run, self._session


@dataclass(frozen=True, slots=True)
class _Opened:
    session: ort.InferenceSession
    where: str
    """Provider, and what it left to the CPU, for people."""
    choice: str
    """Why it runs there, for people."""


def _opened(
    path: Path, session_options: Mapping[str, str], threads: int | None, provider: str | None, compiled: Path | None
) -> _Opened:
    """The session on the provider that was asked for, or chosen. Raises `ModelRejected`."""
    if provider == providers.AUTO:
        return _chosen(path, session_options, threads)
    asked = providers.parse(provider or providers.CPU)
    providers.check(asked)
    why = "was asked for" if provider else "since no other provider was asked for; `edgeward tune` measures what is fastest"
    session, left = _on(path, session_options, threads, replace(asked, compiled=compiled))
    return _Opened(session, asked.describe() + left.describe(), f"{asked.describe()} {why}")


def _chosen(path: Path, session_options: Mapping[str, str], threads: int | None) -> _Opened:
    """The first provider of the table that works and takes nearly all of the model."""
    objections: list[str] = []
    for asked in map(providers.Asked, providers.present()):
        try:
            providers.check(asked)
            session, left = _on(path, session_options, threads, asked)
        except ModelRejected as error:
            if asked.provider.name == providers.CPU:
                raise
            objections.append(str(error))
            continue
        if left.taken_share >= AUTO_SHARE:
            first = f"{asked.describe()} is the first provider that works here and takes the model"
            return _Opened(session, asked.describe() + left.describe(), "; ".join([*objections, first]))
        objections.append(f"{asked.describe()} takes too little{left.describe()}")
    raise EngineUnavailable(f"No execution provider runs {path} here: {'; '.join(objections)}")


@dataclass(frozen=True, slots=True)
class Left:
    """What a provider left to the CPU: kinds of nodes and how many, of `nodes` in all."""

    kinds: Counter[str]
    nodes: int

    @property
    def taken_share(self) -> float:
        """Of the nodes, in [0, 1]."""
        return 1 - self.kinds.total() / self.nodes if self.nodes else 1.0

    def describe(self) -> str:
        """For people, to go behind the provider's name; empty when it took all."""
        if not self.kinds:
            return ""
        named = ", ".join(kind for kind, _ in self.kinds.most_common(_NAMED)) + ("…" if len(self.kinds) > _NAMED else "")
        return f", {self.kinds.total()} of {self.nodes} nodes on the CPU ({named})"


def _on(
    path: Path, session_options: Mapping[str, str], threads: int | None, asked: providers.Asked
) -> tuple[ort.InferenceSession, Left]:
    file, entries = asked.in_place_of(path)
    try:
        session, left = open_session(str(file), session_options, threads, asked, entries)
    except ModelRejected:
        raise
    except Exception as error:  # onnxruntime's errors have no common root
        raise ModelRejected(f"{path} is not a model that onnxruntime {ort.__version__} can load: {said(error)}") from error
    check_taken(asked, left, path)
    return session, left


def check_taken(asked: providers.Asked, left: Left, path: Path) -> None:
    """Raises `EngineUnavailable` when the provider left every node to the CPU."""
    if left.nodes and not left.taken_share:
        raise EngineUnavailable(
            f"{asked.describe()} takes none of the {left.nodes} nodes of {path}; all would run on the CPU. "
            "Ask for the CPU, or for another variant."
        )


def open_session(
    model: str | bytes,
    session_options: Mapping[str, str],
    threads: int | None,
    asked: providers.Asked,
    entries: Mapping[str, str] = MappingProxyType({}),
) -> tuple[ort.InferenceSession, Left]:
    """A session on this provider, and what it leaves to the CPU. Raises `ModelRejected`, and whatever onnxruntime raises.

    `entries` go to onnxruntime beside those that a variant may set.
    """
    key = asked.provider.key
    made = make_options(session_options, threads)
    for name, value in entries.items():
        made.add_session_config_entry(name, value)
    if key == PROVIDER:
        return ort.InferenceSession(model, made, providers=[PROVIDER]), Left(Counter(), 0)
    if key in nvidia_libraries.WANTED_BY:
        nvidia_libraries.load()
    says_where = hasattr(ort.InferenceSession, "get_provider_graph_assignment_info")
    # Where onnxruntime does not say what runs where (before 1.24), nothing may run elsewhere.
    made.add_session_config_entry(
        "session.record_ep_graph_assignment_info" if says_where else "session.disable_cpu_ep_fallback", "1"
    )
    if asked.provider.plugin is not None and providers.is_plugged_in(asked.provider):
        plugins.add(made, asked, asked.provider.plugin)
        session = ort.InferenceSession(model, made)
    else:
        session = ort.InferenceSession(model, made, providers=[(key, asked.options)], enable_fallback=0)
    if session.get_providers()[0] != key:
        raise EngineUnavailable(f"onnxruntime {ort.__version__} left {key} out: its libraries or its device are missing.")
    return session, _left(session) if says_where else Left(Counter(), 0)


def _left(session: ort.InferenceSession) -> Left:
    kinds: Counter[str] = Counter()
    nodes = 0
    for part in session.get_provider_graph_assignment_info():
        here = [node.op_type for node in part.get_nodes()]
        nodes += len(here)
        if part.ep_name == PROVIDER:
            kinds.update(here)
    return Left(kinds, nodes)


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
    entries = waiting(given, ort.__version__)
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


def waiting(given: Mapping[str, str], version: str) -> dict[str, str]:
    """How threads wait in that version of onnxruntime, for a variant that does not say itself whether they spin."""
    entries = {"session.inter_op.allow_spinning": "0"}
    if "session.intra_op.allow_spinning" in given:
        return entries
    if tuple(int(part) for part in version.split(".")[:2]) < _BOUNDED_SPINNING:
        return {**entries, "session.intra_op.allow_spinning": "0"}
    return {**entries, "session.intra_op.spin_duration_us": str(SPIN_US)}


def _graph_level(value: str) -> ort.GraphOptimizationLevel:
    if value not in _GRAPH_LEVELS:
        raise ModelRejected(f"{GRAPH_LEVEL} = {value!r} is not a level. Allowed: {', '.join(_GRAPH_LEVELS)}.")
    return _GRAPH_LEVELS[value]


def _spec(node: ort.NodeArg, path: Path) -> TensorSpec:
    datatype = _DATATYPES.get(node.type)
    if datatype is None:
        raise ModelRejected(f"{path}: {node.name} is a {node.type}, which does not travel. {_remedy(node.type)}")
    shape = tuple(dim if isinstance(dim, int) and dim >= 0 else DYNAMIC for dim in node.shape or ())
    try:
        return msgspec.convert({"name": node.name, "datatype": datatype, "shape": shape}, TensorSpec)
    except msgspec.ValidationError as error:
        raise ModelRejected(f"{path}: {node.name!r} with shape {node.shape} is out of bounds: {error}.") from error


def _remedy(kind: str) -> str:
    """What to do about an input or output of a type that no request can carry."""
    if kind.startswith("tensor("):
        return "Export the model with a Cast at its border: from and to float, float16 or int8."
    return "Export the model with plain tensors (for scikit-learn: zipmap=False)."


def said(error: Exception) -> str:
    """The engine's own words in one line, without its prefix and addresses of its source."""
    text = _SIGNATURE.sub("", " ".join(str(error).split()))
    words = text.split(" : ", 3)[-1] if text.startswith("[ONNXRuntimeError]") else text
    return _SOURCE.sub("", words)[:600]
