"""Recipes: what can be done to a model, as plain values. Pure: no files, no engine, no clock, no chance.

A recipe says everything that is needed to get its variant again, and is saved with the variant. Which recipes are tried is
`STANDARD`; which of the results are shipped, and in which order, is `choice.py`'s business.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from fleet_protocol.manifest import Format

Preference = Literal[
    "auto",
    "int8-static",
    "int8-dynamic",
    "int8-weights",
    "float16-weights",
    "float32",
    "tflite-int8",
    "tflite-int8-dynamic",
    "tflite-int8-weights",
    "tflite-float32",
]
"""Which variant a device should take first; `auto` lets the measurement decide."""

Clipping = Literal["minmax", "percentile", "mse"]
"""The whole range that was seen; 99.99 % of the values; or the range with the least squared error."""

PRODUCTS: Final = ("MatMul", "Gemm")

ALPHA: Final = 0.75
"""SmoothQuant's share that was best on MiniLM, and on our own encoders (measured)."""

QUANTIZED_OPERATORS: Final = (
    "Add", "AveragePool", "Clip", "Concat", "Conv", "ConvTranspose", "Flatten", "Gemm", "GlobalAveragePool", "LeakyRelu",
    "MatMul", "MaxPool", "Mul", "Pad", "Relu", "Reshape", "Resize", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze",
)  # fmt: skip
"""Operators with integer kernels that pay. Softmax and its kin stay float: int8 costs them 10 dB and more (measured)."""


@dataclass(frozen=True)
class FloatRecipe:
    """The model as it was given: the reference, and what to fall back on."""

    name: str = "float32"
    precision: str = "float32"
    format: Format = "onnx"

    @property
    def session_options(self) -> dict[str, str]:
        """Engine options that the variant needs."""
        return {}

    def choices(self) -> dict[str, str]:
        """The recipe as text, for the manifest."""
        return {"kind": "as given"}


@dataclass(frozen=True)
class StaticRecipe:
    """Integer arithmetic throughout: activations and weights in 8 bits, with ranges from the calibration samples.

    `reduce_range` keeps weights to 7 bits. Without it, processors that add 8-bit products in 16 bits (AVX2 without VNNI)
    saturate, and the same file that is right here is ruined there (DESIGN.md, the int8 trap).
    """

    name: str = "int8-static"
    precision: str = "int8-static"
    format: Format = "onnx"
    per_channel: bool = True
    reduce_range: bool = True
    operators: tuple[str, ...] = QUANTIZED_OPERATORS
    clipping: Clipping = "minmax"
    """How an activation's range follows from what the calibration samples showed of it."""
    symmetric: bool = False
    """Ranges of activations around zero."""
    excluded: tuple[str, ...] = ()
    """Nodes that stay float, by their names in the simplified model."""
    smooth: float | None = None
    """SmoothQuant's α in (0, 1): how much of the activations' spread the weights of products take over. None: nothing."""
    corrected: bool = False
    """Whether biases take back what 8 bits shift the means of layers' outputs by."""

    @property
    def session_options(self) -> dict[str, str]:
        """Engine options that the variant needs."""
        return {}

    def choices(self) -> dict[str, str]:
        """The recipe as text, for the manifest."""
        told = {
            "kind": "static",
            "format": "QDQ",
            "activations": "uint8",
            "weights": "int8",
            "calibration": {"minmax": "MinMax", "percentile": "percentile 99.99", "mse": "least squared error"}[self.clipping],
            "per_channel": str(self.per_channel).lower(),
            "reduce_range": str(self.reduce_range).lower(),
        }
        told |= {"symmetric": "true"} if self.symmetric else {}
        told |= {"smooth": f"{self.smooth:g}"} if self.smooth is not None else {}
        told |= {"bias_correction": "true"} if self.corrected else {}
        return told | ({"float_nodes": ", ".join(self.excluded)} if self.excluded else {})


@dataclass(frozen=True)
class DynamicRecipe:
    """Products of matrices in integers, each activation's range measured as it comes, smoothed by what the samples showed.

    Pays for transformers and their like; convolutions become many times slower (measured), so they stay float.
    """

    name: str = "int8-dynamic"
    precision: str = "int8-dynamic"
    format: Format = "onnx"
    smooth: float | None = ALPHA
    """SmoothQuant's α in (0, 1); None: nothing. 16 dB without, 21 dB with it on an encoder of MiniLM's size (measured)."""

    @property
    def session_options(self) -> dict[str, str]:
        """Engine options that the variant needs."""
        return {}

    def choices(self) -> dict[str, str]:
        """The recipe as text, for the manifest."""
        told = {
            "kind": "dynamic",
            "weights": "int8",
            "per_channel": "true",
            "reduce_range": "true",
            "operators": "MatMul, Gemm",
        }
        return told | ({"smooth": f"{self.smooth:g}"} if self.smooth is not None else {})


@dataclass(frozen=True)
class WeightsRecipe:
    """Weights stored in 8 bits per output channel, arithmetic in float: a quarter of the size at the float model's speed.

    The engine must be told to unpack the weights once at load; else it does so at every call, four times slower.
    """

    name: str = "int8-weights"
    precision: str = "int8-weights"
    format: Format = "onnx"
    smallest: int = 256
    """Tensors with fewer elements are stored in 16-bit floats, as are those whose scales would cost what they save. Often they
    are first layers, whose noise all others carry on: 216 weights in 8 bits took an OCR model from 23 to 15 dB (measured).
    """
    halved: tuple[str, ...] = ()
    """Layers whose weights are stored in 16-bit floats too, by their names in the simplified model."""

    @property
    def session_options(self) -> dict[str, str]:
        """Engine options that the variant needs."""
        return {"session.disable_quant_qdq": "1"}

    def choices(self) -> dict[str, str]:
        """The recipe as text, for the manifest."""
        told = {
            "kind": "weight-only",
            "weights": "int8",
            "rest": "float16",
            "per_channel": "true",
            "smallest": str(self.smallest),
            "bias_correction": "true",
        }
        return told | ({"float16_nodes": ", ".join(self.halved)} if self.halved else {})


@dataclass(frozen=True)
class HalfRecipe:
    """Weights stored in 16-bit floats, arithmetic in float: half of the size, some 70 dB, for what 8 bits cannot hold.

    Engines unpack constants once at load, so it is as fast as float. Tried where weight-only int8 may not ship.
    """

    name: str = "float16-weights"
    precision: str = "float16-weights"
    format: Format = "onnx"

    @property
    def session_options(self) -> dict[str, str]:
        """Engine options that the variant needs."""
        return {}

    def choices(self) -> dict[str, str]:
        """The recipe as text, for the manifest."""
        return {"kind": "weight-only", "weights": "float16"}


@dataclass(frozen=True)
class TfliteRecipe:
    """The model for LiteRT: emitted from ONNX without TensorFlow, and quantized with ai-edge-quantizer.

    `static` is integer arithmetic throughout, with ranges from the calibration samples; `dynamic` has int8 weights and
    measures each activation as it comes; `weights` unpacks int8 weights and computes in float.
    """

    name: str
    precision: str
    kind: Literal["float", "static", "dynamic", "weights"]
    integer_io: bool = False
    """int8 inputs and outputs too, for devices without float; no part of a bundle, whose variants are interchangeable."""
    format: Format = "tflite"

    @property
    def session_options(self) -> dict[str, str]:
        """Engine options that the variant needs."""
        return {}

    def choices(self) -> dict[str, str]:
        """The recipe as text, for the manifest."""
        return {
            "float": {"kind": "emitted"},
            "static": {
                "kind": "static",
                "activations": "int8",
                "weights": "int8",
                "calibration": "MinMax",
                "per_channel": "true",
            },
            "dynamic": {"kind": "dynamic", "weights": "int8", "per_channel": "true"},
            "weights": {"kind": "weight-only", "weights": "int8", "per_channel": "true"},
        }[self.kind]


PlainRecipe = FloatRecipe | StaticRecipe | DynamicRecipe | WeightsRecipe | HalfRecipe | TfliteRecipe
"""What is done to a model without training it."""


@dataclass(frozen=True)
class TrainedRecipe:
    """A model that was trained from the given one (converters/compression), and what is done to it `then`."""

    trained: str
    then: PlainRecipe
    training: Mapping[str, str]
    """The training's own choices, as text."""

    @property
    def name(self) -> str:
        """The variant's name: how it was trained, then what was done."""
        return f"{self.trained}-{self.then.name}"

    @property
    def precision(self) -> str:
        """The arithmetic's."""
        return self.then.precision

    @property
    def format(self) -> Format:
        """The file's."""
        return self.then.format

    @property
    def session_options(self) -> dict[str, str]:
        """Engine options that the variant needs."""
        return self.then.session_options

    def choices(self) -> dict[str, str]:
        """The recipe as text, for the manifest."""
        return {**self.training, **self.then.choices()}


Recipe = PlainRecipe | TrainedRecipe

FLOAT: Final = FloatRecipe()
DYNAMIC: Final = DynamicRecipe()
HALF: Final = HalfRecipe()
STANDARD: Final[tuple[PlainRecipe, ...]] = (FLOAT, StaticRecipe(), WeightsRecipe())
TFLITE: Final[tuple[TfliteRecipe, ...]] = (
    TfliteRecipe("tflite-float32", "float32", "float"),
    TfliteRecipe("tflite-int8", "int8-static", "static"),
    TfliteRecipe("tflite-int8-dynamic", "int8-dynamic", "dynamic"),
    TfliteRecipe("tflite-int8-weights", "int8-weights", "weights"),
)
"""What `tflite=True` adds."""
TFLITE_LEAN: Final = (TFLITE[1], TFLITE[3])
"""What is added where nobody says. Float is a fallback; `dynamic` was first on none of ten models, and often thrice as slow."""
