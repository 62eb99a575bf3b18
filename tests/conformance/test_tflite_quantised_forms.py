"""Operators that are taken apart, in 8 bits: full integer arithmetic answers nearly what ONNX Runtime answers in float."""

from __future__ import annotations

import pytest

from converters.recipe import TFLITE
from converters.tflite.variants import TfliteMaker
from runtime import parity
from tests.conformance.test_tflite_operators import CASES
from tests.support.tflite_cases import Case, feeds, graph, run_onnx, run_tflite

NAMES = {
    "Attention", "Attention-3d", "Attention-causal", "AveragePool-dilated", "ConvTranspose-depthwise", "ConvTranspose-dilated",
    "ConvTranspose-grouped", "ConvTranspose-shape", "DFT", "Einsum-bij,bjk->bik", "Einsum-bqhd,bkhd->bhqk",
    "Einsum-nchw,nchw->nc",
    "Erf", "GroupNormalization", "LayerNormalization-with-means", "LpNormalization-1-2", "LpPool-p2", "MatMul-vector",
    "MaxPool-dilated", "MeanVarianceNormalization", "Pad-cut-edge", "Pad-wrap-wide", "Resize-cubic-half_pixel-2-0",
    "Resize-linear-half_pixel-0.5-1", "RotaryEmbedding", "STFT", "Shrink-soft", "Softmax-several-axes", "Trilu-0-1",
}  # fmt: skip

STATIC = next(recipe for recipe in TFLITE if recipe.name == "tflite-int8")


@pytest.mark.parametrize("case", [case for case in CASES if str(case) in NAMES], ids=str)
def test_eight_bits_answer_nearly_as_float_does(case: Case) -> None:
    model = graph(case)
    inputs = feeds(model, 16, low=case.low, high=case.high)
    answers = run_tflite(TfliteMaker(model, batches=lambda: iter([inputs])).apply(STATIC), inputs)
    for name, wanted in run_onnx(model, inputs).items():
        assert parity.sqnr_db(wanted, answers[name]) > 18


def test_every_name_is_a_cases() -> None:
    assert {str(case) for case in CASES} >= NAMES
