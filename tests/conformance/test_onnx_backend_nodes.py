"""ONNX's own backend tests of single operators, differentially: `runtime.load` passes exactly what onnxruntime passes.

Every model goes through a plain `InferenceSession` and through `runtime.load`: both refuse it, or both answer the same bits, or
both fail. The one difference is stated: inputs and outputs that are no plain tensors are refused when the model is loaded. The
`onnx` package computes its cases when they are imported, which takes as long as running them; so a plain run takes every fourth
file of cases, and `make soak` takes all.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper
from onnx.backend.test.case import node as cases_of_nodes

import runtime
from runtime import InferenceFailed, ModelRejected

FILES = sorted(each.name for each in pkgutil.iter_modules(cases_of_nodes.__path__))
CHOSEN = FILES[::4]

NO_PLAIN_TENSOR = re.compile(r"^(seq\(.*\)|optional\(.*\)|map\(.*\)|tensor\((bfloat16|float8\w+|float4\w+|u?int[24])\))$")
"""Types that the Open Inference Protocol has no name for, and numpy no numbers."""

Answer = list[NDArray[Any]] | Exception


@pytest.mark.parametrize("file", CHOSEN)
def test_it_passes_what_onnxruntime_passes(file: str, tmp_path: Path) -> None:
    for case in cases_of(file):
        compare(case, tmp_path / "model")


@pytest.mark.soak
@pytest.mark.parametrize("file", [each for each in FILES if each not in CHOSEN])
def test_it_passes_all_that_onnxruntime_passes(file: str, tmp_path: Path) -> None:
    for case in cases_of(file):
        compare(case, tmp_path / "model")


def test_the_files_are_there_and_hold_cases() -> None:
    assert len(FILES) > 150
    assert len(cases_of("relu")) >= 1


@cache
def cases_of(file: str) -> Sequence[Any]:
    """The cases of one file of the `onnx` package, which come as its import computes them."""
    before = len(cases_of_nodes._NodeTestCases)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # casts that overflow on purpose
        importlib.import_module(f"{cases_of_nodes.__name__}.{file}")
    return cases_of_nodes._NodeTestCases[before:]


def compare(case: Any, path: Path) -> None:
    content = case.model.SerializeToString()
    path.write_bytes(content)
    plain = opened(content)
    if isinstance(plain, Exception):
        with pytest.raises(ModelRejected):
            runtime.load(path)
        return
    foreign = [each.type for each in (*plain.get_inputs(), *plain.get_outputs()) if NO_PLAIN_TENSOR.match(each.type)]
    if foreign:
        with pytest.raises(ModelRejected, match=rf"{re.escape(foreign[0])}, which does not travel"):
            runtime.load(path)
        return
    model = runtime.load(path)
    for given, _ in case.data_sets:
        inputs = {spec.name: as_array(value) for spec, value in zip(plain.get_inputs(), given, strict=False)}
        for _ in range(2):  # the second time, small tensors are in buffers that are used again
            assert_same(case.name, asked_plainly(plain, inputs), asked(model, inputs))
    model.close()


def opened(content: bytes) -> ort.InferenceSession | Exception:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # noqa: BLE001  # onnxruntime's errors have no common root
        return error


def asked_plainly(session: ort.InferenceSession, inputs: dict[str, NDArray[Any]]) -> Answer:
    try:
        answers: list[NDArray[Any]] = session.run(None, inputs)
    except Exception as error:  # noqa: BLE001  # onnxruntime's errors have no common root
        return error
    return answers


def asked(model: runtime.Model, inputs: dict[str, NDArray[Any]]) -> Answer:
    try:
        return list(model(inputs).values())
    except InferenceFailed as error:
        return error


def as_array(value: Any) -> NDArray[Any]:
    """A case's input as onnxruntime takes it: numpy's scalars are arrays without axes, and some come as protobufs."""
    return numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else np.asarray(value)


def assert_same(name: str, plain: Answer, ours: Answer) -> None:
    if isinstance(plain, Exception) or isinstance(ours, Exception):
        assert isinstance(plain, Exception), f"{name}: {ours}"
        assert isinstance(ours, Exception), f"{name}: {plain}"
        return
    assert len(plain) == len(ours), name
    for theirs, mine in zip(plain, ours, strict=True):
        assert (mine.dtype, mine.shape) == (theirs.dtype, theirs.shape), name
        assert mine.tolist() == theirs.tolist() or mine.tobytes() == theirs.tobytes(), name
