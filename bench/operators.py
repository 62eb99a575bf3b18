"""ONNX's own test cases of single operators through the TFLite emitter: what passes, is refused, is wrong, or crashes.

    python -m bench.operators              # the counts, and each operator that is not passed whole
    python -m bench.operators softmax lstm # only these files of cases, each case with its reason

A case is taken as it is given, all inputs computed, and where that is refused as exporters write it: all inputs but the first
are constants. Wrong means that LiteRT's answer differs from onnxruntime's and from the
case's own (of Fourier transforms the latter are the better ones); a crash is anything but a `RecipeFailed`. A process
of its own runs each file of cases, so that a kernel that ends it ends nothing else.
"""

from __future__ import annotations

import collections
import importlib
import json
import multiprocessing
import pkgutil
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from typing import Any, Final

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import numpy_helper
from onnx.backend.test.case import node as cases_of_nodes

from converters.errors import RecipeFailed
from converters.tflite import emit, prepare
from converters.tflite.proof import run_tflite

Array = NDArray[Any]

FILES: Final = sorted(each.name for each in pkgutil.iter_modules(cases_of_nodes.__path__))

_TYPES: Final = frozenset({"float32", "int32", "int64", "bool", "int8", "uint8"})
"""Element types that the emitter speaks of; cases with others are counted apart."""

_NEWEST_OPSET: Final = 26
_NEWEST_IR: Final = 10
"""What onnxruntime takes, while the `onnx` package is ahead of it."""

_TOLERANCE: Final = 2e-5


@dataclass(frozen=True)
class Outcome:
    """What became of one case: `pass`, `constants` (passed once its later inputs were constants), `refused`, `wrong`, `crash`.

    Or `foreign`: onnxruntime does not run it, or it has types that TFLite variants have not.
    """

    case: str
    operator: str
    verdict: str
    reason: str = ""


def measure() -> dict[str, Any]:
    """Counts in all and for each operator, as JSON values."""
    outcomes = list(sweep(FILES))
    every: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for outcome in outcomes:
        every[outcome.operator][outcome.verdict] += 1
    return {
        "cases": len(outcomes),
        "verdicts": dict(collections.Counter(outcome.verdict for outcome in outcomes)),
        "operators": {name: dict(counts) for name, counts in sorted(every.items())},
        "faults": [asdict(outcome) for outcome in outcomes if outcome.verdict in ("wrong", "crash")],
    }


def sweep(files: Sequence[str]) -> Iterator[Outcome]:
    """Every case of these files."""
    context = multiprocessing.get_context("fork")
    for file in files:
        start, ended = 0, False
        while not ended:
            ours, theirs = context.Pipe(duplex=False)
            child = context.Process(target=_file, args=(file, start, theirs))
            child.start()
            theirs.close()
            name = ""
            try:
                while True:
                    found = ours.recv()
                    if isinstance(found, str):
                        name = found
                        continue
                    yield found
                    start += 1
            except EOFError:
                child.join()
            ended = child.exitcode == 0
            if not ended:
                yield Outcome(name or file, file, "crash", f"the process ended with {child.exitcode}")
                start += 1


def _file(file: str, start: int, answers: Connection) -> None:
    """In a process of its own: sends each case's name, then its outcome."""
    before = len(cases_of_nodes._NodeTestCases)  # noqa: SLF001  # the package has no other list that costs less than all
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # casts that overflow on purpose
        importlib.import_module(f"{cases_of_nodes.__name__}.{file}")
    for case in cases_of_nodes._NodeTestCases[before + start :]:  # noqa: SLF001
        answers.send(case.name)
        answers.send(outcome(case))


def outcome(case: Any) -> Outcome:  # noqa: ANN401  # the package has no types
    """One case, as given and, where that is refused, with constants."""
    model = _lowered(case.model)
    operator = next((node.op_type for node in model.graph.node if node.domain == ""), case.name)
    if "_expanded" in case.name:
        operator += " taken apart"
    if any(not value.type.HasField("tensor_type") for value in (*model.graph.input, *model.graph.output)):
        return Outcome(case.name, operator, "foreign", "it has sequences or optional values")
    given = [_array(value) for value in case.data_sets[0][0]]
    inputs = dict(zip([value.name for value in model.graph.input], given, strict=False))
    wanted = _onnx(model, inputs)
    if isinstance(wanted, Exception):
        return Outcome(case.name, operator, "foreign", f"onnxruntime: {wanted}"[:200])
    other = {each.dtype.name for each in (*inputs.values(), *wanted.values())} - _TYPES
    if other:
        return Outcome(case.name, operator, "foreign", f"of {', '.join(sorted(other))}")
    right = [wanted, dict(zip(wanted, [_array(value) for value in case.data_sets[0][1]], strict=False))]
    verdict, reason = _verdict(model, inputs, right)
    if verdict == "refused" and len(inputs) > 1:
        fixed = _with_constants(model, dict(list(inputs.items())[1:]))
        verdict, again = _verdict(fixed, dict(list(inputs.items())[:1]), right)
        verdict, reason = ("constants" if verdict == "pass" else verdict), again or reason
    return Outcome(case.name, operator, verdict, reason)


def _verdict(model: onnx.ModelProto, inputs: dict[str, Array], right: list[dict[str, Array]]) -> tuple[str, str]:
    try:
        got = run_tflite(emit(prepare(model)), inputs)
    except RecipeFailed as error:
        started = str(error).startswith("does not run in LiteRT")
        return ("crash" if started else "refused"), str(error)
    except Exception as error:  # noqa: BLE001  # that there is any other is what is looked for
        return "crash", f"{type(error).__name__}: {error}"
    faults = [_fault(wanted, got) for wanted in right]
    return ("pass", "") if "" in faults else ("wrong", faults[0])


def _fault(wanted: dict[str, Array], got: dict[str, Array]) -> str:
    """What is wrong with the answers, in words; nothing where they are right."""
    for name, values in wanted.items():
        if got[name].shape != values.shape or got[name].dtype != values.dtype:
            return f"{name}: {got[name].dtype}{got[name].shape}, not {values.dtype}{values.shape}"
        largest = np.abs(np.where(np.isfinite(values), values, 0)).max(initial=1)
        near = np.isclose(got[name], values, rtol=_TOLERANCE, atol=_TOLERANCE * largest, equal_nan=True)
        if not near.all():
            return f"{name}: {np.count_nonzero(~near)} of {values.size} differ"
    return ""


def _lowered(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same in the newest operator set that onnxruntime takes; it, not the case, says what is right."""
    found = onnx.ModelProto()
    found.CopyFrom(model)
    found.ir_version = min(model.ir_version, _NEWEST_IR)
    for entry in found.opset_import:
        if entry.domain in ("", "ai.onnx"):
            entry.version = min(entry.version, _NEWEST_OPSET)
    return found


def _with_constants(model: onnx.ModelProto, constants: dict[str, Array]) -> onnx.ModelProto:
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    kept = [value for value in fixed.graph.input if value.name not in constants]
    del fixed.graph.input[:]
    fixed.graph.input.extend(kept)
    fixed.graph.initializer.extend(numpy_helper.from_array(values, name) for name, values in constants.items())
    return fixed


def _onnx(model: onnx.ModelProto, inputs: dict[str, Array]) -> dict[str, Array] | Exception:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        names = [each.name for each in session.get_outputs()]
        return dict(zip(names, session.run(names, inputs), strict=True))
    except Exception as error:  # noqa: BLE001  # onnxruntime's errors have no common root
        return error


def _array(value: Any) -> Array:  # noqa: ANN401  # arrays, numbers and protobufs
    return numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else np.asarray(value)


def main() -> None:
    if sys.argv[1:]:
        for found in sweep(sys.argv[1:]):
            print(f"{found.verdict:9} {found.case}  {found.reason}")
    else:
        print(json.dumps(measure(), indent=2))


if __name__ == "__main__":
    main()
