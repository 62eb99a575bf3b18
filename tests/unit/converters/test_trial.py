"""When a variant is out of budget, and what its tolerance on a device becomes."""

from __future__ import annotations

import numpy as np
import pytest

from converters.data.calibration import Parts, make_dataset
from converters.judging.evaluation import Quality, judge
from converters.judging.trial import Reference, over_budget, tolerance
from fleet_protocol.tensors import TensorSpec

SPEC = TensorSpec(name="x", datatype="FP32", shape=(-1, 1))
COUNT = 200
LABELS = np.arange(COUNT) % 4


def reference(*, labelled: bool, classes: bool = True) -> Reference:
    """A float model that is always right."""
    arrays = {"x": np.zeros((COUNT, 1), np.float32)} | ({"label": LABELS} if labelled else {})
    data = make_dataset(arrays, (SPEC,))
    outputs = {"y": np.eye(4, dtype=np.float32)[LABELS]}
    parts = Parts(calibration=data, golden=data, held_out=data)
    return Reference(parts=parts, batch=64, golden=outputs, held_out=outputs, classes="y" if classes else None)


def quality(against: Reference, *, wrong: int = 0, noise: float = 0.0) -> Quality:
    """A variant that answers otherwise than float for so many samples."""
    answers = LABELS.copy()
    answers[:wrong] += 1
    outputs = {"y": np.eye(4, dtype=np.float32)[answers % 4] + np.float32(noise)}
    return judge(against.held_out, outputs, against.parts.held_out.labels, against.classes)


@pytest.mark.parametrize("labelled", [True, False])
def test_a_loss_up_to_the_budget_ships_and_one_sample_more_does_not(labelled: bool) -> None:
    float_model = reference(labelled=labelled)
    assert over_budget(quality(float_model, wrong=2), float_model, budget=0.01) == ""
    assert over_budget(quality(float_model, wrong=3), float_model, budget=0.01) != ""


def test_the_reason_gives_both_figures_and_the_budget() -> None:
    float_model = reference(labelled=True)
    reason = over_budget(quality(float_model, wrong=10), float_model, budget=0.005)
    assert reason == "loses 5.00 points of accuracy (1.0000 to 0.9500); budget 0.5"
    float_model = reference(labelled=False)
    reason = over_budget(quality(float_model, wrong=10), float_model, budget=0.005)
    assert reason == "gives another class than float for 5.00% of the samples; budget 0.50%"


def test_values_must_stand_well_above_their_noise() -> None:
    float_model = reference(labelled=False, classes=False)
    assert over_budget(quality(float_model, noise=0.01), float_model, budget=0.0) == ""
    assert "is noisy: 14.0 dB" in over_budget(quality(float_model, noise=0.1), float_model, budget=0.0)


def test_a_device_may_be_noisier_and_change_two_samples() -> None:
    float_model = reference(labelled=True)
    measured = quality(float_model, wrong=4, noise=0.005)
    allowed = tolerance(measured)
    assert allowed.min_sqnr_db == pytest.approx(measured.sqnr_db - 6, abs=0.05)
    assert allowed.min_agreement == pytest.approx((COUNT - 6) / COUNT)


def test_no_tolerance_is_tighter_than_other_processors_float() -> None:
    float_model = reference(labelled=True)
    assert tolerance(quality(float_model)).min_sqnr_db == 50.0


def test_values_have_no_agreement_to_demand() -> None:
    assert tolerance(quality(reference(labelled=False, classes=False))).min_agreement is None
