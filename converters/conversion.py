"""The pipeline: preconditions, one step after another, postconditions, and a bundle, or one clear error and nothing written.

read → split the data → run float → try each recipe → time them side by side → choose → report → write. Each step's work
lives in a module of its own; here stands only the order, and what one step hands to the next.
"""

from __future__ import annotations

import dataclasses
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

import runtime
from converters import assembly, for_litert
from converters.choice import Choice, choose
from converters.data.calibration import EVALUATION_AT_LEAST, UNNAMED, Array, Dataset, load_dataset, make_dataset, peek, split
from converters.data.raw import check_fits, class_names, process_arrays, read_directory
from converters.data.spool import spool
from converters.errors import AccuracyRefused, DataRejected, RecipeFailed, SettingsRejected, SourceRejected
from converters.graphs.lossless import Compressed, compress
from converters.graphs.observe import inner_bytes
from converters.journal import Journal, journal_path
from converters.judging import evaluation, measures
from converters.judging.answering import Evaluate, name_of, score
from converters.judging.metrics import all_finite
from converters.judging.trial import Reference, Trial, attempt
from converters.profile_data import make_profile
from converters.quantizing.quantize import Quantizer
from converters.recipe import FLOAT, PlainRecipe, Preference
from converters.report import details
from converters.report.parity import (
    PAGE_FILE,
    PARITY_FILE,
    TIMING_FILE,
    LayerReport,
    ParityReport,
    Timing,
    VariantTiming,
    encode_report,
)
from converters.report.parity_page import render
from converters.report.sample_pictures import shown
from converters.search import Tried
from converters.searching import Search, improve, told, works_by_products
from converters.settings import Settings, check_settings
from converters.sources import SAMPLES, Source, Trust, read_source
from converters.targets import Target, arithmetic, recipes
from converters.trained import Trained, candidates, notes, variants
from fleet_io.bundle_directory import Bundle, write_bundle
from fleet_io.errors import BundleUnwritable
from fleet_protocol import codec
from fleet_protocol.digests import digest_of
from fleet_protocol.manifest import Lineage
from fleet_protocol.processing import Processing
from fleet_protocol.tensors import TensorSpec

Progress = Callable[[str, float], None]
"""Told what is being done, and how much of the whole is done, in [0, 1]."""

Data = Path | Mapping[str, Array] | Iterable[object]
"""An `.npz`; a directory of pictures, audio or other files; arrays by name; or batches, as `converters.data.spool` has them."""

Gathered = Path | Mapping[str, Array]

_TIMING_SECONDS: Final = 0.5
"""For each model that is timed."""
_IN_DOUBT: Final = 1.1
"""Up to this lower end of its latency's interval a variant may be slower only for where it lies in memory."""
_GIVEN: Final = "given"
"""The given model among those that are timed: the float variant may be smaller than it."""
_GIVEN_FILE: Final = "given.onnx"
_COPIES: Final = 8
"""Temporary files that are each as large as the model: the given one, simplified ones, variants."""


def silent(text: str, done: float) -> None:
    """Progress for nobody."""


def convert(
    source: object,
    calibration: Data,
    *,
    model: str,
    version: str,
    out: Path,
    evaluate: Data | Evaluate | None = None,
    budget: float = 0.005,
    min_accuracy: float | None = None,
    max_regression: float = 0.1,
    seed: int = 0,
    classes: Sequence[str] = (),
    prefer: Preference = "auto",
    tflite: bool | None = None,
    target: Target = "any",
    minutes: float | None = None,
    state: Path | None = None,
    trust_pickle: bool = False,
    trained: Sequence[Trained] = (),
    processing: Processing | None = None,
    progress: Progress = silent,
) -> Bundle:
    """Make a bundle of a float model: float, static int8 and weight-only int8, each measured, the fit ones shipped.

    `source` is a file (ONNX, Keras, torch.export, scikit-learn, TFLite), a SavedModel's directory, `package.module:factory`
    with its weights in `state`, or a model of those frameworks itself. Nothing is unpickled unless `trust_pickle`.

    `calibration` holds samples that the model was not trained with: an `.npz` or arrays by name, one for each model input,
    first axis the sample, and `label` (class numbers) where known; or an iterable of batches, which never are in memory
    together. They are split by `seed` into parts that share none; with data as `evaluate`, accuracy is measured there instead.
    A function as `evaluate` is given each model, which answers arrays, and says how good it is: more is better, and a
    variant may lose `budget` of it. `classes` names the classes; the other settings are `Settings`'. The bundle also carries
    variants for LiteRT, emitted from the ONNX model: static int8 and weight-only where they can be made; with `tflite` float
    and dynamic too, and a warning where they cannot be; with `tflite=False` none.
    `target` names the processors that it is for. With `minutes` the static recipe is searched for so long; without, only
    where the plain one misses the budget, for 20 seconds. A search that was stopped goes on when it is asked for again.

    `processing` travels in the manifest: how what users have becomes an input, and outputs results. With it, `calibration` and
    `evaluate` may be directories of what it opens, in subdirectories named after their classes where those are known; and
    arrays go through its steps, but where it opens pictures: there they are the model's own tensor.

    Models that were `trained` from the source (`converters.compress` does that) get variants too, held against the source.

    The same inputs, seed and tools give the same bytes, as long as the same variants are measured to be slower than float;
    a `prefer` other than `auto` keeps that measurement out of the decision.

    Raises `ConversionError` (model, data or settings), `BundleExists` or `BundleUnwritable`; then `out` is as it was.
    """
    settings = Settings(
        model=model,
        version=version,
        out=out,
        budget=budget,
        min_accuracy=min_accuracy,
        max_regression=max_regression,
        seed=seed,
        classes=tuple(classes) or class_names(calibration, processing),
        prefer=prefer,
        target=target,
        minutes=minutes,
        processing=processing,
        tflite=tflite,
    )
    check_settings(settings)
    given = _Given(source, Trust(state, pickles=trust_pickle), calibration, evaluate, trained)
    try:
        with tempfile.TemporaryDirectory(prefix="edgeward-convert-") as work:
            return _converted(settings, given, Path(work), progress)
    except OSError as error:
        raise BundleUnwritable(
            f"The conversion cannot write its temporary files in {tempfile.gettempdir()}: {error.strerror or error}. "
            "Free space there, or set TMPDIR to another directory."
        ) from error


@dataclass(frozen=True)
class _Given:
    """What a conversion starts from."""

    source: object
    trust: Trust
    calibration: Data
    evaluate: Data | Evaluate | None
    trained: Sequence[Trained]


def _converted(settings: Settings, given: _Given, work: Path, progress: Progress) -> Bundle:
    """Gather the data, read the model, and run the pipeline with the recipes that fit both."""
    progress("reading the model", 0.0)
    calibration, evaluate = _gathered(given.calibration, settings, work / "calibration"), given.evaluate
    if evaluate is not None and not callable(evaluate):
        evaluate = _gathered(evaluate, settings, work / "evaluation")
    original = read_source(given.source, lambda: _first(calibration, settings), work, given.trust)
    tried = recipes(settings.target, products=works_by_products(original))
    named = settings.classes or original.classes
    settings = dataclasses.replace(settings, recipes=(*tried, *for_litert.wanted(settings)), classes=named)
    return _Conversion(settings, original, work, progress, given.trained).run(calibration, evaluate)


def check_room(free: int, model: int, where: Path) -> None:
    """Refuse at once what would fail later: onnxruntime's tools call a full disk a bad model. Sizes are bytes.

    Raises `BundleUnwritable`.
    """
    needed = _COPIES * model
    if free < needed:
        raise BundleUnwritable(
            f"The conversion needs {needed} bytes for temporary files in {where}, and {free} are free. "
            "Free space there, or set TMPDIR to another directory."
        )


@dataclass(frozen=True)
class _Measured:
    """What was found out about a model before anything of it is written."""

    reference: Reference
    trials: Sequence[Trial]
    timing: Timing
    lossless: str
    trained: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    layers: tuple[LayerReport, ...] = ()


class _Conversion:
    """One run of the pipeline. `run` is called once."""

    def __init__(
        self, settings: Settings, source: Source, work: Path, progress: Progress, trained: Sequence[Trained] = ()
    ) -> None:
        self._settings = settings
        self._source = source
        self._work = work
        self._progress = progress
        self._trained = trained

    def run(self, calibration: Gathered, evaluate: Gathered | Evaluate | None) -> Bundle:
        content = self._source.content()
        check_room(shutil.disk_usage(self._work).free, len(content), self._work.parent)
        given = self._work / _GIVEN_FILE
        given.write_bytes(content)
        model = evaluation.load_source(given, self._source.path)
        try:
            check_fits(self._settings.processing, model.inputs, model.outputs)
            data, held_out = self._read_data(model.inputs, calibration, None if callable(evaluate) else evaluate)
            reference = self._reference(model, data, held_out)
            if callable(evaluate):
                reference = _by_own_metric(evaluate, reference, model)
            self._check_accuracy(reference)
            slim = self._compress(reference)
            source = dataclasses.replace(self._source, model=slim.model)
            trials, tried, note = self._try_recipes(source, model, reference)
            trials += self._try_trained(reference)
            try:
                timing = msgspec.structs.replace(self._time(model, trials, reference), search=told(tried, trials))
            finally:
                for trial in trials:
                    if trial.model is not None:
                        trial.model.close()
            digest = data.digest if held_out is None else digest_of(f"{data.digest}\n{held_out.digest}".encode())
            drawn = details.layers(self._source.model, slim.model)
            said = (notes(self._trained, trials), (note,) if note else ())
            return self._write(model, _Measured(reference, trials, timing, slim.describe(), *said, drawn), digest)
        finally:
            model.close()

    def _read_data(
        self, specs: tuple[TensorSpec, ...], calibration: Gathered, evaluate: Gathered | None
    ) -> tuple[Dataset, Dataset | None]:
        self._progress("reading the data", 0.05)
        data = _dataset(calibration, specs, self._settings)
        held_out = None if evaluate is None else _dataset(evaluate, specs, self._settings)
        if held_out is not None and len(held_out) < EVALUATION_AT_LEAST:
            raise DataRejected(f"The evaluation data has {len(held_out)} samples; at least {EVALUATION_AT_LEAST} are needed.")
        return data, held_out

    def _reference(self, model: runtime.Model, data: Dataset, held_out: Dataset | None) -> Reference:
        self._progress("running the float model", 0.1)
        batch = evaluation.batch_size(model.inputs, self._source.path, lambda: self._inner_bytes(data))
        try:
            first = evaluation.run(model, data.take(np.arange(1)), batch=1)
            answer_bytes = sum(values.nbytes for values in first.values())
            parts = split(data, held_out, seed=self._settings.seed, answer_bytes=answer_bytes)
            golden = evaluation.run(model, parts.golden, batch=1)
            outputs = evaluation.run(model, parts.held_out, batch=batch)
        except RecipeFailed as error:
            raise SourceRejected(f"{self._source.path} {error}.") from error
        if not all_finite(golden) or not all_finite(outputs):
            raise SourceRejected(f"{self._source.path} answers NaN or infinity on the data. Check its weights and its scaling.")
        metric = measures.anomaly_metric(model.inputs, model.outputs, parts.held_out)
        if metric is not None:  # its labels tell no class that the model could answer: nobody shall compare them
            parts = dataclasses.replace(parts, golden=dataclasses.replace(parts.golden, labels=None))
            return Reference(parts, batch, golden, outputs, None, metric)
        classes = evaluation.class_output(model.outputs, outputs, parts.held_out.labels)
        _check_names(self._settings.classes, None if classes is None else outputs[classes])
        metric = (
            None if classes is not None else measures.step_metric(outputs) or measures.vector_metric(outputs, parts.held_out)
        )
        return Reference(parts=parts, batch=batch, golden=golden, held_out=outputs, classes=classes, metric=metric)

    def _inner_bytes(self, data: Dataset) -> int:
        try:
            return inner_bytes(self._source.model, next(data.batches(1)))
        except RecipeFailed:  # what cannot be looked into is run as it is, which says what is wrong with it
            return 0

    def _check_accuracy(self, reference: Reference) -> None:
        least = self._settings.min_accuracy
        if least is None:
            return
        quality = evaluation.judge(reference.held_out, reference.held_out, reference.parts.held_out.labels, reference.classes)
        if quality.accuracy is None:
            raise DataRejected("A least accuracy was asked for, and the data has no labels to measure it with. Add `label`.")
        if quality.accuracy < least:
            raise AccuracyRefused(
                f"The float model is right on {quality.accuracy:.2%} of {quality.samples} held-out samples; at least "
                f"{least:.2%} was asked for. Train it again, or ask for less."
            )

    def _compress(self, reference: Reference) -> Compressed:
        """What needs no accuracy budget: every variant is made from what is left."""
        self._progress("taking away what changes no answer", 0.13)
        return compress(self._source.model, list(reference.parts.calibration.batches(reference.batch)))

    def _try_recipes(self, source: Source, given: runtime.Model, reference: Reference) -> tuple[list[Trial], list[Tried], str]:
        """All trials, what a search tried, and a note for people."""
        settings = self._settings
        quantizer = Quantizer(source, batches=lambda: reference.parts.calibration.batches(reference.batch))

        def made(recipe: PlainRecipe) -> Trial:
            return attempt(recipe, quantizer, reference, work=self._work, budget=settings.budget, target=settings.target)

        trials = []
        for at, recipe in enumerate(settings.recipes):
            self._progress(f"making and measuring {recipe.name}", 0.15 + 0.25 * at / len(settings.recipes))
            trial = made(recipe)
            if recipe == FLOAT and trial.fault:
                raise SourceRejected(f"{self._source.path} {trial.fault}.")
            trials.append(trial)
        trials, note = for_litert.settled(trials, settings, made)
        hunt = Search(settings, source, given, reference, self._work, lambda text, done: self._progress(text, 0.4 + 0.3 * done))
        journal = None if settings.minutes is None else self._journal(reference)
        improved, tried = improve(trials, quantizer, hunt, journal)
        if journal is not None:
            journal.remove()
        return improved, tried, note

    def _try_trained(self, reference: Reference) -> list[Trial]:
        """The variants of what was trained from the model, by the same recipes and the same budget."""
        settings, trials = self._settings, list[Trial]()
        for trained in self._trained:
            self._progress(f"making and measuring {trained.name}", 0.7)
            trials += variants(
                trained, settings.recipes, reference, work=self._work, budget=settings.budget, target=settings.target
            )
        return trials

    def _journal(self, reference: Reference) -> Journal:
        """What a search that was stopped has left beside the bundle to be."""
        settings = self._settings
        about = [
            self._source.digest, reference.parts.calibration.digest, settings.target, str(settings.seed), str(settings.budget),
            *(f"{name} {version}" for name, version in assembly.tools(settings.recipes).items()),
        ]  # fmt: skip
        return Journal(journal_path(settings.out), " ".join(about))

    def _time(self, given: runtime.Model, trials: Sequence[Trial], reference: Reference) -> Timing:
        self._progress("timing the variants side by side", 0.7)
        models = {trial.recipe.name: trial.model for trial in trials if trial.model is not None and not trial.fault}
        seconds = _TIMING_SECONDS * (1 + len(models))
        measured = evaluation.rounds({_GIVEN: given, **models}, reference.parts.golden, seconds=seconds)
        ratios = {name: evaluation.ratio(measured[name], measured[_GIVEN]) for name in models}
        for trial in trials:
            name = trial.recipe.name
            if name in ratios and 1.0 < ratios[name].low <= _IN_DOUBT:
                self._progress(f"loading {name} again, to see whether it is slower", 0.8)
                ratios[name] = evaluation.ratio(*self._timed_again(trial, reference.parts.golden))
        return Timing(
            engine=" and ".join(dict.fromkeys(model.engine for model in models.values())),
            machine=platform.machine(),
            variants={
                name: VariantTiming(
                    seconds=float(measured[name].min()),
                    ratio_to_float=round(each.value, 3),
                    ratio_low=round(each.low, 3),
                    ratio_high=round(each.high, 3),
                )
                for name, each in ratios.items()
            },
        )

    def _timed_again(self, trial: Trial, data: Dataset) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """A variant's rounds and the given model's, over several loads of both."""
        path, options = trial.path, {**trial.recipe.session_options, **arithmetic(self._settings.target)}
        assert path is not None
        return evaluation.loaded_again(
            lambda: evaluation.load_variant(path, options),
            lambda: evaluation.load_source(self._work / _GIVEN_FILE, self._source.path),
            data,
            seconds=_TIMING_SECONDS,
        )

    def _write(self, model: runtime.Model, measured: _Measured, data: str) -> Bundle:
        self._progress("writing the bundle", 0.95)
        reference, trials, timing = measured.reference, measured.trials, measured.timing
        settings, timings = self._settings, timing.variants if self._settings.prefer == "auto" else {}
        rivals = candidates(trials, timings)
        choice = choose(rivals, settings.prefer)  # latencies decide only where nobody has decided already: then bytes repeat
        report = assembly.parity_report(
            settings, reference, trials, choice,
            source=self._source.digest, data=data, slower={each.name: each.slower for each in rivals if each.name in timings},
            tools=(tools := self._tools(trials)), given=len(self._source.content()), lossless=measured.lossless,
            trained=measured.trained, notes=measured.notes, layers=measured.layers,
        )  # fmt: skip
        contents = {
            assembly.GOLDEN_FILE: assembly.golden_content(reference.parts.golden, reference.golden),
            assembly.PROFILE_FILE: self._profile(reference, trials, choice),
            PARITY_FILE: encode_report(report),
        }
        files = {name: self._work / name for name in contents}
        for name, content in contents.items():
            files[name].write_bytes(content)
        files |= {assembly.variant_file(trial.recipe): trial.path for trial in _in_order(trials, choice) if trial.path}
        manifest = assembly.manifest(
            settings,
            _in_order(trials, choice),
            reference.parts.golden,
            files,
            inputs=model.inputs,
            outputs=model.outputs,
            lineage=Lineage(source=self._source.digest, data=data, tools=tools, seed=settings.seed),
        )
        pages = {
            PAGE_FILE: render(report, timing, _pictures(report, reference)).encode(),
            TIMING_FILE: codec.encode_readable(timing),
        }
        bundle = write_bundle(settings.out, manifest, files, notes=pages)
        self._progress("done", 1.0)
        return bundle

    def _tools(self, trials: Sequence[Trial]) -> dict[str, str]:
        """All that shaped the bytes: readers, quantizers, and what trained."""
        return {**assembly.tools([trial.recipe for trial in trials]), **self._source.tools}

    def _profile(self, reference: Reference, trials: Sequence[Trial], choice: Choice) -> bytes:
        first = _in_order(trials, choice)[0]
        answers = None if reference.classes is None or first.outputs is None else first.outputs[reference.classes]
        inputs = reference.parts.held_out.inputs
        return codec.encode_readable(make_profile(inputs, answers, variant=first.recipe.name, classes=self._settings.classes))


def _gathered(given: Data, settings: Settings, directory: Path) -> Gathered:
    """A directory's files and batches as arrays, batches on disk, all of them processed; an `.npz` as it is."""
    if isinstance(given, Path):
        return read_directory(given, settings.processing, settings.classes) if given.is_dir() else given
    if isinstance(given, Mapping):
        return process_arrays(given, settings.processing)
    directory.mkdir()
    return process_arrays(spool([given] if isinstance(given, np.ndarray) else given, directory), settings.processing)


def _first(given: Gathered, settings: Settings) -> dict[str, Array]:
    """The first samples of every input, for readers, which try a model before its inputs are known."""
    first = peek(given, SAMPLES)
    return process_arrays(first, settings.processing) if isinstance(given, Path) else first


def _dataset(given: Gathered, specs: tuple[TensorSpec, ...], settings: Settings) -> Dataset:
    if isinstance(given, Path):
        return load_dataset(given, specs, partial(process_arrays, processing=settings.processing))
    if len(specs) == 1 and UNNAMED in given and specs[0].name not in given:
        given = {specs[0].name if name == UNNAMED else name: values for name, values in given.items()}
    return make_dataset(given, specs)


def _by_own_metric(evaluate: Evaluate, reference: Reference, model: runtime.Model) -> Reference:
    """The reference judged by a caller's function, which is asked about the float model once."""
    try:
        before = score(evaluate, reference.answering(model))
    except RecipeFailed as error:
        raise SettingsRejected(f"The float model {error}.") from error
    asked = name_of(evaluate)
    own = measures.Metric(asked, lambda _outputs, _samples, _wanted: before, lambda answering: score(evaluate, answering))
    return dataclasses.replace(reference, metric=own)


def _pictures(report: ParityReport, reference: Reference) -> dict[int, str]:
    """The worst samples to look at, where the model has one input."""
    inputs = list(reference.parts.held_out.inputs.values())
    wanted = {sample.index for variant in report.variants for sample in variant.worst}
    return {index: shown(inputs[0][index]) for index in sorted(wanted)} if len(inputs) == 1 else {}


def _check_names(names: tuple[str, ...], answers: Array | None) -> None:
    if names and (answers is None or (answers.ndim == 2 and answers.shape[1] != len(names))):
        told = "no classes" if answers is None else f"{answers.shape[1]} classes"
        raise SettingsRejected(f"{len(names)} class names were given, but the model tells {told}.")


def _in_order(trials: Sequence[Trial], choice: Choice) -> list[Trial]:
    by_name = {trial.recipe.name: trial for trial in trials}
    return [by_name[name] for name in choice.order]
