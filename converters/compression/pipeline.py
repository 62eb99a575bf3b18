"""From a model to a bundle of it and of what was trained from it: read, train each recipe, convert.

The conversion holds everything against the given model on samples that nothing was trained with, and ships what stays within
the budget; here stands only what comes before it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from converters import assembly
from converters.compression.disjoint import check_disjoint
from converters.compression.objective import form_of
from converters.compression.opening import open_given
from converters.compression.recipes import TrainingRecipe, check_recipes
from converters.compression.shelf import Shelf
from converters.compression.workshop import Order, work_off
from converters.conversion import Gathered as Data
from converters.conversion import Progress, convert, silent
from converters.data.calibration import Dataset, load_dataset, make_dataset, peek
from converters.errors import DataRejected, RecipeFailed, SettingsRejected, SourceRejected
from converters.judging import evaluation, measures
from converters.judging.metrics import all_finite
from converters.recipe import TFLITE, TrainedRecipe
from converters.settings import Settings, check_settings
from converters.sources import SAMPLES, Source, Trust
from converters.targets import SATURATES, Target
from fleet_io.bundle_directory import Bundle
from fleet_protocol import limits
from fleet_protocol.tensors import TensorSpec

TRAINING_AT_LEAST: Final = 32

_TRAINING: Final = 0.6
"""The trainings' share of the progress that is told."""
_THREADS_AT_MOST: Final = 1024
_VARIANTS: Final = 4
"""Float, static, dynamic and weight-only, at most."""


@dataclass(frozen=True)
class _Samples:
    """All data of one command."""

    train: Data
    calibration: Data
    evaluate: Data | None


def compress(
    source: object,
    calibration: Data,
    train: Data,
    recipes: Sequence[TrainingRecipe],
    *,
    model: str,
    version: str,
    out: Path,
    state: Path | None = None,
    trust_pickle: bool = False,
    evaluate: Data | None = None,
    budget: float = 0.005,
    min_accuracy: float | None = None,
    max_regression: float = 0.1,
    seed: int = 0,
    classes: Sequence[str] = (),
    tflite: bool = False,
    target: Target = "any",
    minutes: float | None = None,
    threads: int = 1,
    progress: Progress = silent,
) -> Bundle:
    """Make a bundle as `converters.convert` does, with variants of models that were trained from the given one by `recipes`.

    `source` is what `converters.convert` takes. PyTorch's own kinds, a `torch.nn.Module` or `package.module:factory` with its
    weights in `state`, are trained as they are; every other model through its ONNX graph (`trainable`). Nothing is unpickled
    without `trust_pickle`. `train` holds samples to train with, as `calibration` is laid out; without `label`, only the given
    model's answers teach. `calibration` and `evaluate` may share no more than 1 % of their samples with it. `minutes` bounds
    the trainings in all, each recipe having an equal part. `threads` train; other settings are `convert`'s.

    The same inputs, seed, threads and tools train the same weights where `minutes` did not cut them short. What was trained is
    kept beside `out` until the bundle is there: the same command goes on with the recipe at which it was stopped.

    Raises `ConversionError` (`TrainingFailed` when a loss is no number any more), `BundleExists` or `BundleUnwritable`.
    """
    check_recipes(recipes)
    settings = Settings(
        model=model, version=version, out=out, budget=budget, min_accuracy=min_accuracy, max_regression=max_regression,
        seed=seed, classes=tuple(classes), target=target, minutes=minutes,
    )  # fmt: skip
    check_settings(settings)
    _check_count(recipes, tflite=tflite)
    if not 1 <= threads <= _THREADS_AT_MOST:
        raise SettingsRejected(f"threads = {threads}: give 1 to {_THREADS_AT_MOST}.")
    shelf = Shelf(out)
    progress("reading the model", 0.0)
    order = _order(
        source,
        Trust(state, pickles=trust_pickle),
        _Samples(train, calibration, evaluate),
        settings,
        count=len(recipes),
        threads=threads,
    )
    trained = []
    for at, recipe in enumerate(recipes):
        told = _part(progress, recipe.name, at / len(recipes), 1 / len(recipes))
        trained.append(work_off(recipe, order, shelf, told))
    bundle = convert(
        order.given, calibration, model=model, version=version, out=out, evaluate=evaluate, budget=budget,
        min_accuracy=min_accuracy, max_regression=max_regression, seed=seed, classes=classes, tflite=tflite, target=target,
        trained=trained,
        progress=lambda text, done: progress(text, _TRAINING + (1 - _TRAINING) * done),
    )  # fmt: skip
    shelf.remove()
    return bundle


def _check_count(recipes: Sequence[TrainingRecipe], *, tflite: bool) -> None:
    """Raises `SettingsRejected` where one bundle could not hold so many variants."""
    each = _VARIANTS + (len(TFLITE) if tflite else 0)
    if (1 + len(recipes)) * each > limits.VARIANTS:
        raise SettingsRejected(
            f"{len(recipes)} recipes may give {(1 + len(recipes)) * each} variants; one bundle holds {limits.VARIANTS}. "
            "Ask for fewer."
        )


def _order(source: object, trust: Trust, samples: _Samples, settings: Settings, *, count: int, threads: int) -> Order:
    """Everything that the recipes need, checked. Raises `SourceRejected`, `DataRejected`."""
    with tempfile.TemporaryDirectory(prefix="edgeward-compress-") as work:
        module, given = open_given(source, lambda: peek(samples.calibration, SAMPLES), Path(work), trust)
        train, remark, wanted, classes = _data(given, Path(work), samples)
    try:
        form = form_of(next(iter(wanted.values())), classes=classes)
    except RecipeFailed as error:
        raise SourceRejected(f"{given.path} {error}.") from error
    weightless = TrainedRecipe("", TFLITE[0], {})
    return Order(
        module=module,
        given=given,
        train=train,
        wanted=wanted,
        form=form,
        seed=settings.seed,
        weight_bits=7 if SATURATES[settings.target] else 8,
        seconds=None if settings.minutes is None else 60 * settings.minutes / count,
        threads=threads,
        tools={**assembly.tools([weightless]), **given.tools},
        remark=remark,
    )


def _data(given: Source, work: Path, data: _Samples) -> tuple[Dataset, str, evaluation.Outputs, bool]:
    """The training samples, what to tell about them, the given model's answers to them, and whether these tell classes."""
    path = work / "given.onnx"
    path.write_bytes(given.content())
    model = evaluation.load_source(path, given.path)
    try:
        samples = _dataset(data.train, model.inputs)
        if len(samples) < TRAINING_AT_LEAST:
            raise DataRejected(f"The training data has {len(samples)} samples; at least {TRAINING_AT_LEAST} are needed.")
        given_to = {"--data": data.calibration, "--evaluate": data.evaluate}
        judging = {what: _dataset(each, model.inputs) for what, each in given_to.items() if each is not None}
        remarks = [check_disjoint(samples, each, what) for what, each in judging.items()]
        if any(measures.anomaly_metric(model.inputs, model.outputs, each) is not None for each in judging.values()):
            samples = replace(samples, labels=None)  # they tell no class that the model could answer
        wanted = evaluation.run(model, samples, batch=evaluation.batch_size(model.inputs, given.path))
        if not all_finite(wanted):
            raise DataRejected(
                "The given model answers NaN or infinity on the training data. Clean it, or look at its scaling."
            )
        told = evaluation.class_output(model.outputs, wanted, samples.labels)
    except RecipeFailed as error:
        raise SourceRejected(f"{given.path} {error}.") from error
    finally:
        model.close()
    return samples, "; ".join(filter(None, remarks)), wanted, told is not None


def _dataset(given: Data, specs: tuple[TensorSpec, ...]) -> Dataset:
    return load_dataset(given, specs) if isinstance(given, Path) else make_dataset(given, specs)


def _part(progress: Progress, name: str, start: float, share: float) -> Progress:
    return lambda text, done: progress(f"{name}: {text}", _TRAINING * (start + share * done))
