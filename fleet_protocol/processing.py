"""What is done to what a user has before a model sees it, and to its outputs before a person does: nothing but data.

The manifest carries it (`Manifest.processing`), so that a conversion, a device and a test do the very same, which stands in
`runtime.processing`. The first step of an input says what is opened: a picture, numbers, audio or bytes. A declaration is held
against the model's tensors when it is read: `fleet_protocol.processing_fit`.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec

from fleet_protocol import codec, limits
from fleet_protocol.errors import MalformedMessage
from fleet_protocol.tensors import Shape, TensorName

SCHEMA: Final = "edgeward.processing/1"

Side = Annotated[int, msgspec.Meta(ge=1, le=limits.PICTURE_SIDE)]
Positive = Annotated[float, msgspec.Meta(gt=0.0)]
NotNegative = Annotated[float, msgspec.Meta(ge=0.0)]
Means = Annotated[tuple[float, ...], msgspec.Meta(min_length=1, max_length=limits.FEATURES)]
Spread = Annotated[tuple[Positive, ...], msgspec.Meta(min_length=1, max_length=limits.FEATURES)]
Share = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]
Length = Annotated[int, msgspec.Meta(ge=1, le=limits.SAMPLE_NUMBERS)]
FrameLength = Annotated[int, msgspec.Meta(ge=1, le=limits.FRAME)]
Axis = Annotated[int, msgspec.Meta(ge=0, lt=limits.TENSOR_RANK)]
Filter = Literal["nearest", "bilinear"]
Colour = Literal["rgb", "bgr", "grey"]
Layout = Literal["NHWC", "NCHW", "NHW", "NF"]
"""Of a batch of pictures: `NHW` has no channel axis (grey only), `NF` lays each picture flat, row by row."""
BoxForm = Literal["xyxy", "yxyx", "xywh", "cxcywh"]
Number = Literal["UINT8", "INT8", "UINT16", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64"]


class Step(msgspec.Struct, frozen=True, kw_only=True, tag_field="step", forbid_unknown_fields=True):
    """One step. Its tag is its class's name in small letters."""


class Decode(Step, frozen=True, kw_only=True, tag="decode"):
    """A picture's bytes to uint8[height, width, channels], upright as its EXIF says; transparency is dropped. First step."""

    colour: Colour = "rgb"


class Tensor(Step, frozen=True, kw_only=True, tag="tensor"):
    """Numbers as they are given. First step."""

    shape: Shape
    """Of one sample; −1 where each has its own length."""
    datatype: Number = "FP32"
    """As which they are taken; FP64 is computed with as FP64, anything else as FP32."""


class Audio(Step, frozen=True, kw_only=True, tag="audio", omit_defaults=True):
    """A WAV file's bytes, or PCM samples, to mono float32[samples] in [−1, 1]. First step.

    Defaults are left out, so that a device that knows of no resampling reads what asks for none.
    """

    rate: Annotated[int, msgspec.Meta(ge=1, le=limits.AUDIO_RATE)]
    """Samples a second."""
    resample: bool = False
    """Whether a file of another rate is brought to this one, as librosa does by default (soxr, high quality); else refused."""


class Bytes(Step, frozen=True, kw_only=True, tag="bytes"):
    """A file's bytes, or a text's, as uint8[length]. First step."""


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
    """`(x − mean) / std`, a number for each place of the last axis (a picture's channels, features), or one for all."""

    mean: Means
    std: Spread


class Clip(Step, frozen=True, kw_only=True, tag="clip"):
    """What is lower than `low` becomes `low`, what is higher than `high` becomes `high`."""

    low: float | None = None
    high: float | None = None


class Pieces(Step, frozen=True, kw_only=True, tag="pieces"):
    """A long sample cut along its first axis into pieces, each a row of its own; the last one is filled up. Second step."""

    length: Length
    hop: Length
    """From the beginning of one piece to that of the next."""
    fill: float = 0.0


class FitLength(Step, frozen=True, kw_only=True, tag="fit_length"):
    """Cut or filled up to this length along one axis."""

    length: Length
    axis: Axis = 0
    fill: float = 0.0
    at: Literal["end", "start", "both"] = "end"
    """Where it is cut or filled up; `both`: the odd one at the end."""


class Reshape(Step, frozen=True, kw_only=True, tag="reshape"):
    """The same numbers in the same order, in another shape."""

    shape: Shape
    """Of one sample; at most one is −1, which is what the others leave."""


class Transpose(Step, frozen=True, kw_only=True, tag="transpose"):
    """The axes of one sample in another order."""

    axes: Annotated[tuple[Axis, ...], msgspec.Meta(min_length=2, max_length=limits.TENSOR_RANK)]


class Ends(Step, frozen=True, kw_only=True, tag="ends"):
    """The first and the last bytes, `fill` where there are fewer: int32[first + last], as magika looks at a file."""

    first: Annotated[int, msgspec.Meta(ge=0, le=limits.FRAME)]
    last: Annotated[int, msgspec.Meta(ge=0, le=limits.FRAME)]
    fill: Annotated[int, msgspec.Meta(ge=-1, le=65535)] = 256
    strip: bool = True
    """Whether white space at both ends of the file is passed over, as far as `block` bytes reach."""
    block: Annotated[int, msgspec.Meta(ge=1, le=limits.SAMPLE_NUMBERS)] = 4096
    """So many bytes at each end are looked at."""


class Frames(Step, frozen=True, kw_only=True, tag="frames"):
    """`[samples]` to overlapping pieces `[frames, length]`; what is left at the end is dropped."""

    length: FrameLength
    hop: FrameLength
    pad: Literal["none", "reflect", "zeros"] = "none"
    """What `length / 2` samples at both ends are filled with, so that frames are centred (librosa, torch.stft)."""


class Window(Step, frozen=True, kw_only=True, tag="window"):
    """Each frame times a window."""

    kind: Literal["hann", "hamming"] = "hann"
    length: FrameLength | None = None
    """None: the frame's; a shorter window stands in the frame's middle, with zeros around."""
    symmetric: bool = False
    """False: periodic, as librosa, torch.stft and tf.signal have it."""


class Spectrum(Step, frozen=True, kw_only=True, tag="spectrum"):
    """Each frame's Fourier transform without its phase: `[frames, size / 2 + 1]`."""

    size: FrameLength | None = None
    """Even; a frame that is shorter is filled up with zeros at its end. None: the frame's length."""
    power: Literal[1, 2] = 2
    """1: magnitudes, 2: their squares."""


class Mel(Step, frozen=True, kw_only=True, tag="mel"):
    """A spectrum's bins gathered in overlapping triangles on the mel scale: `[frames, bands]`."""

    rate: Annotated[int, msgspec.Meta(ge=1, le=limits.AUDIO_RATE)]
    """Of the samples that the spectrum is of."""
    bands: Annotated[int, msgspec.Meta(ge=1, le=512)]
    low: NotNegative = 0.0
    high: Positive | None = None
    """In Hz; None: half the rate."""
    scale: Literal["htk", "slaney"] = "htk"
    triangles: Literal["hertz", "mel"] = "hertz"
    """In what their sides are straight: hertz (librosa, torchaudio), or mel (tf.signal)."""
    norm: Literal["none", "slaney"] = "none"
    """`slaney`: all triangles have the same area."""


class Log(Step, frozen=True, kw_only=True, tag="log"):
    """`log(max(x, floor) + add)`."""

    base: Literal["e", "2", "10"] = "e"
    floor: NotNegative = 1e-10
    add: NotNegative = 0.0
    span: Positive | None = None
    """What is further than this below the sample's highest is raised to there: librosa's `top_db` is ten times that."""


class Dct(Step, frozen=True, kw_only=True, tag="dct"):
    """The first coefficients of the last axis's cosine transform (DCT-II): of a log-mel spectrum, the MFCC."""

    coefficients: Annotated[int, msgspec.Meta(ge=1, le=512)]
    orthonormal: bool = True
    """False: the first coefficient is √2 larger, as tf.signal has it."""


class Arrange(Step, frozen=True, kw_only=True, tag="layout"):
    """The order of a picture's axes. Nothing that looks at pixels or channels may follow."""

    order: Layout


class Quantize(Step, frozen=True, kw_only=True, tag="quantize"):
    """`round(x / scale) + zero_point`, halves to the even number, cut off at the type's bounds (ONNX's QuantizeLinear)."""

    scale: Positive
    zero_point: Annotated[int, msgspec.Meta(ge=-128, le=255)] = 0
    datatype: Literal["INT8", "UINT8"] = "UINT8"


class Cast(Step, frozen=True, kw_only=True, tag="cast"):
    """Another type; to integers by rounding halves to even, cut off at the type's bounds."""

    datatype: Number


Opener = Decode | Tensor | Audio | Bytes
PlacingStep = Resize | ResizeShorter | CentreCrop | Letterbox
NumberStep = Scale | Normalise | Clip | Quantize | Cast
ShapeStep = FitLength | Reshape | Transpose | Ends
SoundStep = Frames | Window | Spectrum | Mel | Log | Dct
InputStep = (
    Decode | Tensor | Audio | Bytes | Pieces | Resize | ResizeShorter | CentreCrop | Letterbox | Arrange | Scale | Normalise
    | Clip | Quantize | Cast | FitLength | Reshape | Transpose | Ends | Frames | Window | Spectrum | Mel | Log | Dct
)  # fmt: skip


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


class Threshold(Step, frozen=True, kw_only=True, tag="threshold"):
    """Every class of `[batch, classes]` whose score is at least `at`, best first; with the manifest's labels."""

    at: float


class Boxes(Step, frozen=True, kw_only=True, tag="boxes"):
    """Boxes in the picture's own pixels, best first; what overlaps a better one of its class is dropped (NMS).

    Where no picture came, they are in the model's own units.
    """

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


OutputStep = Dequantize | Softmax | Sigmoid | TopK | Threshold | Boxes


class InputProcessing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How one input tensor is made from what a user has, one sample at a time."""

    tensor: TensorName
    steps: Annotated[tuple[InputStep, ...], msgspec.Meta(min_length=1, max_length=limits.STEPS)]

    @property
    def first(self) -> Opener:
        """What the input is opened with, in processing that was checked."""
        assert isinstance(self.steps[0], Opener)
        return self.steps[0]


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


def step_name(step: Step) -> str:
    """The step's tag."""
    return str(step.__struct_config__.tag)
