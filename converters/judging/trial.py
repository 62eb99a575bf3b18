"""One variant's trial: make it, run it beside the float model, and say whether it may ship."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import onnx

import runtime
from converters.data.calibration import Parts
from converters.errors import RecipeFailed
from converters.judging.answering import Answering, Ask
from converters.judging.evaluation import Outputs, Quality, judge, load_variant, run
from converters.judging.measures import Metric
from converters.quantizing.quantize import Quantizer
from converters.quantizing.saturation import emulate, layers_at_risk
from converters.quantizing.sensitivity import NodeNoise
from converters.recipe import FLOAT, Recipe, StaticRecipe, TrainedRecipe
from converters.targets import Target, arithmetic, describe, must_check
from fleet_protocol.manifest import Tolerance

VALUES_SQNR_DB: Final = 20.0
"""Where outputs are values and not classes, a variant's noise must lie this far below its signal."""

VECTORS_SQNR_DB: Final = 14.0
"""The same for embeddings, whose mean cosine to float must be right besides."""

GUESS_LOSS: Final = 0.05
"""Where the largest output may be a class, though nothing says so, it may be another one for so many samples."""

_MARGIN_DB: Final = 6.0
"""A device's processor may round otherwise: its gate allows twice the noise amplitude measured here."""
_STRICTEST_DB: Final = 50.0
"""No tolerance is tighter: float arithmetic itself differs between processors."""
_EMULATED: Final = 512
"""Held-out samples on which a saturating processor is emulated."""
_EMULATED_WHEN_REFUSED: Final = 32
"""The same for a variant that is out of budget anyway: it only says whether saturation is why."""
_MARGIN_SAMPLES: Final = 2
"""So many golden samples more may change their class on a device."""


@dataclass(frozen=True)
class Reference:
    """The float model on the data: what every variant is held against. `classes` names the output that tells the class."""

    parts: Parts
    batch: int
    golden: Outputs
    """Computed sample by sample, as a device's gate does."""
    held_out: Outputs
    classes: str | None
    metric: Metric | None = None
    """What else the held-out samples are judged by."""

    def judge(self, outputs: Outputs, answering: Answering | None = None) -> Quality:
        """The quality of a variant's outputs for the held-out samples; `answering` is that variant. Raises `RecipeFailed`."""
        held_out, metric = self.parts.held_out, self.metric
        quality = judge(self.held_out, outputs, held_out.labels, self.classes)
        if metric is None:
            return quality
        if metric.asks is not None and answering is not None:
            return replace(quality, score=metric.asks(answering), metric=metric.name, guess=None)
        return replace(quality, score=metric.of(outputs, held_out, self.held_out), metric=metric.name, guess=None)

    def answering(self, ask: Ask) -> Answering:
        """A model as a metric sees it; `ask` runs one batch of it."""
        return Answering(ask, list(self.parts.held_out.inputs), list(self.held_out), self.batch)

    def own(self) -> Quality:
        """The float model's own quality."""
        return self.judge(self.held_out)


@dataclass(frozen=True)
class Trial:
    """A variant that was tried. `fault` goes on after its name and says why it may not ship; empty where it may.

    Where it could not even run, the rest is None.
    """

    recipe: Recipe
    fault: str
    path: Path | None = None
    model: runtime.Model | None = None
    golden: Quality | None = None
    held_out: Quality | None = None
    outputs: Outputs | None = None
    """Its outputs for the held-out samples."""
    saturated: Saturated | None = None
    """What a 16-bit-saturating processor would make of it; None for float arithmetic and other engines."""
    noise: tuple[NodeNoise, ...] = ()
    """Where its noise comes in, worst node first; for static int8 that was chosen."""
    doubt: str = ""
    """Goes on after its name: why it may lose more than the budget although these samples say otherwise."""


@dataclass(frozen=True)
class Saturated:
    """The emulated check: how many integer layers can be cut off at 16 bits, and the quality there, where any can."""

    layers: int
    quality: Quality | None = None
    fault: str = ""
    """Why it may not ship to such processors."""


def attempt(
    recipe: Recipe, quantizer: Quantizer, reference: Reference, *, work: Path, budget: float, target: Target = "any"
) -> Trial:
    """Make and measure one variant. A recipe that does not fit the model is a fault of the trial, not an error."""
    path = work / f"{recipe.name}.{recipe.format}"
    try:
        path.write_bytes(quantizer.apply(recipe))
        model = load_variant(path, {**recipe.session_options, **arithmetic(target)})
    except RecipeFailed as error:
        return Trial(recipe, fault=str(error))
    try:
        trial = _measure(Trial(recipe, fault="", path=path, model=model), model, reference, budget)
        static = isinstance(recipe.then if isinstance(recipe, TrainedRecipe) else recipe, StaticRecipe)
        return _checked(trial, reference, budget, target) if static else trial
    except RecipeFailed as error:
        model.close()
        return Trial(recipe, fault=str(error), path=path)


def _measure(trial: Trial, model: runtime.Model, reference: Reference, budget: float) -> Trial:
    parts = reference.parts
    outputs = run(model, parts.held_out, batch=reference.batch)
    held_out = reference.judge(outputs, reference.answering(model))
    golden = judge(reference.golden, run(model, parts.golden, batch=1), parts.golden.labels, reference.classes)
    fault = "" if trial.recipe == FLOAT else over_budget(held_out, reference, budget)
    return Trial(trial.recipe, fault, trial.path, model, golden, held_out, outputs, doubt=doubt(held_out, reference, budget))


def _checked(trial: Trial, reference: Reference, budget: float, target: Target) -> Trial:
    """The trial with what saturating processors would make of the variant; a fault where the target has such ones."""
    assert trial.path is not None
    few = trial.fault and reference.metric is None  # other measures may say nothing of few samples
    some = _first(reference, _EMULATED_WHEN_REFUSED if few else _EMULATED)
    found = saturate(onnx.load_model(str(trial.path)), some, budget)
    there = f"{found.fault} on {describe(target)}, as emulated" if found.fault and must_check(trial.recipe, target) else ""
    return replace(trial, saturated=found, fault="; ".join(filter(None, (trial.fault, there))))


def saturate(model: onnx.ModelProto, reference: Reference, budget: float) -> Saturated:
    """Emulate a variant on a processor that cuts off at 16 bits, over all held-out samples."""
    layers = layers_at_risk(model)
    if not layers:
        return Saturated(layers=0)
    names = [value.name for value in model.graph.output]
    pieces = list(emulate(model, reference.parts.held_out.batches(reference.batch)))
    outputs = {name: np.concatenate([piece[at] for piece in pieces]) for at, name in enumerate(names)}
    quality = reference.judge(
        outputs, reference.answering(lambda given: dict(zip(names, next(emulate(model, [dict(given)])), strict=True)))
    )
    return Saturated(layers=len(layers), quality=quality, fault=over_budget(quality, reference, budget))


def _first(reference: Reference, count: int) -> Reference:
    """The reference on so many held-out samples only."""
    held_out = reference.parts.held_out
    if len(held_out) <= count:
        return reference
    return replace(
        reference,
        parts=replace(reference.parts, held_out=held_out.take(np.arange(count))),
        held_out={name: values[:count] for name, values in reference.held_out.items()},
    )


def over_budget(quality: Quality, reference: Reference, budget: float) -> str:
    """Why the variant is too far from float, or nothing."""
    if quality.score is not None:
        return _lost_score(quality.score, reference, budget) or _noisy_vectors(quality, reference)
    if quality.accuracy is not None:
        before = reference.own().accuracy or 0.0
        lost = before - quality.accuracy
        if lost > budget + 1e-9:
            return (
                f"loses {lost * 100:.2f} points of accuracy ({before:.4f} to {quality.accuracy:.4f}); budget {budget * 100:g}"
            )
    elif quality.agreement is not None:
        if 1 - quality.agreement > budget + 1e-9:
            return f"gives another class than float for {1 - quality.agreement:.2%} of the samples; budget {budget:.2%}"
    elif quality.sqnr_db < VALUES_SQNR_DB:
        return f"is noisy: {quality.sqnr_db:.1f} dB below its signal, where {VALUES_SQNR_DB:g} dB are wanted"
    elif quality.guess is not None and 1 - quality.guess > GUESS_LOSS:
        return (
            f"has another largest output than float for {1 - quality.guess:.2%} of the samples, where at most {GUESS_LOSS:.0%} "
            "are allowed as long as nothing says whether that is a class"
        )
    return ""


def _lost_score(score: float, reference: Reference, budget: float) -> str:
    assert reference.metric is not None
    before = reference.own().score or 0.0
    if before - score <= budget + 1e-9:
        return ""
    return f"loses {before - score:.4f} of {reference.metric.name} ({before:.4f} to {score:.4f}); budget {budget:g}"


def _noisy_vectors(quality: Quality, reference: Reference) -> str:
    """A cosine sees no lengths, and a mean no single vector: neither may be lost."""
    assert reference.metric is not None
    if not reference.metric.against_float or quality.sqnr_db >= VECTORS_SQNR_DB:
        return ""
    return f"is noisy: {quality.sqnr_db:.1f} dB below its signal, where {VECTORS_SQNR_DB:g} dB are wanted"


def doubt(quality: Quality, reference: Reference, budget: float) -> str:
    """Why a variant may lose more than the budget elsewhere, or nothing: one standard error of the change is added to it.

    Only samples whose answer turned right or wrong speak; with none of them there is no doubt.
    """
    if quality.right is None:
        return ""
    before = reference.own().right
    assert before is not None
    worse, better = int((before & ~quality.right).sum()), int((quality.right & ~before).sum())
    if worse - better + (worse + better) ** 0.5 <= budget * quality.samples + 1e-9 or quality.samples == 0:
        return ""
    return (
        f"turned {worse} of {quality.samples} held-out samples wrong and {better} right, too few to be sure that it stays "
        "within the budget elsewhere"
    )


def tolerance(golden: Quality) -> Tolerance:
    """What a device's gate allows: as measured here on the golden samples, with a margin for another processor."""
    return Tolerance(
        min_sqnr_db=round(min(golden.sqnr_db - _MARGIN_DB, _STRICTEST_DB), 1),
        min_agreement=None
        if golden.agreement is None
        else max(0.0, round(golden.agreement - _MARGIN_SAMPLES / golden.samples, 4)),
    )
