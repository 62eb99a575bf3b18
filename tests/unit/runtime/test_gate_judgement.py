"""The verdict, from measurements alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from fleet_protocol.manifest import Tolerance
from fleet_protocol.tensors import TensorSpec
from runtime.gate import GateRequest, ModelFile, judge
from runtime.trial import TrialResult

PIXELS = (TensorSpec(name="pixels", datatype="FP32", shape=(-1, 64)),)
SCORES = (TensorSpec(name="scores", datatype="FP32", shape=(-1, 10)),)


def request(*, min_accuracy: float | None = None, max_regression: float = 0.1, **tolerance: float) -> GateRequest:
    return GateRequest(
        candidate=ModelFile(Path("candidate")),
        golden=Path("golden"),
        tolerance=Tolerance(min_sqnr_db=tolerance.get("min_sqnr_db", 20.0), min_agreement=tolerance.get("min_agreement")),
        min_accuracy=min_accuracy,
        max_regression=max_regression,
    )


def trial(**changes: object) -> TrialResult:
    facts: dict[str, object] = {
        "inputs": PIXELS,
        "outputs": SCORES,
        "samples": 64,
        "sqnr_db": 30.0,
        "agreement": 0.98,
        "accuracy": 0.95,
        "latency_p50_s": 0.002,
        "peak_memory_bytes": 1 << 20,
    }
    return TrialResult(**(facts | changes))  # type: ignore[arg-type]  # fields are chosen by each test


def test_a_candidate_that_meets_every_demand_passes_with_its_figures() -> None:
    verdict = judge(request(min_agreement=0.9, min_accuracy=0.9), trial(), trial(accuracy=0.96))
    assert verdict.passed
    assert verdict.reason == (
        "64 golden samples answered, signal-to-noise ratio 30.0 dB, agreement 0.980, "
        "accuracy 0.950 (running version: 0.960), median latency 2 ms."
    )
    assert (verdict.sqnr_db, verdict.accuracy, verdict.baseline_accuracy) == (30.0, 0.95, 0.96)


@pytest.mark.parametrize(
    ("changes", "demands", "message"),
    [
        ({"sqnr_db": 19.99}, {}, "Signal-to-noise ratio 20.0 dB on the golden outputs, at least 20 wanted."),
        ({"agreement": 0.5}, {"min_agreement": 0.9}, "Agreement with the golden classes 0.500, at least 0.900 wanted."),
        ({"agreement": None}, {"min_agreement": 0.9}, "Agreement with the golden classes could not be measured"),
        ({"accuracy": 0.5}, {"min_accuracy": 0.9}, "Accuracy on the golden labels 0.500, at least 0.900 wanted."),
        ({"accuracy": None}, {"min_accuracy": 0.9}, "Accuracy on the golden labels could not be measured"),
        ({"failure": "it did not finish within 5 s and was stopped"}, {}, "It did not finish within 5 s and was stopped."),
    ],
)
def test_a_demand_that_is_not_met_is_named_with_both_numbers(
    changes: dict[str, object], demands: dict[str, float], message: str
) -> None:
    verdict = judge(request(**demands), trial(**changes), None)
    assert not verdict.passed
    assert message in verdict.reason


def test_every_demand_that_is_not_met_is_named() -> None:
    verdict = judge(request(min_agreement=0.9, min_accuracy=0.9), trial(sqnr_db=-3.0, agreement=0.1, accuracy=0.1), None)
    assert verdict.reason.count("wanted") == 3


def test_exactly_what_was_demanded_passes() -> None:
    assert judge(request(min_sqnr_db=30.0, min_agreement=0.98, min_accuracy=0.95), trial(), trial(accuracy=1.05)).passed


def test_a_loss_against_the_running_version_is_refused() -> None:
    verdict = judge(request(max_regression=0.1), trial(accuracy=0.5), trial(accuracy=0.95))
    assert not verdict.passed
    assert "accuracy 0.500 where the running version has 0.950: a loss of at most 0.100 is allowed" in verdict.reason.lower()


@pytest.mark.parametrize(
    "baseline",
    [
        trial(failure="it crashed", accuracy=1.0),
        trial(accuracy=None),
        trial(accuracy=1.0, outputs=(TensorSpec(name="other", datatype="FP32", shape=(-1, 10)),)),
        trial(accuracy=1.0, inputs=()),
    ],
)
def test_a_running_version_that_cannot_be_compared_is_left_out(baseline: TrialResult) -> None:
    verdict = judge(request(max_regression=0.0), trial(accuracy=0.5), baseline)
    assert (verdict.passed, verdict.baseline_accuracy) == (True, None)


def test_without_floating_point_outputs_only_classes_count() -> None:
    assert judge(request(min_agreement=0.9), trial(sqnr_db=None), None).passed


def test_a_reason_fits_into_a_report() -> None:
    verdict = judge(request(), trial(failure="x" * 5000), None)
    assert len(verdict.reason) <= 1000
