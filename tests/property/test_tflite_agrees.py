"""Whatever shapes and attributes an operator has, and in whatever order operators stand: LiteRT answers what ONNX does."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from tests.support.tflite_cases import SAMPLES, Array, Case, assert_agree, graph

few = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])

Draw = st.DrawFn
sizes = st.integers(3, 9)


def numbers(*shape: int) -> Array:
    return np.random.default_rng(sum(shape)).uniform(-1, 1, shape).astype(np.float32)


@st.composite
def windows(draw: Draw, *, dilated: bool = True) -> dict[str, Any]:
    kernel = [draw(st.integers(1, 3)), draw(st.integers(1, 3))]
    found: dict[str, Any] = {"strides": [draw(st.integers(1, 3)), draw(st.integers(1, 2))]}
    if dilated:
        found["dilations"] = [draw(st.integers(1, 2)), draw(st.integers(1, 2))]
    schemes = ["NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"]  # onnxruntime takes no SAME with a dilation
    scheme = draw(st.sampled_from(schemes if found.get("dilations", [1, 1]) == [1, 1] else schemes[:2]))
    if scheme == "NOTSET":
        found["pads"] = [draw(st.integers(0, size - 1)) for size in (*kernel, *kernel)]
    else:
        found["auto_pad"] = scheme
    return found | {"kernel_shape": kernel}


def fits(height: int, width: int, window: dict[str, Any]) -> bool:
    """Whether ONNX Runtime takes it: one window fits into the image without its border, and SAME's border is not negative."""
    if "auto_pad" in window and any(step > k for step, k in zip(window["strides"], window["kernel_shape"], strict=True)):
        return False
    dilation = window.get("dilations", [1, 1])
    return all((k - 1) * d < size for k, d, size in zip(window["kernel_shape"], dilation, (height, width), strict=True))


@few
@given(
    height=sizes, width=sizes, groups=st.integers(1, 3), inside=st.integers(1, 2), outside=st.integers(1, 2), window=windows()
)
def test_convolutions(*, height: int, width: int, groups: int, inside: int, outside: int, window: dict[str, Any]) -> None:
    assume(fits(height, width, window))
    weights = numbers(groups * outside, inside, *window["kernel_shape"])
    constants = {1: weights, 2: numbers(groups * outside)}
    case = Case("Conv", [(SAMPLES, groups * inside, height, width)], constants, {**window, "group": groups})
    assert_agree(graph(case), samples=(2,))


@few
@given(size=st.integers(1, 5), channels=st.integers(1, 3), results=st.integers(1, 3), data=st.data())
def test_transposed_convolutions(size: int, channels: int, results: int, data: st.DataObject) -> None:
    kernel = [data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4))]
    stride = [data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))]
    pads = [data.draw(st.integers(0, (k - 1) // 2)) for k in kernel]
    extra = [data.draw(st.integers(0, step - 1)) for step in stride]
    assume(all((size - 1) * step + k - 2 * pad > 0 for step, k, pad in zip(stride, kernel, pads, strict=True)))
    attributes = {"strides": stride, "pads": [*pads, *pads], "output_padding": extra}
    case = Case("ConvTranspose", [(SAMPLES, channels, size, size + 1)], {1: numbers(channels, results, *kernel)}, attributes)
    assert_agree(graph(case), samples=(2,))


@few
@given(
    height=sizes,
    width=sizes,
    window=windows(dilated=False),
    ceil=st.booleans(),
    kind=st.sampled_from(["MaxPool", "AveragePool"]),
)
def test_pools(height: int, width: int, window: dict[str, Any], ceil: bool, kind: str) -> None:
    assume(fits(height, width, window))
    ceil_mode = int(ceil and "pads" in window)
    case = Case(kind, [(SAMPLES, 3, height, width)], attributes={**window, "ceil_mode": ceil_mode}, opset=22)
    assert_agree(graph(case), samples=(2,))


@few
@given(data=st.data(), moved=st.booleans())
def test_slices(data: st.DataObject, moved: bool) -> None:
    shape = [data.draw(sizes) for _ in range(3)]
    axes = data.draw(st.lists(st.integers(1, 3), unique=True, min_size=1))
    bounds = [
        (data.draw(st.integers(-9, 9)), data.draw(st.integers(-9, 9)), data.draw(st.sampled_from([1, 2, -1]))) for _ in axes
    ]
    left = [len(range(*slice(a, b, c).indices(shape[axis - 1]))) for axis, (a, b, c) in zip(axes, bounds, strict=True)]
    assume(all(left))
    constants = {1 + at: np.array([bound[at] for bound in bounds], np.int64) for at in range(2)}
    constants |= {3: np.array(axes, np.int64), 4: np.array([bound[2] for bound in bounds], np.int64)}
    assert_agree(graph(Case("Slice", [(SAMPLES, *shape)], constants), moved=moved), samples=(2,))


@few
@given(
    axes=st.lists(st.integers(1, 3), unique=True, min_size=1),
    keep=st.booleans(),
    kind=st.sampled_from(["ReduceMean", "ReduceMax", "ReduceLogSumExp"]),
)
def test_reductions(axes: list[int], keep: bool, kind: str) -> None:
    case = Case(kind, [(SAMPLES, 3, 4, 5)], attributes={"axes": axes, "keepdims": int(keep)}, opset=17)
    assert_agree(graph(case, moved=True), samples=(2,))


STEPS = ["Relu", "Transpose", "Conv", "Add", "Reshape", "Concat", "Squeeze", "ReduceMean", "Softmax", "MatMul", "Slice", "Mul"]


class Chain:
    """Builds a model step by step; each step keeps at least two axes and few elements."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.name, self.shape = "x", [2, 4, 3, 5]
        self.before: dict[tuple[int, ...], str] = {tuple(self.shape): "x"}

    def add(self, op: str, shape: list[int], *constants: Array, extra: str = "", **attributes: Any) -> None:
        names = [f"w{len(self.weights) + at}" for at in range(len(constants))]
        self.weights += [numpy_helper.from_array(value, name) for value, name in zip(constants, names, strict=True)]
        inputs = [self.name, *([extra] if extra else []), *names]
        self.name, self.shape = f"t{len(self.nodes)}", shape
        self.nodes.append(helper.make_node(op, inputs, [self.name], **attributes))
        self.before.setdefault(tuple(shape), self.name)

    def step(self, kind: str, chance: st.DataObject) -> None:
        rank = len(self.shape)
        axis = chance.draw(st.integers(1, rank - 1), "axis")
        if kind == "Relu":
            self.add("Relu", self.shape)
        elif kind == "Softmax":
            self.add("Softmax", self.shape, axis=axis)
        elif kind == "Transpose":
            order = [0, *chance.draw(st.permutations(range(1, rank)), "order")]
            self.add("Transpose", [self.shape[each] for each in order], perm=order)
        elif kind == "Conv" and rank in (3, 4):
            self.add("Conv", [self.shape[0], 3, *self.shape[2:]], numbers(3, self.shape[1], *[1] * (rank - 2)))
        elif kind == "Add":
            self.add("Add", self.shape, extra=self.before[tuple(self.shape)])
        elif kind == "Mul":
            self.add("Mul", self.shape, numbers(self.shape[axis], *[1] * (rank - 1 - axis)))
        elif kind == "Reshape":
            first, second = sorted(chance.draw(st.tuples(st.integers(1, rank - 1), st.integers(1, rank - 1)), "joined"))
            joined = [*self.shape[:first], int(np.prod(self.shape[first : second + 1])), *self.shape[second + 1 :]]
            self.add("Reshape", joined, np.array([0, *joined[1:]], np.int64))
        elif kind == "Concat":
            doubled = [size * (1 + (at == axis)) for at, size in enumerate(self.shape)]
            if np.prod(doubled) < 2000:
                self.add("Concat", doubled, extra=self.before[tuple(self.shape)], axis=axis)
        elif kind == "ReduceMean" and rank > 2:
            self.add("ReduceMean", [size for at, size in enumerate(self.shape) if at != axis], axes=[axis], keepdims=0)
        elif kind == "Squeeze" and rank < 5:
            self.add("Unsqueeze", [*self.shape[:axis], 1, *self.shape[axis:]], np.array([axis], np.int64))
        elif kind == "MatMul":
            self.add("MatMul", [*self.shape[:-1], 4], numbers(self.shape[-1], 4))
        elif kind == "Slice" and self.shape[axis] > 1:
            ends = [np.array([each], np.int64) for each in (1, self.shape[axis], axis)]
            self.add("Slice", [size - (at == axis) for at, size in enumerate(self.shape)], *ends)

    def model(self) -> onnx.ModelProto:
        made = helper.make_graph(
            self.nodes,
            "chain",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [SAMPLES, 4, 3, 5])],
            [helper.make_tensor_value_info(self.name, TensorProto.FLOAT, [SAMPLES, *self.shape[1:]])],
            self.weights,
        )
        return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(kinds=st.lists(st.sampled_from(STEPS), min_size=2, max_size=9), chance=st.data())
def test_chains_of_operators(kinds: list[str], chance: st.DataObject) -> None:
    chain = Chain()
    for kind in kinds:
        chain.step(kind, chance)
    assume(chain.nodes)
    assert_agree(chain.model(), samples=(1, 2), tolerance=1e-4)
