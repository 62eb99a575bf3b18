"""What is done to a picture before a model sees it, and to its outputs before a person does: declared, and nothing but data.

The manifest carries it (`Manifest.processing`), so that a conversion, a device and a test do the very same, which stands in
`runtime.processing`. A declaration is held against the model's tensors when it is read: `check_processing` follows shape and
type from step to step, so that a step in the wrong place, or one that is not known, is refused before any picture comes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final, Literal

import msgspec

from fleet_protocol import codec, limits
from fleet_protocol.errors import MalformedMessage
from fleet_protocol.tensors import DYNAMIC, DataType, TensorName, TensorSpec

SCHEMA: Final = "edgeward.processing/1"

Side = Annotated[int, msgspec.Meta(ge=1, le=limits.PICTURE_SIDE)]
Positive = Annotated[float, msgspec.Meta(gt=0.0)]
Channels = Annotated[tuple[float, ...], msgspec.Meta(min_length=1, max_length=4)]
Spread = Annotated[tuple[Positive, ...], msgspec.Meta(min_length=1, max_length=4)]
Share = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]
Filter = Literal["nearest", "bilinear"]
Colour = Literal["rgb", "bgr", "grey"]
Layout = Literal["NHWC", "NCHW", "NHW", "NF"]
"""Of a batch of pictures: `NHW` has no channel axis (grey only), `NF` lays each picture flat, row by row."""
BoxForm = Literal["xyxy", "yxyx", "xywh", "cxcywh"]


class Step(msgspec.Struct, frozen=True, kw_only=True, tag_field="step", forbid_unknown_fields=True):
    """One step. Its tag is its class's name in small letters."""


class Decode(Step, frozen=True, kw_only=True, tag="decode"):
    """Encoded bytes to uint8[height, width, channels], turned upright as its EXIF says; transparency is dropped. First step."""

    colour: Colour = "rgb"


class Resize(Step, frozen=True, kw_only=True, tag="resize"):
    """To exactly this size, whatever the proportions."""

    height: Side
    width: Side
    filter: Filter = "bilinear"
    antialias: bool = True
    """Whether shrinking averages over all pixels (Pillow, torchvision's `antialias=True`) or only neighbours (OpenCV)."""


class ResizeShorter(Step, frozen=True, kw_only=True, tag="resize_shorter"):
    """Keep the proportions; the shorter side gets this length, the other is cut to whole pixels (torchvision's `Resize`)."""

    side: Side
    filter: Filter = "bilinear"
    antialias: bool = True


class CentreCrop(Step, frozen=True, kw_only=True, tag="centre_crop"):
    """The middle; a picture that is smaller is refused. A half pixel goes to the even side (torchvision's `CenterCrop`)."""

    height: Side
    width: Side


class Letterbox(Step, frozen=True, kw_only=True, tag="letterbox"):
    """Keep the proportions, fit within, and fill what is left on both sides with one grey (YOLO's way)."""

    height: Side
    width: Side
    fill: Annotated[int, msgspec.Meta(ge=0, le=255)] = 114
    filter: Filter = "bilinear"
    antialias: bool = False


class Scale(Step, frozen=True, kw_only=True, tag="scale"):
    """`x / divide + add` in float32."""

    divide: Positive
    add: float = 0.0


class Normalise(Step, frozen=True, kw_only=True, tag="normalise"):
    """`(x − mean) / std` in float32, a number for each channel in the order of `decode`'s colour, or one for all."""

    mean: Channels
    std: Spread


class Arrange(Step, frozen=True, kw_only=True, tag="layout"):
    """The order of axes. Nothing that looks at pixels or channels may follow."""

    order: Layout


class Quantize(Step, frozen=True, kw_only=True, tag="quantize"):
    """`round(x / scale) + zero_point`, halves to the even number, cut off at the type's bounds (ONNX's QuantizeLinear)."""

    scale: Positive
    zero_point: Annotated[int, msgspec.Meta(ge=-128, le=255)] = 0
    datatype: Literal["INT8", "UINT8"] = "UINT8"


class Cast(Step, frozen=True, kw_only=True, tag="cast"):
    """Another type; to integers by rounding halves to even, cut off at the type's bounds."""

    datatype: Literal["UINT8", "INT8", "UINT16", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64"]


InputStep = Decode | Resize | ResizeShorter | CentreCrop | Letterbox | Scale | Normalise | Arrange | Quantize | Cast


class Dequantize(Step, frozen=True, kw_only=True, tag="dequantize"):
    """`(x − zero_point) · scale` in float32."""

    scale: Positive
    zero_point: Annotated[int, msgspec.Meta(ge=-128, le=255)] = 0


class Softmax(Step, frozen=True, kw_only=True, tag="softmax"):
    """Over the last axis."""


class Sigmoid(Step, frozen=True, kw_only=True, tag="sigmoid"):
    """Of each number."""


class TopK(Step, frozen=True, kw_only=True, tag="top_k"):
    """The best classes of `[batch, classes]`, best first, the lower number first among equals; with the manifest's labels."""

    k: Annotated[int, msgspec.Meta(ge=1, le=limits.CLASSES)] = 5


class Boxes(Step, frozen=True, kw_only=True, tag="boxes"):
    """Boxes in the picture's own pixels, best first; what overlaps a better one of its class is dropped (NMS)."""

    form: BoxForm
    units: Literal["pixels", "fraction"] = "pixels"
    """Of the model's input."""
    scores: TensorName | None = None
    """The tensor `[batch, boxes, classes]`; None: scores stand behind the four numbers of each box."""
    order: Literal["rows", "columns"] = "rows"
    """`[batch, boxes, numbers]`, or `[batch, numbers, boxes]`."""
    objectness: bool = False
    """Whether the fifth number is the box's own score, by which those of classes are multiplied."""
    min_score: Share = 0.25
    max_overlap: Share = 0.45
    """Intersection over union beyond which the worse box is dropped."""
    across_classes: bool = False
    """Whether a box is also dropped for a better one of another class."""
    limit: Annotated[int, msgspec.Meta(ge=1, le=limits.DETECTIONS)] = 100


OutputStep = Dequantize | Softmax | Sigmoid | TopK | Boxes


class InputProcessing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How one input tensor is made from a picture."""

    tensor: TensorName
    steps: Annotated[tuple[InputStep, ...], msgspec.Meta(min_length=1, max_length=limits.STEPS)]


class ResultProcessing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How one result is made from an output tensor (and another one with scores, for boxes)."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=limits.LABEL_CHARACTERS)]
    tensor: TensorName
    steps: Annotated[tuple[OutputStep, ...], msgspec.Meta(min_length=1, max_length=limits.STEPS)]


class Processing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All of it. Inputs that are not named take tensors as before; without results, outputs are what comes out."""

    schema: Literal["edgeward.processing/1"] = SCHEMA
    inputs: Annotated[tuple[InputProcessing, ...], msgspec.Meta(max_length=limits.TENSORS)] = ()
    results: Annotated[tuple[ResultProcessing, ...], msgspec.Meta(max_length=limits.TENSORS)] = ()


def step_names(kinds: object) -> tuple[str, ...]:
    """The names of the steps of a union: `InputStep` or `OutputStep`."""
    return tuple(str(kind.__struct_config__.tag) for kind in kinds.__args__)  # type: ignore[attr-defined]  # a union's


def decode_processing(content: bytes) -> Processing:
    """Read a TOML file of the same structure as in the manifest. Raises `ProtocolError`."""
    if len(content) > limits.PROCESSING_BYTES:
        raise MalformedMessage(f"processing has {len(content)} bytes; at most {limits.PROCESSING_BYTES} are read")
    import tomllib  # 10 ms that whoever reads a manifest does not need

    try:
        tree = tomllib.loads(content.decode())
        encoded = msgspec.json.encode(tree)
    except (ValueError, TypeError, RecursionError) as error:  # TOML's own errors are ValueErrors
        raise MalformedMessage(f"processing is not TOML: {error}") from error
    try:
        return codec.decode(encoded, Processing, limit=4 * limits.PROCESSING_BYTES, what="processing")
    except MalformedMessage as error:
        raise MalformedMessage(f"{error}. {KNOWN_STEPS}") from error


KNOWN_STEPS: Final = f"Steps of inputs: {', '.join(step_names(InputStep))}; of results: {', '.join(step_names(OutputStep))}."


@dataclass(frozen=True, slots=True)
class _Form:
    """What a picture is between two steps. Sides are `DYNAMIC` where each picture has its own."""

    height: int
    width: int
    channels: int
    datatype: DataType = "UINT8"
    order: Layout | None = None

    def shape(self) -> tuple[int, ...]:
        """Of a batch."""
        flat = DYNAMIC if DYNAMIC in (self.height, self.width) else self.height * self.width * self.channels
        return {
            "NCHW": (DYNAMIC, self.channels, self.height, self.width),
            "NHW": (DYNAMIC, self.height, self.width),
            "NF": (DYNAMIC, flat),
        }.get(self.order or "NHWC", (DYNAMIC, self.height, self.width, self.channels))


def check_processing(processing: Processing, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> None:
    """Hold a declaration against the model's tensors. Raises `MalformedMessage`, which says what does not fit and where."""
    by_name = {spec.name: spec for spec in inputs}
    _check_distinct("input", [each.tensor for each in processing.inputs])
    _check_distinct("result", [each.name for each in processing.results])
    for each in processing.inputs:
        spec = _known(each.tensor, by_name, "input")
        where = f"processing of input {each.tensor!r}"
        _check_fits(_followed(each.steps, where), spec, where)
    out = {spec.name: spec for spec in outputs}
    for result in processing.results:
        _check_result(result, out)


def _check_distinct(what: str, names: list[str]) -> None:
    if len(set(names)) != len(names):
        raise MalformedMessage(f"processing names an {what} twice: {', '.join(names)}")


def _known(name: str, specs: dict[str, TensorSpec], what: str) -> TensorSpec:
    if name not in specs:
        raise MalformedMessage(f"processing names the {what} {name!r}; the model has {', '.join(specs)}")
    return specs[name]


def _followed(steps: tuple[InputStep, ...], where: str) -> _Form:
    first = steps[0]
    if not isinstance(first, Decode):
        raise MalformedMessage(f"{where} must begin with the step 'decode'")
    form = _Form(DYNAMIC, DYNAMIC, 1 if first.colour == "grey" else 3)
    for step in steps[1:]:
        form = _after(step, form, f"{where}, step {step_name(step)!r},")
    return form


def step_name(step: Step) -> str:
    """The step's tag."""
    return str(step.__struct_config__.tag)


def _after(step: InputStep, form: _Form, where: str) -> _Form:
    match step:
        case Decode():
            raise MalformedMessage(f"{where} comes twice")
        case Resize() | CentreCrop() | Letterbox():
            _check_pixels(form, where)
            return _Form(step.height, step.width, form.channels)
        case ResizeShorter():
            _check_pixels(form, where)
            return _Form(DYNAMIC, DYNAMIC, form.channels)
        case Scale() | Normalise():
            if form.order is not None or form.datatype not in ("UINT8", "FP32"):
                raise MalformedMessage(f"{where} must come before 'layout', 'quantize' and 'cast'")
            _check_channels(step, form, where)
            return _Form(form.height, form.width, form.channels, "FP32")
        case Arrange():
            if form.order is not None:
                raise MalformedMessage(f"{where} comes twice")
            if step.order == "NHW" and form.channels != 1:
                raise MalformedMessage(f"{where} NHW has room for one channel; there are {form.channels}")
            return _Form(form.height, form.width, form.channels, form.datatype, step.order)
        case Quantize() | Cast():
            return _Form(form.height, form.width, form.channels, step.datatype, form.order)


def _check_pixels(form: _Form, where: str) -> None:
    if form.order is not None or form.datatype != "UINT8":
        raise MalformedMessage(f"{where} works on pixels, so it must come before 'scale', 'normalise', 'layout' and types")


def _check_channels(step: Scale | Normalise, form: _Form, where: str) -> None:
    if isinstance(step, Normalise) and any(len(each) not in (1, form.channels) for each in (step.mean, step.std)):
        raise MalformedMessage(f"{where} has {len(step.mean)} means and {len(step.std)} stds for {form.channels} channels")


def _check_fits(form: _Form, spec: TensorSpec, where: str) -> None:
    shape = form.shape()
    fits = len(shape) == len(spec.shape) and all(
        DYNAMIC in (got, want) or got == want for got, want in zip(shape[1:], spec.shape[1:], strict=True)
    )
    if not fits or form.datatype != spec.datatype:
        came = TensorSpec(name=spec.name, datatype=form.datatype, shape=shape).describe()
        raise MalformedMessage(f"{where} ends with {came}; the model wants {spec.describe()}")


def _check_result(result: ResultProcessing, outputs: dict[str, TensorSpec]) -> None:
    where = f"processing of result {result.name!r}"
    rank = len(_known(result.tensor, outputs, "output").shape)
    for step in result.steps[:-1]:
        if isinstance(step, TopK | Boxes):
            raise MalformedMessage(f"{where}: {step_name(step)!r} must be its last step")
    last = result.steps[-1]
    if isinstance(last, TopK) and rank != 2:
        raise MalformedMessage(f"{where}: 'top_k' wants [batch, classes]; {result.tensor} has {rank} dimensions")
    if isinstance(last, Boxes):
        ranks = [rank, *([len(_known(last.scores, outputs, "output").shape)] if last.scores else [])]
        if ranks != [3] * len(ranks):
            raise MalformedMessage(f"{where}: 'boxes' wants tensors of 3 dimensions; they have {ranks}")
        if last.scores and last.objectness:
            raise MalformedMessage(f"{where}: 'boxes' with scores of their own have no objectness")
