"""Runs a search over one model: makes and measures each recipe on samples that neither calibrate nor judge the result.

The calibration part is dealt into two halves: one gives the ranges, the other the scores. The held-out samples never take
part: what the search finds is judged on them afterwards, as everything else is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

import runtime
from converters.data.calibration import Parts
from converters.errors import RecipeFailed
from converters.journal import Journal
from converters.judging import evaluation
from converters.judging.evaluation import run
from converters.judging.measures import Metric
from converters.judging.trial import Reference, Trial, attempt
from converters.quantizing.quantize import Quantizer
from converters.recipe import HALF, PRODUCTS, StaticRecipe, WeightsRecipe
from converters.report.parity import SearchTrial
from converters.search import Budget, Score, Tried, best, key, search
from converters.settings import Settings
from converters.sources import Source

SHORT_SECONDS: Final = 20.0
"""A search that nobody asked for takes no longer."""

_TIMING_SECONDS: Final = 0.3
_PRODUCTS_AT_LEAST: Final = 6
_EXPLAINED_BYTES: Final = 16 * 1024**2
"""Larger models are not run once more only to show where their noise comes in."""
_IN_16_BITS: Final = (3, 8)
"""So many layers are stored in 16 bits, one number after the other."""
_GIVEN: Final = "given"
_FAILED: Final = Score(loss=1.0, sqnr_db=-200.0, latency=1e9, size=0, fault="cannot be made")


@dataclass(frozen=True)
class Search:
    """What a search needs to know. `given` is the float model, `tell` hears of the progress in [0, 1]."""

    settings: Settings
    source: Source
    given: runtime.Model
    reference: Reference
    work: Path
    tell: Callable[[str, float], None]
    stopwatch: Callable[[], float] = time.perf_counter

    def run(self, start: StaticRecipe, journal: Journal | None, known: Mapping[str, Score] | None = None) -> list[Tried]:
        """Everything that was tried, in order. `known` are scores that need no trial here, unless a journal has some."""
        seconds = SHORT_SECONDS if self.settings.minutes is None else 60 * self.settings.minutes
        began = self.stopwatch()
        reference = _halved(self.reference, self.given)
        quantizer = Quantizer(self.source, batches=lambda: reference.parts.calibration.batches(reference.batch))
        seen: list[Tried] = []

        def note(tried: Tried) -> None:
            seen.append(tried)
            if journal is not None:
                journal.add(key(tried.recipe), tried.score)
            self.tell(_told(seen, reference.metric), min(1.0, (self.stopwatch() - began) / seconds))

        return search(
            start,
            lambda recipe: self._score(recipe, quantizer, reference),
            lambda recipe: _sensitive(quantizer, recipe),
            Budget(seconds, lambda: self.stopwatch() - began, enough=self.settings.minutes is None),
            full_range=True,
            products=works_by_products(self.source),
            known=known if journal is None else journal.known,
            tell=note,
        )

    def _score(self, recipe: StaticRecipe, quantizer: Quantizer, reference: Reference) -> Score:
        budget = max(self.settings.budget, 1.5 / len(reference.parts.held_out))
        named = replace(recipe, name="searched")
        trial = attempt(named, quantizer, reference, work=self.work, budget=budget, target=self.settings.target)
        if trial.model is None or trial.path is None or trial.held_out is None:
            return replace(_FAILED, fault=trial.fault or _FAILED.fault)
        try:
            models = {_GIVEN: self.given, "variant": trial.model}
            measured = evaluation.latencies(models, reference.parts.golden, seconds=_TIMING_SECONDS)
        finally:
            trial.model.close()
        return Score(
            loss=_loss(trial, reference),
            sqnr_db=trial.held_out.sqnr_db,
            latency=round(measured["variant"] / measured[_GIVEN], 3),
            size=trial.path.stat().st_size,
            fault=trial.fault,
        )


def works_by_products(source: Source) -> bool:
    """Whether a model is a transformer or its like: many products, more than convolutions, and some of two computed values.

    A chain of dense layers is none. Smoothing would leave factors between its layers that no engine folds, so that they ran as
    floats: ten such layers of an autoencoder took 25 times as long as in float, and 1.4 times when quantized whole (measured).
    """
    graph = source.model.graph
    constant = {tensor.name for tensor in graph.initializer} | {
        name for node in graph.node if node.op_type == "Constant" for name in node.output
    }
    products = [node for node in graph.node if node.op_type in PRODUCTS]
    convolutions = sum(node.op_type == "Conv" for node in graph.node)
    attends = any(not constant & set(node.input[:2]) for node in products)
    return attends and len(products) >= _PRODUCTS_AT_LEAST and len(products) > convolutions


def improve(
    trials: Sequence[Trial], quantizer: Quantizer, hunt: Search, journal: Journal | None
) -> tuple[list[Trial], list[Tried]]:
    """The trials with the static one replaced by what a search found, where one is worth it; and all that was tried.

    It is worth it where minutes were given, or where the plain recipe runs and misses the budget. What is found replaces the
    plain recipe only when the held-out samples judge it to be within the budget.
    """
    improved, tried = _improved(_halved_weights(trials, quantizer, hunt), quantizer, hunt, journal)
    return [_with_noise(trial, quantizer, hunt.source) for trial in improved], tried


def _with_noise(trial: Trial, quantizer: Quantizer, source: Source) -> Trial:
    """A static trial with what its nodes add to the noise, unless the model is large."""
    recipe = trial.recipe
    if not isinstance(recipe, StaticRecipe) or trial.path is None or source.model.ByteSize() > _EXPLAINED_BYTES:
        return trial
    try:
        return replace(trial, noise=tuple(quantizer.noise(recipe)))
    except RecipeFailed:
        return trial


def _improved(
    trials: Sequence[Trial], quantizer: Quantizer, hunt: Search, journal: Journal | None
) -> tuple[list[Trial], list[Tried]]:
    plain = next((trial for trial in trials if isinstance(trial.recipe, StaticRecipe)), None)
    if plain is None or plain.model is None or not (plain.fault or hunt.settings.minutes is not None):
        return list(trials), []
    assert isinstance(plain.recipe, StaticRecipe)
    tried = hunt.run(plain.recipe, journal, {key(plain.recipe): _score_of(plain, hunt.reference)})
    chosen = best(tried)
    if chosen is None or chosen.recipe == plain.recipe:
        return [_noted(trial, plain, len(tried)) for trial in trials], tried
    settings = hunt.settings
    plain.model.close()
    found = attempt(chosen.recipe, quantizer, hunt.reference, work=hunt.work, budget=settings.budget, target=settings.target)
    if found.fault:
        found = attempt(plain.recipe, quantizer, hunt.reference, work=hunt.work, budget=settings.budget, target=settings.target)
        return [_noted(found, found, len(tried)) if trial is plain else trial for trial in trials], tried
    return [found if trial is plain else trial for trial in trials], tried


def _score_of(plain: Trial, reference: Reference) -> Score:
    """What the held-out samples said of the plain recipe: where they refused it, no other samples shall take it back."""
    assert plain.path is not None
    assert plain.held_out is not None
    size = plain.path.stat().st_size
    return Score(_loss(plain, reference), plain.held_out.sqnr_db, latency=1.0, size=size, fault=plain.fault)


def _halved_weights(trials: Sequence[Trial], quantizer: Quantizer, hunt: Search) -> list[Trial]:
    """The trials, with weights of 16 bits in a few layers, or else beside them in all, where those of 8 bits may not ship."""
    weights = next((trial for trial in trials if isinstance(trial.recipe, WeightsRecipe)), None)
    if weights is None or not weights.fault:
        return list(trials)
    mixed = _mixed(weights, quantizer, hunt) if weights.model is not None else None
    settings, tried = hunt.settings, [trial if mixed is None or trial is not weights else mixed for trial in trials]
    if mixed is not None and not mixed.fault:
        return tried
    return [*tried, attempt(HALF, quantizer, hunt.reference, work=hunt.work, budget=settings.budget, target=settings.target)]


def _mixed(weights: Trial, quantizer: Quantizer, hunt: Search) -> Trial | None:
    """8-bit weights with the fewest layers in 16 bits that the search samples allow, as the held-out ones judge it."""
    assert isinstance(weights.recipe, WeightsRecipe)
    assert weights.model is not None
    settings, scoring = hunt.settings, _halved(hunt.reference, hunt.given)
    allowed = max(settings.budget, 1.5 / len(scoring.parts.held_out))
    try:
        noisy = quantizer.noisy_weights(weights.recipe)
    except RecipeFailed:
        return None
    for count in _IN_16_BITS:
        if count > len(noisy):
            break
        recipe = replace(weights.recipe, halved=tuple(noisy[:count]))
        named = replace(recipe, name="searched")
        tried = attempt(named, quantizer, scoring, work=hunt.work, budget=allowed, target=settings.target)
        if tried.model is not None:
            tried.model.close()
        if not tried.fault:
            weights.model.close()
            return attempt(recipe, quantizer, hunt.reference, work=hunt.work, budget=settings.budget, target=settings.target)
    return None


def _noted(trial: Trial, plain: Trial, count: int) -> Trial:
    """The plain trial, whose fault says that a search did not help."""
    if trial is not plain or not trial.fault:
        return trial
    return replace(trial, fault=f"{trial.fault}; none of {count} other recipes did better")


def _halved(reference: Reference, given: runtime.Model) -> Reference:
    calibration = reference.parts.calibration
    order = np.arange(len(calibration))
    scoring = calibration.take(order[1::2])
    parts = Parts(calibration=calibration.take(order[0::2]), golden=scoring.take(np.arange(1)), held_out=scoring)
    outputs = run(given, scoring, batch=reference.batch)
    golden = {name: values[:1] for name, values in outputs.items()}
    return replace(reference, parts=parts, golden=golden, held_out=outputs)


def _loss(trial: Trial, reference: Reference) -> float:
    """What the recipe loses by what it is judged by: a metric of the user's own comes before accuracy, as in the verdict."""
    quality = trial.held_out
    assert quality is not None
    if quality.score is not None:
        return (reference.own().score or 0.0) - quality.score
    if quality.accuracy is not None:
        return (reference.own().accuracy or 0.0) - quality.accuracy
    return 0.0 if quality.agreement is None else 1 - quality.agreement


def _sensitive(quantizer: Quantizer, recipe: StaticRecipe) -> Sequence[str]:
    try:
        return [each.node for each in quantizer.noise(recipe) if each.operator in recipe.operators and each.added > 0]
    except RecipeFailed:
        return ()


def _told(seen: Sequence[Tried], metric: Metric | None) -> str:
    fit = [each.score for each in seen if each.score.fits]
    if not fit:
        return f"searching: {len(seen)} recipes tried, none within the budget yet"
    best = min(fit, key=lambda score: score.latency)
    loss = f"{best.loss * 100:.2f} points" if metric is None else f"{best.loss:.4f} of {metric.name}"
    return f"searching: {len(seen)} recipes tried; best so far {best.latency:.2f} × float, loses {loss}"


def told(tried: Sequence[Tried], trials: Sequence[Trial]) -> tuple[SearchTrial, ...]:
    """What was tried, for the report."""
    shipped = {key(trial.recipe) for trial in trials if isinstance(trial.recipe, StaticRecipe)}
    return tuple(
        SearchTrial(
            recipe=each.recipe.choices(),
            loss=round(each.score.loss, 5),
            sqnr_db=round(each.score.sqnr_db, 2),
            latency=each.score.latency,
            size=each.score.size,
            fault=each.score.fault,
            chosen=key(each.recipe) in shipped,
        )
        for each in tried
    )
