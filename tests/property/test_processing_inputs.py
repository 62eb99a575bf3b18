"""Whatever comes from outside becomes rows, or is refused as the request's fault; and steps end as was foretold."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from fleet_protocol.errors import MalformedMessage
from fleet_protocol.processing import (
    Audio,
    Bytes,
    Cast,
    Clip,
    Dct,
    Decode,
    Ends,
    FitLength,
    Frames,
    InputProcessing,
    InputStep,
    Log,
    Mel,
    Normalise,
    Opener,
    Pieces,
    Processing,
    Quantize,
    Reshape,
    Scale,
    Spectrum,
    Tensor,
    Transpose,
    Window,
)
from fleet_protocol.processing_fit import _followed
from fleet_protocol.tensors import NUMPY_NAMES, TensorSpec
from runtime.errors import InvalidInput, MalformedRequest
from runtime.inputs import from_json, from_message
from runtime.processing import Processor
from runtime.processing.steps import rows
from tests.support.sounds import wav

OPENERS: list[Opener] = [
    Decode(), Audio(rate=16_000), Bytes(), Tensor(shape=(2,)), Tensor(shape=(-1, 2), datatype="INT8"), Tensor(shape=()),
]  # fmt: skip
NUMBERS = st.integers() | st.floats() | st.booleans() | st.none()
JSON = st.recursive(
    NUMBERS | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["b64", "x", "inputs", "a"]), inner, max_size=3)
    ),
    max_leaves=12,
)
GOOD = wav(np.arange(-50, 50, dtype=np.int16))


def one_input(first: Opener) -> tuple[tuple[TensorSpec, ...], Processor]:
    form = _followed((first,), "here")
    spec = TensorSpec(name="x", datatype=form.datatype, shape=(-1, *form.shape))
    return (spec,), Processor(Processing(inputs=(InputProcessing(tensor="x", steps=(first,)),)), (spec,), ())


@given(st.sampled_from(OPENERS), JSON)
def test_any_json_is_rows_of_the_model_or_refused(first: Opener, value: Any) -> None:
    specs, processor = one_input(first)
    try:
        made = from_json(json.dumps(value).encode(), specs, processor)
    except (InvalidInput, MalformedRequest):
        return
    if made.keys() == {"x"} and not (isinstance(first, Decode) or (isinstance(value, dict) and "inputs" in value)):
        assert made["x"].dtype == NUMPY_NAMES[specs[0].datatype]
        assert specs[0].accepts(made["x"].shape)


@given(st.sampled_from([Decode(), Audio(rate=16_000), Bytes()]), st.binary(max_size=200))
def test_any_message_is_rows_of_the_model_or_refused(first: Opener, content: bytes) -> None:
    specs, processor = one_input(first)
    try:
        from_message(content, specs, processor)
    except (InvalidInput, MalformedRequest):
        return


@given(st.integers(0, len(GOOD) - 1), st.binary(min_size=1, max_size=12), st.integers(0, len(GOOD)))
def test_a_wav_file_that_was_damaged_anywhere_is_sound_or_refused(at: int, damage: bytes, end: int) -> None:
    content = (GOOD[:at] + damage + GOOD[at + len(damage) :])[: len(GOOD) - end // 4]
    try:
        [heard] = rows(InputProcessing(tensor="x", steps=(Audio(rate=16_000),)), content)
    except InvalidInput:
        return
    assert heard.dtype == np.float32
    assert np.abs(heard).max() <= 1.0


SIZES = st.integers(1, 6)
STEPS: st.SearchStrategy[InputStep] = st.one_of(
    st.builds(FitLength, length=SIZES, axis=st.integers(0, 1), at=st.sampled_from(["end", "start", "both"])),
    st.builds(Pieces, length=SIZES, hop=SIZES),
    st.builds(Reshape, shape=st.lists(st.sampled_from([-1, 1, 2, 3, 4, 6]), min_size=1, max_size=3).map(tuple)),
    st.permutations([0, 1]).map(lambda axes: Transpose(axes=tuple(axes))),
    st.builds(Frames, length=SIZES, hop=SIZES, pad=st.sampled_from(["none", "reflect", "zeros"])),
    st.builds(Window, kind=st.sampled_from(["hann", "hamming"]), symmetric=st.booleans()),
    st.builds(Spectrum, size=st.sampled_from([None, 2, 4, 8]), power=st.sampled_from([1, 2])),
    st.builds(Mel, rate=st.just(16_000), bands=SIZES, triangles=st.sampled_from(["hertz", "mel"])),
    st.builds(Log, base=st.sampled_from(["e", "2", "10"]), span=st.sampled_from([None, 3.0])),
    st.builds(Dct, coefficients=SIZES, orthonormal=st.booleans()),
    st.builds(Ends, first=SIZES, last=SIZES),
    st.sampled_from([
        Scale(divide=2.0), Normalise(mean=(1.0,), std=(2.0,)), Normalise(mean=(1.0, 2.0), std=(2.0,)), Clip(low=0.0),
        Cast(datatype="FP64"), Cast(datatype="INT32"), Quantize(scale=0.5),
    ]),
)  # fmt: skip


FIRST: list[Opener] = [
    Tensor(shape=(12,)), Tensor(shape=(-1,)), Tensor(shape=(3, 4)), Tensor(shape=(-1, 4)), Bytes(), Audio(rate=16_000),
]  # fmt: skip


def foretold(*steps: InputStep) -> TensorSpec | None:
    """One sample after the steps; None where they do not belong together."""
    try:
        form = _followed(steps, "here")
    except MalformedMessage:
        return None
    return TensorSpec(name="x", datatype=form.datatype, shape=form.shape)


@example(Tensor(shape=(12,)), [FitLength(length=4), Frames(length=6, hop=1, pad="reflect")])
@given(st.sampled_from(FIRST), st.lists(STEPS, max_size=5))
def test_a_sample_ends_in_the_shape_and_type_that_were_foretold(first: Opener, steps: list[InputStep]) -> None:
    opened, ended = foretold(first), foretold(first, *steps)
    assume(opened is not None and ended is not None)
    assert opened is not None and ended is not None  # noqa: PT018 - for mypy
    value = np.arange(12) if isinstance(first, Bytes) else np.linspace(0, 1, 12).reshape(3, 4)
    try:
        made = rows(InputProcessing(tensor="x", steps=(first, *steps)), value if len(opened.shape) == 2 else value.ravel())[-1]
    except InvalidInput:
        assert -1 in opened.shape  # only the length that a sample happens to have can still be wrong
        return
    assert made.dtype == NUMPY_NAMES[ended.datatype]
    assert ended.accepts(made.shape)


def test_what_was_nested_without_end_is_refused() -> None:
    specs, processor = one_input(Tensor(shape=(2,)))
    with pytest.raises(InvalidInput):
        from_json(b"[" * 100_000 + b"]" * 100_000, specs, processor)
    with pytest.raises(InvalidInput):
        from_json(b"[" * 900 + b"]" * 900, specs, processor)
