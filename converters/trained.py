"""Models that were trained from the given one, as the conversion sees them: more models to quantize, measure and choose from.

Their reference is the given model, whatever they were trained to. How they are trained is `compression`'s business; nothing
here knows torch.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from converters.choice import Candidate
from converters.graphs.lossless import compress
from converters.judging.trial import Reference, Trial, attempt
from converters.quantizing.quantize import Quantizer
from converters.recipe import FLOAT, PlainRecipe, TrainedRecipe
from converters.report.parity import VariantTiming
from converters.sources import Source
from converters.targets import Target
from fleet_protocol.digests import digest_of


@dataclass(frozen=True, kw_only=True)
class Trained:
    """One model that was trained from the given one. `model` is None where that failed; `fault` then goes on after its name."""

    name: str
    choices: Mapping[str, str]
    """How it was trained, as text."""
    model: onnx.ModelProto | None
    note: str = ""
    """What came of the training, for people; no final stop."""
    fault: str = ""
    integers_only: bool = False
    """Whether it was trained for integer arithmetic, so that nothing else is worth a variant."""


def variants(
    trained: Trained, recipes: Sequence[PlainRecipe], reference: Reference, *, work: Path, budget: float, target: Target
) -> list[Trial]:
    """Make and measure its variants, after it lost what changes no answer."""
    if trained.model is None:
        return [Trial(TrainedRecipe(trained.name, FLOAT, trained.choices), fault=trained.fault)]

    slim = compress(trained.model, list(reference.parts.calibration.batches(reference.batch)))
    source = Source(path=Path(trained.name), model=slim.model, digest=digest_of(trained.model.SerializeToString()))
    quantizer = Quantizer(source, batches=lambda: reference.parts.calibration.batches(reference.batch))
    wanted = [each for each in recipes if each.precision == "int8-static" or not trained.integers_only]
    return [
        attempt(
            TrainedRecipe(trained.name, recipe, trained.choices), quantizer, reference,
            work=work, budget=budget, target=target,
        )
        for recipe in wanted
    ]  # fmt: skip


def candidates(trials: Sequence[Trial], timings: Mapping[str, VariantTiming]) -> list[Candidate]:
    """What there is to choose from. `timings` are latencies over float's, by variant, where they may decide."""
    sizes = {trial.recipe.name: _size(trial) for trial in trials}
    found = []
    for trial in trials:
        name, recipe = trial.recipe.name, trial.recipe
        kind = recipe.then.name if isinstance(recipe, TrainedRecipe) else ""
        plain = sizes.get(kind) or 0
        size_ratio = sizes[name] / plain if plain else 1.0
        measured = timings.get(name)
        latency, least = (None, None) if measured is None else (measured.ratio_to_float, measured.ratio_low)
        found.append(Candidate(name, trial.fault, latency, kind, size_ratio, trial.doubt, least))
    return found


def notes(trained: Sequence[Trained], trials: Sequence[Trial]) -> tuple[str, ...]:
    """What was trained, a sentence each: what came of it, and how its smallest variant packs beside that of the given model."""
    return tuple(f"{each.name}: {each.note or each.fault}{_packed(each, trials)}." for each in trained)


def _packed(trained: Trained, trials: Sequence[Trial]) -> str:
    """Sparse models are no smaller as files; what a transfer that packs would carry tells them apart."""
    by_name = {trial.recipe.name: trial.path for trial in trials}
    for trial in trials:
        recipe = trial.recipe
        if isinstance(recipe, TrainedRecipe) and recipe.trained == trained.name and recipe.precision == "int8-weights":
            own, given = trial.path, by_name.get(recipe.then.name)
            if own is not None and given is not None:
                return (
                    f"; packed with zlib, {recipe.name} has {_zipped(own)} bytes, where {recipe.then.name} has {_zipped(given)}"
                )
    return ""


def _zipped(path: Path) -> int:
    return len(zlib.compress(path.read_bytes(), 9))


def _size(trial: Trial) -> int:
    return 0 if trial.path is None or not trial.path.is_file() else trial.path.stat().st_size
