"""The TFLite reader against the emitter: what one writes the other reads, and both frameworks answer the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from converters.sources import proof, tflite_reader
from converters.tflite import emit, prepare
from tests.support.tflite_cases import SAMPLES, Array, Case, feeds, graph

N = SAMPLES
IMAGE = (N, 4, 6, 5)
TABLE = (N, 6)


def numbers(*shape: int, low: float = -1.0, high: float = 1.0) -> Array:
    return np.random.default_rng(3).uniform(low, high, shape).astype(np.float32)


def ints(*values: int) -> Array:
    return np.array(values, np.int64)


_SIDES = ([0, 0, 1, 2, 0, 0, 2, 1], [0, 0, 0, 0, 0, 0, 0, 0])
RESIZES = [
    (mode, how, rounding)
    for mode, rounding in (("linear", ""), ("nearest", "floor"), ("nearest", "round_prefer_ceil"))
    for how in ("half_pixel", "asymmetric", "align_corners")
]

CASES = [
    *(
        Case(op, [IMAGE], opset=18)
        for op in ("Abs", "Ceil", "Elu", "Exp", "Floor", "HardSwish", "Neg", "Relu", "Sigmoid", "Sign", "Tanh")
    ),
    *(Case(op, [IMAGE], low=0.1) for op in ("Log", "Sqrt")),
    *(Case(op, [IMAGE, IMAGE], low=0.5) for op in ("Add", "Div", "Max", "Min", "Mul", "Sub")),
    Case("Clip", [IMAGE], constants={1: np.float32(0), 2: np.float32(6)}),
    Case("LeakyRelu", [IMAGE], attributes={"alpha": 0.3}),
    Case("PRelu", [IMAGE], constants={1: numbers(4, 1, 1)}),
    Case("Gelu", [(N, 3, 4)], opset=20),
    Case(
        "Conv", [IMAGE], constants={1: numbers(8, 4, 3, 3), 2: numbers(8)}, attributes={"strides": [2, 1], "pads": [1, 1, 1, 1]}
    ),
    Case(
        "Conv",
        [IMAGE],
        constants={1: numbers(8, 4, 3, 3)},
        attributes={"auto_pad": "SAME_UPPER", "strides": [2, 2]},
        name="same",
    ),
    Case("Conv", [IMAGE], constants={1: numbers(8, 1, 2, 3)}, attributes={"group": 4, "dilations": [1, 2]}, name="depthwise"),
    Case(
        "ConvTranspose", [IMAGE], constants={1: numbers(4, 3, 3, 3)}, attributes={"strides": [2, 2], "output_padding": [1, 0]}
    ),
    Case("MaxPool", [IMAGE], attributes={"kernel_shape": [2, 3], "strides": [2, 1]}),
    Case("AveragePool", [IMAGE], attributes={"kernel_shape": [2, 2], "auto_pad": "SAME_UPPER"}),
    Case("GlobalAveragePool", [IMAGE]),
    Case("Gemm", [TABLE], constants={1: numbers(6, 3), 2: numbers(3)}),
    Case("MatMul", [(N, 5, 6)], constants={1: numbers(6, 3)}),
    Case("MatMul", [(N, 5, 6), (N, 6, 2)], name="computed"),
    Case("Softmax", [TABLE]),
    Case("LogSoftmax", [TABLE]),
    Case("ReduceMean", [IMAGE], attributes={"axes": [2, 3], "keepdims": 0}),
    Case("ReduceSum", [(N, 5, 6)], constants={1: ints(1)}),
    Case("Concat", [IMAGE, IMAGE], attributes={"axis": 1}),
    Case("Transpose", [IMAGE], attributes={"perm": [0, 2, 1, 3]}),
    Case("Pad", [IMAGE], constants={1: ints(*_SIDES[0])}),
    Case("Slice", [IMAGE], constants={1: ints(1, 0), 2: ints(3, 5), 3: ints(1, 2), 4: ints(1, 2)}),
    Case("Split", [(N, 7, 3)], constants={1: ints(2, 5)}, attributes={"axis": 1}, outputs=2),
    Case("Gather", [(N, 5, 6)], constants={1: ints(2, 0, 1)}, attributes={"axis": 1}),
    Case("ArgMax", [(N, 5, 6)], attributes={"axis": 1, "keepdims": 0}),
    Case("DepthToSpace", [(N, 8, 3, 2)], attributes={"blocksize": 2}),
    *(
        Case(
            "Resize",
            [IMAGE],
            constants={1: np.zeros(0, np.float32), 2: np.array([1, 1, 2, 2], np.float32)},
            attributes={
                "mode": mode,
                "coordinate_transformation_mode": how,
                **({"nearest_mode": rounding} if rounding else {}),
            },
            name=f"{mode}-{how}-{rounding}",
        )
        for mode, how, rounding in RESIZES
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_an_operator_survives_the_way_to_tflite_and_back(case: Case, tmp_path: Path) -> None:
    before = graph(case)
    model = tflite_reader.Model(tmp_path / "case.tflite", emit(prepare(before)))
    samples = feeds(before, 5, low=case.low, high=case.high)
    reading = tflite_reader.read(model, samples, stages=False)
    assert proof.differing(reading, samples) == ""
    assert [value.type.tensor_type.shape.dim[0].dim_param for value in reading.model.graph.input] == ["batch"] * len(
        case.shapes
    )
