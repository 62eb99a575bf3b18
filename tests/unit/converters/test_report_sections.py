"""Where a variant differs, as the report shows it."""

from __future__ import annotations

import re
import zlib

import msgspec
import numpy as np
import pytest

from converters.data.calibration import Parts, make_dataset
from converters.graphs.lossless import compress
from converters.judging.trial import Reference, Trial
from converters.recipe import StaticRecipe
from converters.report.details import class_changes, layers, worst_samples
from converters.report.parity import ClassChange, LayerReport, NodeReport, ParityReport, Samples, VariantReport, WorstSample
from converters.report.parity_page import render
from converters.report.sample_pictures import png, shown
from fleet_protocol.digests import digest_of
from fleet_protocol.tensors import TensorSpec
from tests.support.conv_models import images, separable, separable_tensors

LABELS = np.array([0] * 10 + [1] * 10)


def reference() -> Reference:
    scores = np.eye(2, dtype=np.float32)[LABELS]
    data = make_dataset(
        {"x": np.zeros((20, 1), np.float32), "label": LABELS}, (TensorSpec(name="x", datatype="FP32", shape=(-1, 1)),)
    )
    return Reference(Parts(data, data, data), 4, {"y": scores}, {"y": scores}, "y")


def changed() -> dict[str, np.ndarray]:
    outputs = {name: values.copy() for name, values in reference().held_out.items()}
    outputs["y"][[3, 4]] = (0.2, 0.8)
    outputs["y"][15] = (0.1, 0.9)
    return outputs


def test_only_classes_that_changed_are_told() -> None:
    against = reference()
    assert class_changes(against.own(), against.judge(changed()), LABELS) == (
        ClassChange(label=0, samples=10, before=1.0, newly_wrong=2, newly_right=0),
    )


def test_changed_answers_come_before_noisy_ones() -> None:
    found = worst_samples(Trial(StaticRecipe(), "", outputs=changed()), reference())
    assert [each.index for each in found] == [3, 4, 15]
    assert (found[0].label, found[0].wanted, found[0].got) == (0, 0, 1)
    assert (found[2].wanted, found[2].got) == (1, 1)


def test_layers_are_told_with_what_they_lost() -> None:
    tensors = separable_tensors()
    tensors["w2"][:4] = 0
    before = separable(tensors)
    found = layers(before, compress(before, [{"x": images()}]).model)
    assert [each.operator for each in found] == ["convolution", "convolution", "convolution", "dense"]
    assert found[2] == LayerReport(operator="convolution", given=(24, 16, 1, 1), kept=(20, 16, 1, 1))


def pixels_of(content: bytes, rows: int) -> np.ndarray:
    packed = b"".join(re.findall(rb"IDAT(.*)....\x00\x00\x00\x00IEND", content, re.DOTALL))
    return np.frombuffer(zlib.decompress(packed), np.uint8).reshape(rows, -1)[:, 1:]


def test_a_png_holds_its_pixels() -> None:
    grey = np.arange(48, dtype=np.uint8).reshape(6, 8)
    np.testing.assert_array_equal(pixels_of(png(grey), 6), grey)


@pytest.mark.parametrize("shape", [(32, 32, 3), (3, 32, 32), (1, 28, 28), (49, 10, 1), (16, 16), (2000, 30, 1)])
def test_what_has_the_shape_of_a_picture_is_one(shape: tuple[int, ...]) -> None:
    assert shown(np.random.default_rng(0).normal(size=shape).astype(np.float32)).startswith("<img")


def test_a_row_of_numbers_is_a_line_and_words_are_nothing_to_look_at() -> None:
    assert "<polyline" in shown(np.linspace(0, 1, 64, dtype=np.float32))
    assert shown(np.arange(32)) == ""
    assert shown(np.zeros(1, np.float32)) == ""


def report() -> ParityReport:
    variant = VariantReport(
        name="int8-static", precision="int8-static", shipped=True, reason="", recipe={"kind": "static"}, session_options={},
        classes=(ClassChange(label=1, samples=40, before=0.9, newly_wrong=3, newly_right=1),),
        worst=(WorstSample(index=7, label=0, wanted=0, got=1, sqnr_db=12.0),),
        nodes=(NodeReport(node="block<1>/" + "x" * 90, operator="Conv", sqnr_db=21.0),), agreement=0.99,
        agreement_low=0.97, agreement_high=0.996,
    )  # fmt: skip
    return ParityReport(
        model="m", version="1", warnings=(), preferred="int8-static", preferred_because="x", task="classes", budget=0.005,
        samples=Samples(calibration=1, golden=1, held_out=1, labelled=True), seed=0, source=digest_of(b"s"),
        data=digest_of(b"d"), tools={}, variants=(variant,), class_names=("cat", "<dog>"),
        layers=(LayerReport(operator="convolution", given=(8, 3, 3, 3), kept=(4, 3, 3, 3)),),
    )  # fmt: skip


def test_the_page_shows_classes_samples_nodes_and_layers() -> None:
    page = render(report(), None, {7: '<img alt="">'})
    for said in (
        "&lt;dog&gt;",
        "cat → &lt;dog&gt;",
        "held-out 7",
        "8×3×3×3 → 4×3×3×3",
        "21 dB",
        "0.970 to 0.996",
        "kind static",
    ):
        assert said in page
    assert '<img alt="">' in page
    assert "block<1>" not in page


def test_a_report_without_details_has_no_empty_headings() -> None:
    bare = msgspec.structs.replace(report().variants[0], classes=(), worst=(), nodes=())
    page = render(msgspec.structs.replace(report(), variants=(bare,), layers=()), None)
    for heading in ("Classes that changed", "suffered most", "noise comes in", "before and after", "search tried"):
        assert heading not in page
