"""What a variant is judged by besides accuracy: areas under curves, guesses at classes, doubt."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from converters.data.calibration import Parts, make_dataset
from converters.judging.evaluation import judge
from converters.judging.measures import anomaly_metric
from converters.judging.metrics import area_under_curve, looks_like_scores
from converters.judging.trial import Reference, doubt, over_budget
from fleet_protocol.tensors import TensorSpec

SAMPLES = 400
CHANCE = np.random.default_rng(0)


def spec(name: str, *shape: int) -> TensorSpec:
    return TensorSpec(name=name, datatype="FP32", shape=(-1, *shape))


def autoencoder(lost: float = 0.0) -> tuple[Reference, dict[str, NDArray[np.float32]]]:
    """Label 1 is what cannot be rebuilt well; `lost` is by how much a variant rebuilds the others worse."""
    labels = (np.arange(SAMPLES) % 2).astype(np.int64)
    x = CHANCE.normal(size=(SAMPLES, 8)).astype(np.float32)
    error = (0.3 + 0.3 * labels[:, None]) * CHANCE.normal(size=x.shape)
    data = make_dataset({"x": x, "label": labels}, (spec("x", 8),))
    metric = anomaly_metric((spec("x", 8),), (spec("y", 8),), data)
    rebuilt = {"y": (x + error).astype(np.float32)}
    worse = {"y": (x + error + lost * (1 - labels[:, None]) * CHANCE.normal(size=x.shape)).astype(np.float32)}
    return Reference(Parts(data, data, data), 64, rebuilt, rebuilt, None, metric), worse


def test_the_area_counts_pairs_in_the_right_order_and_ties_as_half() -> None:
    labels = np.array([0, 1, 0, 1])
    assert area_under_curve(np.array([1.0, 2.0, 3.0, 4.0]), labels) == 0.75
    assert area_under_curve(np.zeros(4), labels) == 0.5
    assert area_under_curve(np.array([0.0, 1.0, 0.0, 1.0]), labels) == 1.0


def test_an_autoencoder_is_judged_by_how_well_its_error_tells_the_labels_apart() -> None:
    reference, worse = autoencoder(0.4)
    before = reference.own().score
    assert before is not None
    assert before > 0.9
    assert over_budget(reference.own(), reference, 0.005) == ""
    assert "of AUC" in over_budget(reference.judge(worse), reference, 0.005)
    assert reference.judge(worse).accuracy is None


@pytest.mark.parametrize(
    ("labels", "given", "made"), [([0, 1, 2] * 8, 8, 8), ([0, 0, 0] * 8, 8, 8), ([0, 1, 1] * 8, 8, 4), ([0, 1, 1] * 8, 2, 2)]
)
def test_other_models_are_no_autoencoders(labels: list[int], given: int, made: int) -> None:
    data = make_dataset({"x": np.zeros((24, given), np.float32), "label": np.array(labels)}, (spec("x", given),))
    assert anomaly_metric((spec("x", given),), (spec("y", made),), data) is None


def test_few_columns_may_be_scores_and_unit_vectors_are_not() -> None:
    rows = CHANCE.normal(size=(50, 10)).astype(np.float32)
    assert looks_like_scores(rows)
    assert not looks_like_scores(rows / np.linalg.norm(rows, axis=1, keepdims=True))
    assert not looks_like_scores(CHANCE.normal(size=(50, 384)).astype(np.float32))
    assert not looks_like_scores(rows[:, :1])


def test_without_labels_a_largest_output_that_changes_often_does_not_ship() -> None:
    rows = 10 + 0.1 * CHANCE.normal(size=(SAMPLES, 10)).astype(np.float32)
    noisy = rows + 0.1 * CHANCE.normal(size=rows.shape).astype(np.float32)
    data = make_dataset({"x": rows}, (spec("x", 10),))
    reference = Reference(Parts(data, data, data), 64, {"y": rows}, {"y": rows}, None)
    quality = reference.judge({"y": noisy})
    assert quality.sqnr_db > 30
    assert "another largest output" in over_budget(quality, reference, 0.005)


def answers(wrong: int, right: int) -> tuple[Reference, dict[str, NDArray[np.float32]]]:
    """Float is wrong on the last ten samples; the variant turns `wrong` of the first and `right` of these."""
    labels = np.zeros(SAMPLES, np.int64)
    before = np.eye(2, dtype=np.float32)[labels]
    before[-10:] = (0, 1)
    after = before.copy()
    after[:wrong] = (0, 1)
    after[SAMPLES - right :] = (1, 0)
    data = make_dataset({"x": np.zeros((SAMPLES, 1), np.float32), "label": labels}, (spec("x", 1),))
    return Reference(Parts(data, data, data), 64, {"y": before}, {"y": before}, "y"), {"y": after}


@pytest.mark.parametrize(
    ("wrong", "right", "unsure"), [(0, 0, False), (1, 0, False), (2, 0, True), (4, 3, True), (1, 6, False)]
)
def test_few_changes_that_chance_may_have_hidden_more_of_are_a_doubt(wrong: int, right: int, unsure: bool) -> None:
    reference, after = answers(wrong, right)
    quality = reference.judge(after)
    assert over_budget(quality, reference, 0.005) == ""
    assert bool(doubt(quality, reference, 0.005)) == unsure


def test_without_labels_there_is_no_doubt() -> None:
    reference, after = answers(3, 0)
    assert doubt(judge(reference.held_out, after, None, "y"), reference, 0.005) == ""
