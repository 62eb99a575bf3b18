"""Searching for real on a small convolutional model: what is chosen, for whom, how it goes on, and what is said about it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

import converters
from converters.data.calibration import Parts, make_dataset
from converters.journal import Journal, journal_path
from converters.judging.evaluation import run
from converters.judging.measures import Metric
from converters.judging.trial import Reference, Trial, attempt
from converters.quantizing.quantize import Quantizer
from converters.recipe import FLOAT, StaticRecipe
from converters.report.explain import explanation
from converters.search import Score, Tried
from converters.searching import Search, _loss, improve
from converters.settings import Settings
from converters.sources import Source, read_onnx
from runtime import Model, load
from tests.support.conv_models import images, separable, separable_tensors

COUNT = 240


def ruinous(path: Path) -> Path:
    """Tells whether a large sum exceeds 22, which is about 24: full-range int8 of it overflows 16 bits in nearly every pair."""
    tensors = separable_tensors(2)
    tensors["bd"][:] = 5
    tensors["w2"] = np.float32(0.3) + tensors["w2"] * np.float32(0.05)
    tensors["w3"][:] = 0
    tensors["w3"][0] = 1 / 24
    tensors["b3"][:] = (0, 22, 0, 0, 0)
    path.write_bytes(separable(tensors).SerializeToString())
    return path


def labels(model: Model, x: NDArray[np.float32]) -> NDArray[np.int64]:
    return np.asarray(model({"x": x})["y"].argmax(axis=1), np.int64)


@pytest.fixture
def stage(tmp_path: Path) -> tuple[Source, Model, Reference]:
    source = read_onnx(ruinous(tmp_path / "m.onnx"))
    model = load(tmp_path / "m.onnx", threads=1)
    x = images(COUNT, seed=8)
    data = make_dataset({"x": x, "label": labels(model, x)}, model.inputs)
    order = np.arange(COUNT)
    parts = Parts(golden=data.take(order[:20]), calibration=data.take(order[20:120]), held_out=data.take(order[120:]))
    golden, held_out = (run(model, each, batch=64) for each in (parts.golden, parts.held_out))
    return source, model, Reference(parts=parts, batch=64, golden=golden, held_out=held_out, classes="y")


def trial_of(recipe: StaticRecipe, stage: tuple[Source, Model, Reference], tmp_path: Path, target: str) -> Trial:
    source, _, reference = stage
    quantizer = Quantizer(source, batches=lambda: reference.parts.calibration.batches(64))
    return attempt(recipe, quantizer, reference, work=tmp_path, budget=0.05, target=target)  # type: ignore[arg-type]  # a literal


def test_any_refuses_what_a_saturating_processor_ruins_and_vnni_takes_it(
    stage: tuple[Source, Model, Reference], tmp_path: Path
) -> None:
    full = StaticRecipe(reduce_range=False)
    refused = trial_of(full, stage, tmp_path, "any")
    assert "AVX2 without VNNI" in refused.fault
    assert refused.saturated is not None
    assert refused.saturated.layers >= 1
    taken = trial_of(full, stage, tmp_path, "avx512-vnni")
    assert taken.fault == ""
    assert taken.saturated is not None
    reduced = trial_of(StaticRecipe(), stage, tmp_path, "any")
    assert reduced.saturated is not None
    assert reduced.saturated.layers == 0


def test_a_metric_of_the_users_own_steers_the_search_and_accuracy_does_not(
    stage: tuple[Source, Model, Reference], tmp_path: Path
) -> None:
    source, model, reference = stage
    noise = Metric("least_noise", lambda got, _, wanted: -float(np.abs(got["y"] - wanted["y"]).mean()), against_float=True)
    judged = dataclasses.replace(reference, metric=noise)
    trial = trial_of(StaticRecipe(), (source, model, judged), tmp_path, "any")
    assert trial.held_out is not None
    assert trial.held_out.accuracy == judged.own().accuracy  # by which nothing is lost
    assert trial.held_out.score is not None
    assert _loss(trial, judged) == pytest.approx(-trial.held_out.score)
    assert _loss(trial, judged) > 0


def settings_of(tmp_path: Path, minutes: float | None) -> Settings:
    return Settings(model="m", version="1.0.0", out=tmp_path / "out", budget=0.02, minutes=minutes)


def test_a_search_replaces_the_plain_recipe_only_by_what_the_held_out_samples_accept(
    stage: tuple[Source, Model, Reference], tmp_path: Path
) -> None:
    source, model, reference = stage
    quantizer = Quantizer(source, batches=lambda: reference.parts.calibration.batches(64))
    plain = trial_of(StaticRecipe(), stage, tmp_path, "any")
    plain = dataclasses.replace(plain, fault="loses 3 points")
    said: list[str] = []
    hunt = Search(
        settings_of(tmp_path, None), source, model, reference, tmp_path, lambda text, done: said.append(f"{done} {text}")
    )
    trials, tried = improve([plain], quantizer, hunt, None)
    assert len(trials) == 1
    assert tried[0].recipe == StaticRecipe()
    assert said
    if trials[0].fault:
        assert "other recipes did better" in trials[0].fault
    else:
        assert any(each.score.fits for each in tried)


def test_nothing_is_searched_where_the_plain_recipe_fits(stage: tuple[Source, Model, Reference], tmp_path: Path) -> None:
    source, model, reference = stage
    quantizer = Quantizer(source, batches=lambda: reference.parts.calibration.batches(64))
    plain = dataclasses.replace(trial_of(StaticRecipe(), stage, tmp_path, "any"), fault="")
    hunt = Search(settings_of(tmp_path, None), source, model, reference, tmp_path, lambda *_: None)
    (kept,), tried = improve([plain], quantizer, hunt, None)
    assert dataclasses.replace(kept, noise=()) == plain
    assert kept.noise
    assert tried == []


def test_a_stopped_search_goes_on(stage: tuple[Source, Model, Reference], tmp_path: Path) -> None:
    source, model, reference = stage
    journal = Journal(tmp_path / "journal", "m")
    hunt = Search(settings_of(tmp_path, 0.01), source, model, reference, tmp_path, lambda *_: None)
    first = hunt.run(StaticRecipe(), journal)
    again = Journal(tmp_path / "journal", "m")
    assert len(again.known) == len(first)
    ticks = iter(np.linspace(0, 0.59, 1000))
    more = dataclasses.replace(hunt, stopwatch=lambda: float(next(ticks))).run(StaticRecipe(), again)
    assert more[: len(first)] == first
    assert len(Journal(tmp_path / "journal", "m").known) == len(more)


def test_the_whole_way_with_minutes_leaves_no_journal_and_explains_itself(tmp_path: Path) -> None:
    path = ruinous(tmp_path / "m.onnx")
    x = images(COUNT, seed=8)
    out = tmp_path / "out"
    bundle = converters.convert(
        path, {"x": x, "label": labels(load(path), x)}, model="m", version="1.0.0", out=out, minutes=0.03, target="avx2"
    )
    assert not journal_path(out).exists()
    report, timing = converters.read_report(bundle), converters.read_timing(bundle)
    assert report.target == "avx2"
    assert timing is not None
    assert timing.search
    text = "\n".join(explanation(report, timing))
    assert "A search tried" in text
    assert "cut off at 16 bits" in text
    for variant in report.variants:
        assert variant.name in text


def test_a_dead_model_ships_smaller_and_says_so(tmp_path: Path) -> None:
    tensors = separable_tensors(5)
    tensors["w2"][:20] = 0
    tensors["b2"][:20] = -1
    model = separable(tensors)
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    x = images(COUNT, seed=8)
    bundle = converters.convert(path, {"x": x}, model="m", version="1.0.0", out=tmp_path / "out")
    report = converters.read_report(bundle)
    assert "20 of the 24 channels" in report.lossless
    variant = bundle.manifest.variant(FLOAT.name)
    assert variant is not None
    widths = [tuple(tensor.dims) for tensor in onnx.load(str(bundle.path(variant.file))).graph.initializer]
    assert (4, 16, 1, 1) in widths
    before, after = (load(each)({"x": x}) for each in (path, bundle.path(variant.file)))
    np.testing.assert_allclose(after["y"], before["y"], atol=1e-5)


def test_scores_and_recipes_of_a_search_are_plain_values() -> None:
    tried = Tried(StaticRecipe(), Score(loss=0, sqnr_db=1, latency=1, size=1))
    assert hash(tried) == hash(Tried(StaticRecipe(), Score(loss=0, sqnr_db=1, latency=1, size=1)))
