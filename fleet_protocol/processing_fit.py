"""Whether declared processing fits a model: shape and type are followed from step to step, before anything is opened.

So a step in the wrong place, or an end that is not the model's input, is refused by who converts and by every device.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Final

from fleet_protocol import limits
from fleet_protocol.errors import MalformedMessage
from fleet_protocol.processing import (
    Arrange,
    Audio,
    Boxes,
    Bytes,
    Cast,
    CentreCrop,
    Clip,
    Dct,
    Decode,
    Ends,
    FitLength,
    Frames,
    InputStep,
    Layout,
    Letterbox,
    Log,
    Mel,
    Normalise,
    NumberStep,
    Opener,
    Pieces,
    Processing,
    Quantize,
    Reshape,
    Resize,
    ResizeShorter,
    ResultProcessing,
    Scale,
    ShapeStep,
    SoundStep,
    Spectrum,
    Tensor,
    Threshold,
    TopK,
    Transpose,
    Window,
    step_name,
)
from fleet_protocol.tensors import DYNAMIC, DataType, TensorSpec


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


@dataclass(frozen=True, slots=True)
class _Form:
    """What one sample is between two steps. Sizes are `DYNAMIC` where each sample has its own."""

    shape: tuple[int, ...]
    datatype: DataType = "UINT8"
    opened: Opener | None = None
    order: Layout | None = None
    """Of a picture, once it is arranged."""

    @property
    def is_picture(self) -> bool:
        return isinstance(self.opened, Decode)

    def shaped(self, *shape: int) -> _Form:
        return dataclasses.replace(self, shape=shape)

    def typed(self, datatype: DataType) -> _Form:
        return dataclasses.replace(self, datatype=datatype)


def _followed(steps: tuple[InputStep, ...], where: str) -> _Form:
    first = steps[0]
    if not isinstance(first, Opener):
        raise MalformedMessage(f"{where} must begin with the step 'decode', 'tensor', 'audio' or 'bytes'")
    form = _opened(first, where)
    if any(isinstance(step, Pieces) for step in steps[2:]):
        raise MalformedMessage(f"{where}, step 'pieces', must come right after '{step_name(first)}'")
    for step in steps[1:]:
        form = _after(step, form, f"{where}, step {step_name(step)!r},")
    return form


def _opened(first: Opener, where: str) -> _Form:
    match first:
        case Decode():
            return _Form((DYNAMIC, DYNAMIC, 1 if first.colour == "grey" else 3), "UINT8", first)
        case Tensor():
            _check_size(first.shape, f"{where}, step 'tensor',")
            return _Form(first.shape, first.datatype, first)
        case Audio():
            return _Form((DYNAMIC,), "FP32", first)
        case Bytes():
            return _Form((DYNAMIC,), "UINT8", first)


def _check_size(shape: tuple[int, ...], where: str) -> None:
    if math.prod(size for size in shape if size != DYNAMIC) > limits.SAMPLE_NUMBERS:
        raise MalformedMessage(f"{where} makes {list(shape)}; at most {limits.SAMPLE_NUMBERS} numbers are taken for one sample")


def _after(step: InputStep, form: _Form, where: str) -> _Form:
    match step:
        case Decode() | Tensor() | Audio() | Bytes():
            raise MalformedMessage(f"{where} opens what comes, so it comes first and not twice")
        case Resize() | CentreCrop() | Letterbox():
            _check_pixels(form, where)
            return form.shaped(step.height, step.width, form.shape[2])
        case ResizeShorter():
            _check_pixels(form, where)
            return form.shaped(DYNAMIC, DYNAMIC, form.shape[2])
        case Arrange():
            return _arranged(step, form, where)
        case Scale() | Normalise() | Clip() | Quantize() | Cast():
            return _after_numbers(step, form, where)
    if form.is_picture:
        raise MalformedMessage(f"{where} is for numbers, audio and bytes; axes of a picture are ordered with 'layout'")
    made = _after_sound(step, form, where) if isinstance(step, SoundStep) else _after_shape(step, form, where)
    _check_size(made.shape, where)
    return made


def _check_pixels(form: _Form, where: str) -> None:
    if not form.is_picture:
        raise MalformedMessage(f"{where} is for pictures, which begin with the step 'decode'")
    if form.order is not None or form.datatype != "UINT8":
        raise MalformedMessage(f"{where} works on pixels, so it must come before 'scale', 'normalise', 'layout' and types")


def _arranged(step: Arrange, form: _Form, where: str) -> _Form:
    if not form.is_picture:
        raise MalformedMessage(f"{where} is for pictures; take 'transpose' or 'reshape'")
    if form.order is not None:
        raise MalformedMessage(f"{where} comes twice")
    height, width, channels = form.shape
    if step.order == "NHW" and channels != 1:
        raise MalformedMessage(f"{where} NHW has room for one channel; there are {channels}")
    shapes: dict[Layout, tuple[int, ...]] = {
        "NHWC": form.shape,
        "NCHW": (channels, height, width),
        "NHW": (height, width),
        "NF": (_product(form.shape),),
    }
    return dataclasses.replace(form, shape=shapes[step.order], order=step.order)


def _product(shape: tuple[int, ...]) -> int:
    return DYNAMIC if DYNAMIC in shape else math.prod(shape)


def _after_numbers(step: NumberStep, form: _Form, where: str) -> _Form:
    if isinstance(step, Quantize | Cast):
        return form.typed(step.datatype)
    if form.is_picture and (form.order is not None or form.datatype not in ("UINT8", "FP32")):
        raise MalformedMessage(f"{where} must come before 'layout', 'quantize' and 'cast'")
    if isinstance(step, Normalise):
        _check_means(step, form, where)
    if isinstance(step, Clip) and not _is_range(step):
        raise MalformedMessage(f"{where} wants 'low', 'high' or both, the lower one first; it has {step.low} and {step.high}")
    return form.typed("FP64" if form.datatype == "FP64" else "FP32")


def _is_range(step: Clip) -> bool:
    if step.low is None or step.high is None:
        return step.low is not step.high
    return step.low < step.high


def _check_means(step: Normalise, form: _Form, where: str) -> None:
    last = form.shape[-1] if form.shape else 1
    if any(len(each) not in (1, last) for each in (step.mean, step.std)):
        what = "channels" if form.is_picture else "places of the last axis"
        many = "?" if last == DYNAMIC else last
        raise MalformedMessage(f"{where} has {len(step.mean)} means and {len(step.std)} stds for {many} {what}")


_BOUNDS: Final = {"UINT8": (0, 255), "INT8": (-128, 127), "UINT16": (0, 65535), "INT16": (-32768, 32767)}


def _after_shape(step: ShapeStep | Pieces, form: _Form, where: str) -> _Form:
    shape = form.shape
    match step:
        case FitLength() | Pieces():
            axis = step.axis if isinstance(step, FitLength) else 0
            if axis >= len(shape):
                raise MalformedMessage(f"{where} names the axis {axis}; there are {len(shape)}, counted from 0")
            if not _holds(step.fill, form.datatype):
                raise MalformedMessage(f"{where} fills with {step.fill:g}, which is no {form.datatype}")
            return form.shaped(*shape[:axis], step.length, *shape[axis + 1 :])
        case Reshape():
            return form.shaped(*_reshaped(step, shape, where))
        case Transpose():
            if sorted(step.axes) != list(range(len(shape))):
                raise MalformedMessage(
                    f"{where} names the axes {list(step.axes)}; there are {len(shape)}, each to be named once"
                )
            return form.shaped(*(shape[axis] for axis in step.axes))
        case Ends():
            if not isinstance(form.opened, Bytes) or form.datatype != "UINT8" or len(shape) != 1:
                raise MalformedMessage(f"{where} is for bytes, so it must come right after 'bytes'")
            if not step.first + step.last > 0 or step.block < max(step.first, step.last):
                raise MalformedMessage(
                    f"{where} keeps {step.first} and {step.last} bytes; wanted some, and none beyond 'block'"
                )
            return form.shaped(step.first + step.last).typed("INT32")


def _holds(value: float, datatype: DataType) -> bool:
    if datatype.startswith("FP"):
        return True
    low, high = _BOUNDS.get(datatype, (-(2**31), 2**31 - 1))
    return value == round(value) and low <= value <= high


def _reshaped(step: Reshape, shape: tuple[int, ...], where: str) -> tuple[int, ...]:
    if step.shape.count(DYNAMIC) > 1:
        raise MalformedMessage(f"{where} leaves {step.shape.count(DYNAMIC)} sizes open; one at most can be found out")
    before, known = _product(shape), math.prod(size for size in step.shape if size != DYNAMIC)
    if before == DYNAMIC:
        return step.shape
    left = before // known if known else 0
    made = tuple(left if size == DYNAMIC else size for size in step.shape)
    if math.prod(made) != before:
        raise MalformedMessage(f"{where} cannot make {list(step.shape)} of {list(shape)}, which has {before} numbers")
    return made


def _after_sound(step: SoundStep, form: _Form, where: str) -> _Form:
    shape = form.shape
    if not isinstance(step, Log):
        _check_signal(step, shape, where)
    made = form.typed("FP32")
    match step:
        case Frames():
            return made.shaped(_frame_count(step, shape[0], where), step.length)
        case Window():
            _check_within("window", step.length or 1, shape[-1], where)
            return made
        case Spectrum():
            size = step.size or shape[-1]
            if size == DYNAMIC or size % 2:
                raise MalformedMessage(f"{where} has the size {size}; wanted an even one")
            _check_within("frame", shape[-1], size, where)
            return made.shaped(shape[0], size // 2 + 1)
        case Mel():
            _check_mel(step, form, where)
            _check_matrix(shape[-1], step.bands, where)
            return made.shaped(shape[0], step.bands)
        case Log():
            if not step.floor + step.add:
                raise MalformedMessage(f"{where} wants a 'floor' or 'add' above 0: silence has no logarithm")
            return made
        case Dct():
            _check_within("number of coefficients", step.coefficients, shape[-1], where)
            _check_matrix(shape[-1], step.coefficients, where)
            return made.shaped(shape[0], step.coefficients)


def _check_signal(step: SoundStep, shape: tuple[int, ...], where: str) -> None:
    wanted = 1 if isinstance(step, Frames) else 2
    if len(shape) != wanted:
        what = "samples" if wanted == 1 else "frames"
        raise MalformedMessage(f"{where} works on {what} of {wanted} dimensions; {list(shape)} has {len(shape)}")
    if wanted == 2 and shape[-1] > limits.FRAME:
        raise MalformedMessage(f"{where} works on frames of at most {limits.FRAME} numbers; they have {shape[-1]}")


def _check_matrix(places: int, made: int, where: str) -> None:
    """Each device keeps it in memory."""
    if places * made > limits.MATRIX:
        raise MalformedMessage(f"{where} makes {made} numbers out of {places}: a matrix of more than {limits.MATRIX} numbers")


def _frame_count(step: Frames, samples: int, where: str) -> int:
    if samples == DYNAMIC:
        return DYNAMIC
    half = step.length // 2
    if samples < {"none": step.length, "reflect": half + 1, "zeros": 1}[step.pad]:
        raise MalformedMessage(f"{where} makes frames of {step.length} out of {samples} samples")
    padded = samples + (0 if step.pad == "none" else 2 * half)
    return 1 + (padded - step.length) // step.hop


def _check_within(what: str, size: int, room: int, where: str) -> None:
    if room == DYNAMIC or size > room:
        raise MalformedMessage(f"{where} has a {what} of {size} where there is room for {'?' if room == DYNAMIC else room}")


def _check_mel(step: Mel, form: _Form, where: str) -> None:
    if isinstance(form.opened, Audio) and form.opened.rate != step.rate:
        raise MalformedMessage(f"{where} is for a rate of {step.rate}, and the audio has {form.opened.rate}")
    if form.shape[-1] < 2:  # `DYNAMIC` too
        raise MalformedMessage(f"{where} must come after 'spectrum'")
    half = step.rate / 2
    high = step.high or half
    if not step.low < high <= half:
        raise MalformedMessage(f"{where} reaches from {step.low:g} to {high:g} Hz; a rate of {step.rate} has {half:g}")


def _check_fits(form: _Form, spec: TensorSpec, where: str) -> None:
    shape = (DYNAMIC, *form.shape)
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
        if isinstance(step, TopK | Threshold | Boxes):
            raise MalformedMessage(f"{where}: {step_name(step)!r} must be its last step")
    last = result.steps[-1]
    if isinstance(last, TopK | Threshold) and rank != 2:
        raise MalformedMessage(f"{where}: {step_name(last)!r} wants [batch, classes]; {result.tensor} has {rank} dimensions")
    if isinstance(last, Boxes):
        ranks = [rank, *([len(_known(last.scores, outputs, "output").shape)] if last.scores else [])]
        if ranks != [3] * len(ranks):
            raise MalformedMessage(f"{where}: 'boxes' wants tensors of 3 dimensions; they have {ranks}")
        if last.scores and last.objectness:
            raise MalformedMessage(f"{where}: 'boxes' with scores of their own have no objectness")
