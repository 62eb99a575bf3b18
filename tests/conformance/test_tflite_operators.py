"""Every operator of the emitter's table, held against ONNX Runtime: stored as in ONNX and otherwise, for 1 and 3 samples."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from converters.tflite.operators import TABLE
from converters.tflite.rewriting import RULES
from tests.support.tflite_cases import SAMPLES, Array, Case, Dims, assert_agree, graph

N = SAMPLES
IMAGE = (N, 4, 6, 5)
VOLUME = (N, 3, 4)
FILM = (N, 2, 4, 5, 6)


def numbers(*shape: int, seed: int = 1, low: float = -1.0, high: float = 1.0) -> Array:
    return np.random.default_rng(seed).uniform(low, high, shape).astype(np.float32)


def ints(*values: int) -> Array:
    return np.array(values, np.int64)


UNARY = [
    "Abs", "Ceil", "Celu", "Cos", "Elu", "Exp", "Floor", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Mish", "Neg",
    "Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Sign", "Sin", "Softplus", "Softsign", "Tanh", "ThresholdedRelu",
]  # fmt: skip

EQUATIONS: dict[str, list[Dims]] = {
    "bij,bjk->bik": [(N, 3, 4), (N, 4, 5)], "bij,jk->bik": [(N, 3, 4), (4, 5)],
    "bqhd,bkhd->bhqk": [(N, 3, 2, 4), (N, 5, 2, 4)], "bhqk,bkhd->bqhd": [(N, 2, 3, 5), (N, 5, 2, 4)],
    "nchw,nchw->nc": [IMAGE, IMAGE], "bi,bj->bij": [(N, 3), (N, 4)], "bij->bji": [VOLUME], "bij->b": [VOLUME],
    "bij,bij->bij": [VOLUME, VOLUME], "...ij,jk": [IMAGE, (5, 2)],
    "nkctv,kvw->nctw": [(N, 2, 3, 4, 5), (2, 5, 5)],
    "bi,ij,bj->b": [(N, 3), (3, 4), (N, 4)], "bhwc,hkc->bhwk": [(N, 2, 3, 4), (2, 5, 4)],
}  # fmt: skip

CASES = [
    *(Case(op, [IMAGE], opset=18) for op in UNARY),
    *(Case(op, [IMAGE], low=0.1, opset=17) for op in ("Log", "Sqrt")),
    Case("IsNaN", [IMAGE]),
    Case("Dropout", [IMAGE], opset=17),
    Case("Gelu", [VOLUME], opset=20),
    Case("Gelu", [VOLUME], attributes={"approximate": "tanh"}, opset=20, name="tanh"),
    Case("Swish", [VOLUME], opset=24, attributes={"alpha": 1.5}),
    Case("Elu", [IMAGE], attributes={"alpha": 0.5}, name="alpha"),
    Case("Celu", [IMAGE], attributes={"alpha": 0.7}, name="alpha"),
    Case("Not", [(N, 3)], dtype=np.bool_),
    Case("Clip", [IMAGE], {1: np.float32(0), 2: np.float32(6)}, name="relu6"),
    Case("Clip", [IMAGE], {1: np.float32(-0.5), 2: np.float32(0.7)}),
    Case("Clip", [IMAGE], {1: np.float32(-1), 2: np.float32(1)}, name="unit"),
    Case("Clip", [IMAGE], {1: np.float32(0), 2: np.float32(1)}, name="share"),
    Case("Clip", [IMAGE], attributes={"min": 0.0, "max": 6.0}, opset=7, name="opset7"),
    Case("Cast", [VOLUME], attributes={"to": 7}, name="int64"),
    Case("Cast", [VOLUME], attributes={"to": 9}, name="bool"),
    Case("Cast", [(N, 3)], attributes={"to": 1}, dtype=np.int64, name="float"),
    Case("CumSum", [IMAGE], {1: np.array(2, np.int64)}),
    Case("CumSum", [IMAGE], {1: np.array(1, np.int64)}, {"exclusive": 1, "reverse": 1}, name="reverse"),
    Case("Softmax", [IMAGE], attributes={"axis": 1}),
    Case("Softmax", [VOLUME], attributes={"axis": -1}, name="last"),
    Case("Softmax", [(N, 5)], opset=11, name="opset11"),
    Case("LogSoftmax", [IMAGE], attributes={"axis": 1}),
    *(Case(op, [IMAGE]) for op in ("Atan", "Cosh", "Erf", "Asinh", "Shrink", "Sinh")),
    *(Case(op, [IMAGE], low=-0.9, high=0.9) for op in ("Acos", "Asin", "Atanh", "Tan")),
    Case("Acosh", [IMAGE], low=1.1),
    Case("Erf", [IMAGE], low=-6.0, high=6.0, name="wide"),
    Case("Shrink", [IMAGE], attributes={"lambd": 1.0, "bias": 0.5}, name="soft"),
    Case("IsInf", [IMAGE]),
    Case("IsInf", [IMAGE], attributes={"detect_negative": 0}, name="positive"),
    Case("Dropout", [IMAGE], outputs=2, opset=13, name="mask"),
    Case("Clip", [IMAGE, (), ()], opset=13, low=-1.0, name="computed"),
    Case("Softmax", [IMAGE], attributes={"axis": 1}, opset=11, name="several-axes"),
    Case("Softmax", [VOLUME], opset=9, name="opset9"),
    Case("LogSoftmax", [IMAGE], attributes={"axis": 2}, opset=11, name="several-axes"),
    Case("Hardmax", [IMAGE], attributes={"axis": 1}),
    Case("Hardmax", [VOLUME], opset=11, name="several-axes"),
    # two operands
    *(Case(op, [IMAGE, IMAGE]) for op in ("Add", "Sub", "Mul", "Max", "Min", "Sum", "Mean")),
    *(Case(op, [IMAGE, (N, 4, 1, 1)], name="channels") for op in ("Add", "Sub", "Mul")),
    *(Case(op, [IMAGE], {1: numbers(4, 1, 1)}, name="constant") for op in ("Add", "Sub", "Mul")),
    *(Case(op, [IMAGE], {0: numbers(4, 1, 1)}, name="constant-first") for op in ("Add", "Sub", "Mul")),
    Case("Add", [IMAGE], {1: numbers(6, 5)}, name="map"),
    Case("Add", [IMAGE], {1: numbers(1)}, name="one"),
    Case("Add", [IMAGE], {1: np.float32(2.5)}, name="scalar"),
    Case("Add", [(N, 1, 4), (1, 3, 1)], name="outer"),
    Case("Add", [VOLUME, (4,)], name="lower-rank"),
    Case("Add", [(N, 3)], {1: ints(1, 2, 3)}, dtype=np.int64, name="int64"),
    Case("Sum", [IMAGE, IMAGE, (4, 1, 1)], name="three"),
    Case("Mean", [IMAGE, IMAGE, IMAGE], name="three"),
    Case("Div", [IMAGE], {1: numbers(4, 1, 1, low=0.5, high=2.0)}, name="constant"),
    Case("Div", [IMAGE], {0: np.float32(3)}, low=0.5, name="reciprocal"),
    Case("Div", [IMAGE, IMAGE], low=0.5),
    Case("Div", [(N, 3)], {1: np.array([2, 2, 2], np.int32)}, dtype=np.int32, low=-9, high=9, name="int32"),
    Case("Mod", [(N, 3)], {1: ints(2, 3, 4)}, dtype=np.int64, low=-9, high=9),
    Case("Mod", [(N, 3)], {1: ints(2, -3, 4)}, {"fmod": 1}, dtype=np.int64, low=-9, high=9, name="fmod-int64"),
    Case("Mod", [(N, 3)], {1: np.array([2, -3, 4], np.float32)}, {"fmod": 1}, low=-9, high=9, name="fmod"),
    Case("Div", [(N, 3)], {1: ints(2, -3, 4)}, dtype=np.int64, low=-9, high=9, name="int64"),
    Case("Pow", [(N, 3)], {1: ints(2)}, dtype=np.int64, low=-9, high=9, name="int64"),
    Case("Pow", [(N, 3)], {1: np.array(2, np.float32)}, dtype=np.int64, low=-9, high=9, name="int64-by-float"),
    Case("Pow", [IMAGE, IMAGE], low=0.1, name="computed"),
    *(Case(op, [(N, 3), (N, 3)], dtype=np.uint8, low=1, high=200, name="uint8") for op in ("Add", "Sub", "Mul", "Div")),
    *(Case(op, [(N, 3), (N, 3)], dtype=np.int8, low=-9, high=9, name="int8") for op in ("Add", "Greater", "Equal")),
    Case("Pow", [IMAGE], {1: np.float32(2)}, name="square"),
    Case("Pow", [IMAGE], {1: np.float32(0.5)}, low=0.1, name="root"),
    Case("Pow", [IMAGE], {1: np.float32(-0.5)}, low=0.1, name="inverse-root"),
    Case("Pow", [IMAGE], {1: np.float32(3)}, name="cube"),
    Case("Pow", [IMAGE], {1: np.float32(1)}, name="one"),
    Case("Pow", [IMAGE], {1: np.array(3, np.int64)}, name="integer"),
    *(Case(op, [VOLUME, VOLUME]) for op in ("Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal")),
    *(Case(op, [(N, 3), (N, 3)], dtype=np.bool_) for op in ("And", "Or", "Xor")),
    Case("PRelu", [IMAGE], {1: numbers(4, 1, 1)}),
    Case("PRelu", [IMAGE], {1: numbers(1)}, name="one"),
    Case("PRelu", [(N, 5)], {1: numbers(5)}, name="rows"),
    Case("PRelu", [IMAGE, (4, 1, 1)], name="computed"),
    Case("PRelu", [(2, 3, 4)], {1: numbers(2, 3, 4)}, name="each"),
    # windows
    Case("Conv", [IMAGE], {1: numbers(3, 4, 3, 3), 2: numbers(3)}, {"pads": [1, 1, 1, 1]}, name="same"),
    Case("Conv", [IMAGE], {1: numbers(3, 4, 3, 3)}, name="valid"),
    Case("Conv", [IMAGE], {1: numbers(3, 4, 3, 3)}, {"pads": [1, 1, 1, 1], "strides": [2, 2]}, name="stride"),
    Case("Conv", [IMAGE], {1: numbers(3, 4, 3, 2)}, {"pads": [2, 0, 1, 3], "strides": [2, 1]}, name="odd"),
    Case("Conv", [IMAGE], {1: numbers(3, 4, 2, 2)}, {"dilations": [2, 2], "pads": [1, 1, 1, 1]}, name="dilated"),
    Case("Conv", [IMAGE], {1: numbers(3, 4, 2, 2)}, {"auto_pad": "SAME_UPPER", "strides": [2, 2]}, name="upper"),
    Case("Conv", [IMAGE], {1: numbers(3, 4, 2, 2)}, {"auto_pad": "SAME_LOWER"}, name="lower"),
    Case("Conv", [IMAGE], {1: numbers(3, 4, 2, 2)}, {"auto_pad": "VALID"}, name="auto-valid"),
    Case("Conv", [IMAGE], {1: numbers(4, 1, 3, 3), 2: numbers(4)}, {"group": 4, "pads": [1, 1, 1, 1]}, name="depthwise"),
    Case("Conv", [IMAGE], {1: numbers(8, 1, 3, 3)}, {"group": 4, "strides": [2, 2]}, name="multiplied"),
    Case("Conv", [IMAGE], {1: numbers(6, 2, 3, 3), 2: numbers(6)}, {"group": 2}, name="grouped"),
    Case("Conv", [(N, 3, 9)], {1: numbers(5, 3, 3), 2: numbers(5)}, {"pads": [1, 1], "strides": [2]}, name="1d"),
    Case("Conv", [(N, 3, 9)], {1: numbers(3, 1, 3)}, {"group": 3, "dilations": [2]}, name="1d-depthwise"),
    Case("ConvTranspose", [IMAGE], {1: numbers(4, 3, 3, 3), 2: numbers(3)}, {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
    Case("ConvTranspose", [IMAGE], {1: numbers(4, 3, 2, 2)}, {"strides": [2, 2]}, name="double"),
    Case("ConvTranspose", [IMAGE], {1: numbers(4, 3, 3, 3)},
         {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]}, name="extra"),
    Case("ConvTranspose", [IMAGE], {1: numbers(4, 3, 3, 3)}, {"auto_pad": "SAME_UPPER", "strides": [2, 2]}, name="same"),
    Case("ConvTranspose", [IMAGE], {1: numbers(4, 3, 2, 2)}, {"strides": [3, 3], "output_padding": [1, 2]}, name="gaps"),
    Case("ConvTranspose", [(N, 3, 5)], {1: numbers(3, 2, 4)}, {"strides": [2], "pads": [1, 1]}, name="1d"),
    Case("ConvTranspose", [IMAGE], {1: numbers(4, 2, 3, 3), 2: numbers(4)}, {"group": 2, "strides": [2, 2]}, name="grouped"),
    Case("ConvTranspose", [IMAGE], {1: numbers(4, 1, 4, 4), 2: numbers(4)},
         {"group": 4, "strides": [2, 2], "pads": [1, 1, 1, 1]}, name="depthwise"),
    Case("ConvTranspose", [IMAGE], {1: numbers(4, 2, 3, 2)}, {"group": 4, "strides": [1, 2]}, name="multiplied"),
    Case("ConvTranspose", [IMAGE], {1: numbers(4, 3, 3, 3)}, {"dilations": [2, 1], "pads": [1, 0, 1, 0]}, name="dilated"),
    Case("ConvTranspose", [IMAGE], {1: numbers(4, 3, 2, 2), 2: numbers(3)},
         {"strides": [3, 3], "output_padding": [1, 2]}, name="biased-gaps"),
    Case("ConvTranspose", [IMAGE], {1: numbers(4, 3, 3, 3), 2: numbers(3)},
         {"strides": [3, 2], "output_shape": [20, 12]}, name="shape"),
    Case("ConvTranspose", [(N, 4, 5)], {1: numbers(4, 1, 4)}, {"group": 4, "strides": [2]}, name="1d-depthwise"),
    Case("MaxPool", [IMAGE], attributes={"kernel_shape": [2, 2], "dilations": [2, 2]}, name="dilated"),
    Case("MaxPool", [IMAGE], attributes={"kernel_shape": [3, 2], "dilations": [2, 1], "pads": [1, 0, 2, 1], "strides": [2, 2]},
         name="dilated-border"),
    Case("AveragePool", [IMAGE], attributes={"kernel_shape": [2, 2], "dilations": [2, 3]}, opset=19, name="dilated"),
    *(Case("LpPool", [IMAGE], attributes={"kernel_shape": [2, 3], "p": p, "pads": [1, 1, 0, 0]}, name=f"p{p}")
      for p in (1, 2, 3)),
    *(Case("GlobalLpPool", [IMAGE], attributes={"p": p}, name=f"p{p}") for p in (1, 2, 3)),
    Case("Conv", [FILM], {1: numbers(3, 2, 2, 3, 2), 2: numbers(3)}, name="3d"),
    Case("Conv", [FILM], {1: numbers(4, 1, 3, 3, 3)}, {"group": 2, "pads": [1, 1, 1, 1, 1, 1], "strides": [2, 1, 2]},
         name="3d-grouped"),
    Case("Conv", [FILM], {1: numbers(3, 2, 2, 2, 2)}, {"dilations": [2, 1, 2], "pads": [1, 0, 0, 0, 1, 0]}, name="3d-dilated"),
    Case("MaxPool", [FILM], attributes={"kernel_shape": [2, 2, 3], "strides": [2, 1, 2], "pads": [1, 0, 1, 0, 1, 1]},
         name="3d"),
    Case("AveragePool", [FILM], attributes={"kernel_shape": [2, 2, 3], "strides": [1, 2, 1]}, name="3d"),
    Case("AveragePool", [FILM], attributes={"kernel_shape": [2, 3, 3], "pads": [1] * 6, "count_include_pad": 1},
         name="3d-counted"),
    Case("GlobalAveragePool", [FILM], name="3d"),
    Case("MaxPool", [IMAGE], attributes={"kernel_shape": [2, 2], "strides": [2, 2]}),
    Case("MaxPool", [IMAGE], attributes={"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}, name="border"),
    Case("MaxPool", [IMAGE], attributes={"kernel_shape": [3, 3], "strides": [2, 2], "pads": [2, 2, 2, 2]}, name="wide-border"),
    Case("MaxPool", [IMAGE], attributes={"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}, name="ceil"),
    Case("MaxPool", [(N, 3, 9)], attributes={"kernel_shape": [3], "strides": [2]}, name="1d"),
    Case("AveragePool", [IMAGE], attributes={"kernel_shape": [2, 2], "strides": [2, 2]}),
    Case("AveragePool", [IMAGE], attributes={"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}, name="border"),
    Case("AveragePool", [IMAGE], attributes={"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}, name="stride"),
    Case("AveragePool", [IMAGE],
         attributes={"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}, name="counted"),
    Case("AveragePool", [IMAGE],
         attributes={"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1, "pads": [1, 0, 0, 1]}, name="ceil", opset=19),
    Case("GlobalAveragePool", [IMAGE]),
    Case("GlobalMaxPool", [IMAGE]),
    Case("GlobalAveragePool", [VOLUME], name="1d"),
    # matrices
    Case("Gemm", [(N, 6)], {1: numbers(6, 4), 2: numbers(4)}),
    Case("Gemm", [(N, 6)], {1: numbers(4, 6), 2: numbers(1, 4)}, {"transB": 1, "alpha": 0.5, "beta": 2.0}, name="scaled"),
    Case("Gemm", [(N, 6)], {1: numbers(6, 4), 2: numbers(1)}, name="one-bias"),
    Case("Gemm", [(N, 6), (N, 4)], {1: numbers(6, 4)}, {"beta": 0.5}, name="computed-bias"),
    Case("Gemm", [(5, 6), (4, 6)], attributes={"transB": 1, "alpha": 2.0}, name="computed"),
    Case("Gemm", [(6, 5)], {1: numbers(6, 4)}, {"transA": 1}, name="turned"),
    Case("MatMul", [(N, 6)], {1: numbers(6, 4)}),
    Case("MatMul", [VOLUME], {1: numbers(4, 5)}, name="rows"),
    Case("MatMul", [IMAGE], {1: numbers(5, 3)}, name="images"),
    Case("MatMul", [(N, 3, 4), (N, 4, 5)], name="computed"),
    Case("MatMul", [(N, 2, 3, 4), (N, 2, 4, 5)], name="heads"),
    Case("MatMul", [(N, 3, 4)], {0: numbers(2, 3)}, name="constant-left"),
    Case("MatMul", [(N, 3, 4)], {1: numbers(1, 4, 5)}, name="stack"),
    Case("MatMul", [IMAGE], {1: numbers(5)}, name="vector"),
    Case("MatMul", [VOLUME], {0: numbers(3)}, name="vector-first"),
    Case("MatMul", [(5,), (5,)], name="two-vectors"),
    *(
        Case("Einsum", shapes, attributes={"equation": equation}, name=equation)
        for equation, shapes in EQUATIONS.items()
    ),
    # reductions
    *(Case(op, [(N, 3, 4)], {1: ints(1)}, dtype=np.bool_, opset=20, name="truths") for op in ("ReduceMax", "ReduceMin")),
    *(Case(op, [IMAGE], attributes={"axis": 1, "select_last_index": 1, "keepdims": keep}, name=f"last{keep}")
      for op in ("ArgMax", "ArgMin") for keep in (0, 1)),
    *(Case(op, [IMAGE], attributes={"axes": [2, 3]}, name="image")
      for op in ("ReduceMean", "ReduceMax", "ReduceMin", "ReduceL2")),
    *(Case(op, [IMAGE], attributes={"axes": [1], "keepdims": 0}, name="channels")
      for op in ("ReduceMean", "ReduceMax", "ReduceL1")),
    *(Case(op, [VOLUME], attributes={"axes": [-1]}) for op in ("ReduceProd", "ReduceSumSquare", "ReduceLogSumExp")),
    Case("ReduceLogSumExp", [IMAGE], attributes={"axes": [1, 3], "keepdims": 0}, name="two"),
    Case("ReduceLogSum", [IMAGE], attributes={"axes": [1]}, low=0.1),
    Case("ReduceSum", [IMAGE], {1: ints(1, 2)}, {"keepdims": 0}),
    Case("ReduceSum", [IMAGE], attributes={"noop_with_empty_axes": 1}, name="nothing"),
    Case("ReduceMean", [(2, 3)], attributes={"keepdims": 0}, name="all"),
    Case("ArgMax", [IMAGE], attributes={"axis": 1}),
    Case("ArgMax", [(N, 5)], attributes={"axis": -1, "keepdims": 0}, name="classes"),
    Case("ArgMin", [IMAGE], attributes={"axis": 2, "keepdims": 0}),
    # normalisation
    Case("BatchNormalization", [IMAGE], {1: numbers(4), 2: numbers(4), 3: numbers(4), 4: numbers(4, low=0.5)}),
    Case("BatchNormalization", [(N, 4)], {1: numbers(4), 2: numbers(4), 3: numbers(4), 4: numbers(4, low=0.5)}, name="rows"),
    Case("InstanceNormalization", [IMAGE], {1: numbers(4), 2: numbers(4)}),
    Case("LayerNormalization", [VOLUME], {1: numbers(4), 2: numbers(4)}),
    Case("LayerNormalization", [IMAGE], {1: numbers(4, 6, 5)}, {"axis": 1}, name="image"),
    Case("LayerNormalization", [VOLUME], {1: numbers(4), 2: numbers(4)}, outputs=3, name="with-means"),
    *(Case("LpNormalization", [IMAGE], attributes={"axis": axis, "p": p}, name=f"{axis}-{p}")
      for axis in (1, -1) for p in (1, 2)),
    Case("GroupNormalization", [IMAGE], {1: numbers(4), 2: numbers(4)}, {"num_groups": 2}, opset=21),
    Case("GroupNormalization", [VOLUME], {1: numbers(3), 2: numbers(3)}, {"num_groups": 3}, opset=21, name="1d"),
    Case("MeanVarianceNormalization", [IMAGE], attributes={"axes": [2, 3]}),
    Case("Attention", [(N, 2, 3, 4), (N, 2, 5, 4), (N, 2, 5, 4)], opset=23),
    Case("Attention", [(N, 2, 3, 4)] * 3, attributes={"is_causal": 1}, opset=23, name="causal"),
    Case("Attention", [(N, 3, 8)] * 3, attributes={"q_num_heads": 2, "kv_num_heads": 2}, opset=23, name="3d"),
    Case("RotaryEmbedding", [(N, 2, 3, 4), (N, 3, 2), (N, 3, 2)], opset=23),
    Case("CenterCropPad", [IMAGE], {1: ints(4, 7)}, {"axes": [2, 3]}, opset=18),
    Case("RMSNormalization", [VOLUME], {1: numbers(4)}, opset=23),
    Case("LRN", [IMAGE], attributes={"size": 3, "alpha": 0.5}),
    # shapes
    Case("Reshape", [IMAGE], {1: ints(0, -1)}, name="flat"),
    Case("Reshape", [IMAGE], {1: ints(0, 2, 2, 6, 5)}, name="split-channels"),
    Case("Reshape", [IMAGE], {1: ints(0, 4, -1)}, name="join-image"),
    Case("Reshape", [IMAGE], {1: ints(0, 8, 3, 5)}, name="mixed"),
    Case("Reshape", [VOLUME], {1: ints(-1, 4)}, name="samples"),
    Case("Reshape", [(N, 4)], {1: ints(0, 1, 4, 1)}, name="units"),
    Case("Flatten", [IMAGE]),
    Case("Squeeze", [(N, 4, 1, 1)], {1: ints(2, 3)}),
    Case("Squeeze", [(N, 4, 1, 5)], {1: ints(-2)}, name="one"),
    Case("Squeeze", [(N, 4, 1, 5)], attributes={"axes": [2]}, opset=11, name="opset11"),
    Case("Unsqueeze", [VOLUME], {1: ints(1, -1)}),
    Case("Transpose", [IMAGE], attributes={"perm": [0, 2, 3, 1]}),
    Case("Transpose", [VOLUME], attributes={"perm": [0, 2, 1]}, name="rows"),
    Case("Transpose", [(2, 3, 4)], name="reversed"),
    Case("Concat", [IMAGE, IMAGE], attributes={"axis": 1}),
    Case("Concat", [IMAGE, IMAGE], attributes={"axis": -1}, name="width"),
    Case("Expand", [(N, 1, 4)], {1: ints(1, 3, 4)}),
    Case("Expand", [(N, 3, 4)], {1: ints(1, 1, 1)}, name="nothing"),
    Case("Tile", [IMAGE], {1: ints(1, 2, 1, 3)}),
    Case("DepthToSpace", [IMAGE], attributes={"blocksize": 2}),
    Case("DepthToSpace", [(N, 8, 2, 3)], attributes={"blocksize": 2, "mode": "CRD"}, name="CRD"),
    Case("SpaceToDepth", [(N, 3, 4, 6)], attributes={"blocksize": 2}),
    # sequences: steps, samples, features
    *(
        Case(op, [(5, 2, 3)], {1: numbers(ways, gates * 4, 3), 2: numbers(ways, gates * 4, 4), 3: numbers(ways, gates * 8)},
             {"hidden_size": 4, "direction": direction, **more}, outputs=outputs, opset=14, name=f"{direction}{len(more)}")
        for op, gates, outputs in (("LSTM", 4, 3), ("GRU", 3, 2), ("RNN", 1, 2))
        for direction, ways in (("forward", 1), ("reverse", 1), ("bidirectional", 2))
        for more in ({}, *([{"linear_before_reset": 1}] if op == "GRU" else []))
    ),
    # parts
    Case("Slice", [IMAGE], {1: ints(1), 2: ints(3), 3: ints(1)}),
    Case("Slice", [IMAGE], {1: ints(0, -3), 2: ints(99, -1), 3: ints(2, 3), 4: ints(2, 1)}, name="steps"),
    Case("Slice", [IMAGE], {1: ints(-1), 2: ints(-99), 3: ints(2), 4: ints(-1)}, name="backwards"),
    Case("Slice", [IMAGE], {1: ints(0), 2: ints(99), 3: ints(0)}, name="whole"),
    Case("Slice", [VOLUME], attributes={"starts": [1], "ends": [2], "axes": [1]}, opset=9, name="opset9"),
    Case("Split", [IMAGE], attributes={"axis": 1}, outputs=2),
    Case("Split", [IMAGE], {1: ints(1, 3, 2)}, {"axis": 2}, outputs=3, name="parts"),
    Case("Split", [IMAGE], attributes={"axis": 3, "num_outputs": 3}, outputs=3, opset=18, name="uneven"),
    Case("Gather", [IMAGE], {1: ints(2, 0, -1)}, {"axis": 1}),
    Case("Gather", [IMAGE], {1: np.array(1, np.int64)}, {"axis": 1}, name="one"),
    Case("Gather", [IMAGE], {1: ints(1, 2)}, {"axis": 3}, name="run"),
    Case("Gather", [VOLUME], {1: np.array([[0, 1], [2, 0]], np.int64)}, {"axis": 1}, name="table"),
    Case("Gather", [(N, 5)], {0: numbers(7, 3)}, dtype=np.int64, low=0, high=6, name="embedding"),
    Case("Pad", [IMAGE], {1: ints(0, 0, 1, 2, 0, 0, 0, 1)}),
    Case("Pad", [IMAGE], {1: ints(0, 1, 1, 2, 0, 0, 0, 1), 2: np.float32(1.5)}, name="number"),
    Case("Pad", [IMAGE], {1: ints(0, 0, 2, 1, 0, 0, 1, 2)}, {"mode": "reflect"}, name="reflect"),
    Case("Pad", [IMAGE], {1: ints(0, 0, 1, 1, 0, 0, 1, 0)}, {"mode": "edge"}, name="edge"),
    Case("Pad", [IMAGE], attributes={"pads": [0, 0, 1, 2, 0, 0, 0, 1], "value": 0.5}, opset=9, name="opset9"),
    Case("Gather", [VOLUME, (2,)], name="computed", dtype=np.int64, low=-3, high=2, attributes={"axis": 1}),
    *(Case("Pad", [IMAGE], {1: ints(0, 1, 2, 2, 0, 0, 1, 3)}, {"mode": mode}, opset=19, name=f"{mode}-wide")
      for mode in ("edge", "wrap", "reflect")),
    Case("Pad", [IMAGE], {1: ints(0, 0, -1, 2, 0, 0, 0, -1), 2: np.float32(0.5)}, name="cut"),
    Case("Pad", [IMAGE], {1: ints(0, 0, -1, 2, 0, 0, 0, -1)}, {"mode": "edge"}, name="cut-edge"),
    Case("GatherND", [(4, 3)], {1: np.array([[0, 1], [3, -1]], np.int64)}),
    Case("GatherElements", [(4, 3)], {1: np.array([[0, 1, -1], [3, 0, 0]], np.int64)}),
    Case("ScatterND", [(5, 3), (2, 3)], {1: np.array([[1], [-1]], np.int64)}, name="rows"),
    *(Case("ScatterND", [(5,), (2,)], {1: np.array([[1], [3]], np.int64)}, {"reduction": how}, opset=18, name=how)
      for how in ("add", "mul", "max", "min")),
    Case("ScatterND", [(5,), (3,)], {1: np.array([[1], [3], [1]], np.int64)}, {"reduction": "add"}, opset=18, name="add-twice"),
    Case("ScatterElements", [(2, 3), (2, 2)], {1: np.array([[1, 0], [2, -3]], np.int64)}, {"axis": 1}),
    Case("Scatter", [(2, 3), (2, 2)], {1: np.array([[1, 0], [2, 1]], np.int64)}, {"axis": 1}, opset=9),
    *(Case("TopK", [VOLUME], {1: ints(2)}, {"axis": axis, "largest": largest}, outputs=2, name=f"{axis}-{largest}")
      for axis in (1, -1) for largest in (0, 1)),
    Case("TopK", [(N, 5)], {1: ints(3)}, outputs=2, opset=10, name="opset10"),
    *(Case("OneHot", [(N, 3)], {1: ints(4), 2: numbers(2)}, {"axis": axis}, dtype=np.int64, low=-4, high=4, name=f"axis{axis}")
      for axis in (-1, 1)),
    *(Case("Trilu", [IMAGE], {1: np.array(k, np.int64)}, {"upper": upper}, name=f"{k}-{upper}")
      for k in (-1, 0, 2) for upper in (0, 1)),
    Case("ReverseSequence", [(4, 2, 3)], {1: ints(3, 2)}),
    # sounds
    Case("STFT", [(N, 40, 1)], {1: np.array(8, np.int64), 2: numbers(16), 3: np.array(16, np.int64)}),
    Case("STFT", [(N, 40, 1)], {1: np.array(8, np.int64), 2: numbers(16)}, {"onesided": 0}, name="whole"),
    Case("DFT", [(N, 12, 1)], attributes={"axis": 1, "onesided": 1}),
    Case("DFT", [(N, 3, 8, 2)], attributes={"axis": 2}, name="complex"),
    Case("DFT", [(N, 3, 8, 2)], attributes={"axis": 1, "inverse": 1}, name="inverse"),
    # images
    *(
        Case("Resize", [(N, 2, 4, 5)], {1: numbers(0), 2: np.array([1, 1, *scales], np.float32)},
             {"mode": mode, "coordinate_transformation_mode": scheme, **more},
             opset=19, name=f"{mode}-{scheme}-{scales[0]}-{len(more)}")
        for mode, scheme, more in (
            ("cubic", "half_pixel", {}), ("cubic", "align_corners", {}), ("cubic", "asymmetric", {"cubic_coeff_a": -0.5}),
            ("cubic", "half_pixel", {"exclude_outside": 1}), ("cubic", "half_pixel", {"antialias": 1}),
            ("linear", "half_pixel", {"antialias": 1}), ("linear", "half_pixel_symmetric", {}),
        )
        for scales in ((2, 3), (0.5, 0.7))
    ),
    Case("Resize", [(N, 2, 5)], {1: numbers(0), 2: np.array([1, 1, 2.3], np.float32)}, {"mode": "linear"}, name="1d-inexact"),
    Case("Resize", [(1, 2, 4, 5)],
         {1: np.array([0, 0, 0.2, 0.1, 1, 1, 0.9, 0.8], np.float32), 2: numbers(0), 3: ints(1, 2, 3, 6)},
         {"mode": "linear", "coordinate_transformation_mode": "tf_crop_and_resize"}, name="crop"),
    *(
        Case("Resize", [(N, 2, 4, 5)], {1: numbers(0), 2: np.array([1, 1, *scales], np.float32)},
             {"mode": "nearest", "coordinate_transformation_mode": scheme, "nearest_mode": rounding},
             name=f"nearest-{scheme}-{rounding}-{scales[0]}")
        for scheme in ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel")
        for rounding in ("round_prefer_floor", "floor", "ceil", "round_prefer_ceil")
        for scales in ((2, 3), (0.5, 0.6))
    ),
    *(
        Case("Resize", [(1, 2, 4, 5)], {1: numbers(0), 2: numbers(0), 3: ints(1, 2, *sizes)},
             {"mode": "linear", "coordinate_transformation_mode": scheme}, name=f"linear-{scheme}-{sizes[0]}")
        for scheme in ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel")
        for sizes in ((8, 10), (7, 4))
    ),
    Case("Resize", [(N, 2, 4, 5)], {1: numbers(0), 2: np.array([1, 1, 2, 2], np.float32)}, {"mode": "linear"}, name="scales"),
    Case("Resize", [(N, 2, 4, 5)], {1: np.array([1, 1, 1.5, 2.3], np.float32)}, {"mode": "linear"}, opset=10, name="opset10"),
    *(Case("GridSample", [(N, 3, 4, 6), (N, 3, 5, 2)],
           attributes={"mode": mode, "padding_mode": border, "align_corners": align}, opset=20, low=-1.3, high=1.3,
           name=f"{mode}-{border}-{align}")
      for mode in ("nearest", "linear") for border in ("zeros", "border") for align in (0, 1)),
    Case("Upsample", [(N, 2, 4, 5)], attributes={"scales": [1.0, 1.0, 1.3, 2.0], "mode": "linear"}, opset=7, name="opset7"),
    Case("Upsample", [(N, 2, 4, 5)], {1: np.array([1, 1, 2, 2], np.float32)}, {"mode": "nearest"}, opset=9),
]  # fmt: skip


@pytest.mark.parametrize("moved", [False, True], ids=["as-onnx", "moved"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_an_operator_answers_as_onnx_does(case: Case, moved: bool) -> None:
    assert_agree(graph(case, moved=moved), low=case.low, high=case.high)


def test_where_chooses_as_onnx_does() -> None:
    nodes = [helper.make_node("Greater", ["a", "b"], ["c"]), helper.make_node("Where", ["c", "a", "b"], ["y"])]
    values = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [N, 3, 4]) for name in ("a", "b", "y")]
    made = helper.make_graph(nodes, "where", values[:2], values[2:])
    assert_agree(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9))


def test_what_only_shapes_decide_is_a_constant() -> None:
    nodes = [
        helper.make_node("EyeLike", ["x"], ["unit"], k=1),
        helper.make_node("Size", ["x"], ["elements"]),
        helper.make_node("Cast", ["elements"], ["count"], to=1),
        helper.make_node("Mul", ["x", "unit"], ["part"]),
        helper.make_node("Add", ["part", "count"], ["y"]),
    ]
    values = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [3, 4]) for name in ("x", "y")]
    made = helper.make_graph(nodes, "shapes", values[:1], values[1:])
    assert_agree(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9))


def test_an_output_may_be_a_constant() -> None:
    nodes = [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Identity", ["anchors"], ["z"])]
    values = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [N, 3]) for name in ("x", "y")]
    anchors = numpy_helper.from_array(numbers(5, 4), "anchors")
    constant = helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, [5, 4])
    made = helper.make_graph(nodes, "anchors", values[:1], [values[1], constant], [anchors])
    assert_agree(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9))


@pytest.mark.parametrize("op", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("ways", [1, 2])
def test_sequences_have_a_free_number_of_samples(op: str, ways: int) -> None:
    gates, direction = {"LSTM": 4, "GRU": 3, "RNN": 1}[op], "bidirectional" if ways == 2 else "reverse"
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
        helper.make_node(op, ["t", "w", "r"], ["s", "h"], hidden_size=4, direction=direction),
        helper.make_node("Transpose", ["s"], ["y"], perm=[2, 0, 1, 3]),
        helper.make_node("Transpose", ["h"], ["z"], perm=[1, 0, 2]),
    ]
    values = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in (("x", (N, 5, 3)), ("y", (N, 5, ways, 4)), ("z", (N, ways, 4)))
    ]
    constants = {"w": numbers(ways, gates * 4, 3), "r": numbers(ways, gates * 4, 4)}
    weights = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    made = helper.make_graph(nodes, "sequence", values[:1], values[1:], weights)
    assert_agree(helper.make_model(made, opset_imports=[helper.make_opsetid("", 14)], ir_version=9))


def test_every_operator_of_the_table_has_a_case() -> None:
    here = {name for name in {*TABLE, *RULES} if "." not in name}  # others: test_tflite_tables.py
    assert here - {case.op for case in CASES} - {"Where", "Reshape", "EyeLike", "Size"} == set()
