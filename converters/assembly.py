"""Puts the parts of a bundle together: golden file, reports, manifest. What it gives depends on its arguments only."""

from __future__ import annotations

import importlib.metadata
import io
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from converters.choice import Choice
from converters.data.calibration import LABEL, Dataset
from converters.errors import DataRejected
from converters.for_litert import quiet
from converters.judging.evaluation import Outputs, Quality
from converters.judging.metrics import paired_difference, wilson
from converters.judging.trial import Reference, Trial, tolerance
from converters.recipe import FLOAT, Recipe, TrainedRecipe
from converters.report import details
from converters.report.parity import (
    PARITY_FILE,
    AccuracyReport,
    Finding,
    LayerReport,
    ParityReport,
    Samples,
    SaturationReport,
    VariantReport,
    warnings_about,
)
from converters.settings import Settings
from fleet_io.bundle_directory import describe
from fleet_protocol import limits
from fleet_protocol.manifest import Accuracy, Format, Golden, Lineage, Manifest, Variant
from fleet_protocol.tensors import TensorSpec

GOLDEN_FILE: Final = "golden.npz"
PROFILE_FILE: Final = "profile.json"
MODEL_TYPES: Final[dict[Format, str]] = {
    "onnx": "application/vnd.edgeward.model.onnx",
    "tflite": "application/vnd.edgeward.model.tflite",
}
GOLDEN_TYPE: Final = "application/vnd.edgeward.golden.npz"
JSON_TYPE: Final = "application/json"

_MARGIN_SAMPLES: Final = 2
_TRAINING_TOOLS: Final = ("torch", "torch-pruning", "torchao")
_TFLITE_TOOLS: Final = ("ai-edge-litert", "ai-edge-quantizer", "flatbuffers")


def tools(recipes: Sequence[Recipe]) -> dict[str, str]:
    """The versions of everything that shapes the bytes."""
    found = {"numpy": np.__version__, "onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__}
    found["python"] = platform.python_version()
    found["edgeward"] = _version("edgeward")
    if any(recipe.format == "tflite" for recipe in recipes):
        found |= {name: _version(name) for name in _TFLITE_TOOLS}
    if any(isinstance(recipe, TrainedRecipe) for recipe in recipes):
        found |= {name: _version(name) for name in _TRAINING_TOOLS}
    return found


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # edgeward itself, run from a checkout; or an extra that is missing
        return "unknown"


def golden_content(golden: Dataset, outputs: Outputs) -> bytes:
    """The golden `.npz`, as `fleet_protocol.manifest.Golden` describes it. Raises `DataRejected` when it is too large."""
    arrays: dict[str, NDArray[Any]] = {f"input/{name}": values for name, values in golden.inputs.items()}
    arrays |= {f"output/{name}": np.ascontiguousarray(values) for name, values in outputs.items()}
    if golden.labels is not None:
        arrays[LABEL] = golden.labels
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    content = buffer.getvalue()
    if len(content) > limits.GOLDEN_BYTES:
        raise DataRejected(
            f"{len(golden)} golden samples take {len(content)} bytes; a device reads {limits.GOLDEN_BYTES}. The samples "
            "are too large for this release of Edgeward."
        )
    return content


def parity_report(
    settings: Settings,
    reference: Reference,
    trials: Sequence[Trial],
    choice: Choice,
    *,
    source: str,
    data: str,
    tools: dict[str, str],
    slower: Mapping[str, bool],
    given: int,
    lossless: str,
    trained: tuple[str, ...] = (),
    notes: tuple[str, ...] = (),
    layers: tuple[LayerReport, ...] = (),
) -> ParityReport:
    """The report on all trials: shipped ones in the order of `choice`, then the others.

    `given` is the given model's size in bytes, `lossless` what was taken away from it without changing its answers,
    `trained` what was trained from it, `notes` what else people may want to know.
    """
    by_name = {trial.recipe.name: trial for trial in trials}
    left_out = [trial for trial in trials if trial.recipe.name not in choice.order]
    float_trial = by_name[FLOAT.name]
    reports = [
        _variant(trial, float_trial, reference, shipped=trial.recipe.name in choice.order, slower=slower, given=given)
        for trial in (*map(by_name.__getitem__, choice.order), *left_out)
    ]
    finding = _finding(settings, reference, trials, choice, slower)
    held_out = reference.parts.held_out
    return ParityReport(
        model=settings.model,
        version=settings.version,
        warnings=warnings_about(finding),
        preferred=choice.order[0],
        preferred_because=choice.reason,
        task=finding.task,
        budget=settings.budget,
        samples=Samples(
            calibration=len(reference.parts.calibration),
            golden=len(reference.parts.golden),
            held_out=len(held_out),
            labelled=held_out.labels is not None,
        ),
        target=settings.target,
        seed=settings.seed,
        source=source,
        data=data,
        tools=tools,
        lossless=lossless,
        trained=trained,
        notes=notes,
        class_names=settings.classes,
        layers=layers,
        variants=tuple(reports),
    )


def _finding(
    settings: Settings, reference: Reference, trials: Sequence[Trial], choice: Choice, slower: Mapping[str, bool]
) -> Finding:
    """What may be bad news."""
    by_name = {trial.recipe.name: trial for trial in trials}
    left_out = [trial for trial in trials if trial.recipe.name not in choice.order]
    float_trial = by_name[FLOAT.name]
    held_out = reference.parts.held_out
    return Finding(
        float_accuracy=None if float_trial.held_out is None else float_trial.held_out.accuracy,
        majority=_majority(held_out.labels),
        held_out=len(held_out),
        budget=settings.budget,
        task="values" if reference.classes is None else "classes",
        left_out=[(trial.recipe.name, trial.fault) for trial in left_out if not quiet(trial, settings)],
        metric="" if reference.metric is None or reference.metric.against_float else reference.metric.name,
        int8_shipped=any(by_name[name].recipe.precision != FLOAT.precision for name in choice.order),
        slower=bool(slower) and all(slower.get(name, False) for name in choice.order),
        constant=all(bool((values == values[:1]).all()) for values in reference.held_out.values()),
    )


def _variant(
    trial: Trial, float_trial: Trial, reference: Reference, *, shipped: bool, slower: Mapping[str, bool], given: int
) -> VariantReport:
    recipe, quality = trial.recipe, trial.held_out
    interval = None
    if quality is not None and quality.agreement is not None:
        interval = wilson(round(quality.agreement * quality.samples), quality.samples)
    size = None if trial.path is None else trial.path.stat().st_size
    return VariantReport(
        name=recipe.name,
        precision=recipe.precision,
        shipped=shipped,
        reason=trial.fault or "within the budget",
        recipe=recipe.choices(),
        session_options=recipe.session_options,
        size=size,
        size_ratio=None if size is None else round(size / given, 4),
        slower_than_float=slower.get(recipe.name),
        accuracy=_accuracy(quality, float_trial.held_out),
        agreement=None if quality is None else quality.agreement,
        agreement_low=None if interval is None else round(interval.low, 4),
        agreement_high=None if interval is None else round(interval.high, 4),
        score=details.score_change(trial, reference),
        doubt=trial.doubt,
        classes=details.class_changes(float_trial.held_out, quality, reference.parts.held_out.labels),
        worst=details.worst_samples(trial, reference),
        nodes=details.nodes(trial.noise),
        sqnr_db=None if quality is None else round(quality.sqnr_db, 2),
        saturation=_saturation(trial),
        tolerance=None if trial.golden is None else tolerance(trial.golden),
    )


def _saturation(trial: Trial) -> SaturationReport | None:
    found = trial.saturated
    if found is None:
        return None
    quality = found.quality
    if quality is None:
        return SaturationReport(layers=found.layers)
    return SaturationReport(
        layers=found.layers,
        samples=quality.samples,
        agreement=quality.agreement,
        accuracy=quality.accuracy,
        sqnr_db=round(quality.sqnr_db, 2),
    )


def _accuracy(quality: Quality | None, before: Quality | None) -> AccuracyReport | None:
    if quality is None or before is None or quality.right is None or before.right is None:
        return None
    interval = wilson(int(quality.right.sum()), quality.samples)
    change = paired_difference(before.right, quality.right)
    newly_right = int((quality.right & ~before.right).sum())
    newly_wrong = int((before.right & ~quality.right).sum())
    return AccuracyReport(
        value=float(quality.right.mean()),
        low=round(interval.low, 4),
        high=round(interval.high, 4),
        change=(newly_right - newly_wrong) / quality.samples,
        change_low=round(change.low, 4),
        change_high=round(change.high, 4),
        newly_wrong=newly_wrong,
        newly_right=newly_right,
    )


def _majority(labels: NDArray[np.int64] | None) -> float | None:
    if labels is None or not len(labels):
        return None
    return float(np.unique(labels, return_counts=True)[1].max() / len(labels))


def variant_file(recipe: Recipe) -> str:
    """Where a variant lies in its bundle."""
    return f"variants/{recipe.name}.{recipe.format}"


def manifest(
    settings: Settings,
    shipped: Sequence[Trial],
    golden: Dataset,
    files: Mapping[str, Path],
    *,
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
    lineage: Lineage,
) -> Manifest:
    """The manifest of the `shipped` trials, preferred first. `files` says where the bundle's files lie now."""
    reached = [trial.golden for trial in shipped if trial.golden is not None]
    return Manifest(
        model=settings.model,
        version=settings.version,
        inputs=inputs,
        outputs=outputs,
        labels=settings.classes,
        variants=tuple(_shipped(trial) for trial in shipped),
        golden=Golden(
            file=describe(files[GOLDEN_FILE], name=GOLDEN_FILE, media_type=GOLDEN_TYPE),
            samples=len(golden),
            has_labels=golden.labels is not None,
            min_accuracy=_promised_accuracy(settings.min_accuracy, reached),
            max_regression=settings.max_regression,
        ),
        profile=describe(files[PROFILE_FILE], name=PROFILE_FILE, media_type=JSON_TYPE),
        parity=describe(files[PARITY_FILE], name=PARITY_FILE, media_type=JSON_TYPE),
        lineage=lineage,
        processing=settings.processing or msgspec.UNSET,
    )


def _shipped(trial: Trial) -> Variant:
    recipe = trial.recipe
    assert trial.path is not None
    assert trial.golden is not None
    assert trial.held_out is not None
    return Variant(
        name=recipe.name,
        format=recipe.format,
        precision=recipe.precision,
        file=describe(trial.path, name=variant_file(recipe), media_type=MODEL_TYPES[recipe.format]),
        tolerance=tolerance(trial.golden),
        accuracy=_measured_accuracy(trial.held_out),
        session_options=recipe.session_options,
        recipe=recipe.choices(),
    )


def _measured_accuracy(quality: Quality) -> Accuracy:
    """The one figure that the manifest carries for a variant: the best one that the data allows."""
    if quality.score is not None:
        return Accuracy(metric=quality.metric[:50], value=quality.score, samples=quality.samples)
    if quality.accuracy is not None:
        return Accuracy(metric="accuracy", value=quality.accuracy, samples=quality.samples)
    if quality.agreement is not None:
        return Accuracy(metric="agreement with float", value=quality.agreement, samples=quality.samples)
    return Accuracy(metric="SQNR in dB", value=round(quality.sqnr_db, 2), samples=quality.samples)


def _promised_accuracy(asked: float | None, golden: Sequence[Quality]) -> float | None:
    """What the golden samples must reach on a device where the publisher promised `asked`.

    Golden samples are few, so they may lie below the promise by chance; what was measured here on them is the most that can
    be demanded there, less a margin for another processor.
    """
    reached = [quality.accuracy for quality in golden if quality.accuracy is not None]
    if asked is None or not reached:
        return None
    return max(0.0, round(min(asked, *reached) - _MARGIN_SAMPLES / golden[0].samples, 4))
