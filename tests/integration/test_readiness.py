"""A model is made ready once and loaded so ever after; and `runtime.load` finds what is known of a bundle."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import numpy as np
import pytest

import runtime
from fleet_io.bundle_directory import write_bundle
from runtime import InvalidInput, ModelRejected, sources
from runtime.device_facts import usable_cores
from runtime.engines import providers
from runtime.errors import CannotPrepare
from runtime.sources import Contender
from runtime.tuning import readiness, results
from runtime.tuning.advice import as_tuned
from runtime.tuning.readiness import Effort, Kept
from runtime.tuning.record import Candidate, Tuning
from tests.support import models
from tests.support.releases import make_release, question

ANY_SIZE = Effort(tune_s=0.0, smallest_bytes=0)


@pytest.fixture
def contender(tmp_path: Path) -> Contender:
    [found] = sources.contenders(models.mlp_classifier(tmp_path / "m.onnx"))
    return found


@pytest.fixture
def kept(contender: Contender, tmp_path: Path) -> Kept:
    return Kept(contender.source.digest, tmp_path / "cache")


def choice(variant: str, **way: object) -> Tuning:
    chosen = Candidate(variant=variant, **way)  # type: ignore[arg-type]  # tests name real fields
    return Tuning(chosen=chosen, reason="a test says so", rows=(), batch_gains={}, seconds=0.0)


def form(kept: Kept) -> Path:
    [entry] = kept.prepared.iterdir()
    return entry


def spoil(entry: Path) -> None:
    """Damage a prepared form as nothing but loading it shows."""
    record, graph = entry / "prepared.json", entry / "model.onnx"
    graph.write_bytes(bytes(graph.stat().st_size))
    content = msgspec.json.decode(record.read_bytes())
    content["files"]["model.onnx"]["stamp"] = [graph.stat().st_mtime_ns, graph.stat().st_ctime_ns]
    record.write_bytes(msgspec.json.encode(content))


def answer(model: runtime.Model) -> list[float]:
    scores = model(question())["scores"][0]
    model.close()
    return [round(float(each), 4) for each in scores]


def test_what_was_made_ready_is_loaded_so_and_answers_the_same(contender: Contender, kept: Kept) -> None:
    assert "packed" in readiness.make_ready(contender, kept, ANY_SIZE)
    model, fault = readiness.load_ready(contender.source, kept)
    assert (answer(model), fault) == (answer(contender.source.load()), "")
    readiness.make_ready(contender, kept, ANY_SIZE)
    assert form(kept).is_dir()


def test_small_models_are_not_worth_preparing(contender: Contender, kept: Kept) -> None:
    assert readiness.make_ready(contender, kept, Effort(tune_s=0.0)) == "nothing to prepare"
    assert not kept.prepared.exists()


def test_a_prepared_form_that_does_not_load_is_forgotten_and_the_model_loads_as_it_is(contender: Contender, kept: Kept) -> None:
    readiness.make_ready(contender, kept, ANY_SIZE)
    spoil(form(kept))
    model, fault = readiness.load_ready(contender.source, kept)
    assert answer(model) == answer(contender.source.load())
    assert "does not work" in fault
    assert list(kept.prepared.iterdir()) == []
    assert readiness.load_ready(contender.source, kept)[1] == ""


def test_what_was_tuned_is_neither_measured_again_nor_left_out_when_preparing(contender: Contender, kept: Kept) -> None:
    results.remember(kept.tuned, kept.key(contender.source), choice("onnx", threads=1, level="basic"))
    said = readiness.make_ready(contender, kept, Effort(tune_s=60.0, smallest_bytes=0))
    assert said.startswith("onnx · 1 thread · basic optimisation; ")
    record = msgspec.json.decode((form(kept) / "prepared.json").read_bytes())
    assert record["key"]["session_options"]["graph_optimization_level"] == "basic"
    model, fault = readiness.load_ready(contender.source, kept, threads=4)
    assert (answer(model), fault) == (answer(contender.source.load()), "")


def test_an_agent_merges_what_waits_where_tuning_saw_a_gain_and_pads_where_it_may(contender: Contender, kept: Kept) -> None:
    found = msgspec.structs.replace(choice("onnx", threads=1), batch_gains={4: 1.3 * usable_cores()}, pads=True)
    results.remember(kept.tuned, kept.key(contender.source), found)
    way = as_tuned(contender.source, kept)
    assert (way.batch, way.pads, way.threads) == (4, True, 1)


def test_tuning_is_measured_within_its_time(contender: Contender, kept: Kept) -> None:
    assert readiness.make_ready(contender, kept, Effort(tune_s=0.5)).startswith("onnx · ")
    assert results.recall(kept.tuned, kept.key(contender.source)) is not None


def test_a_provider_that_tuning_chose_and_that_is_gone_is_forgotten_and_the_model_runs_on_the_cpu(
    contender: Contender, kept: Kept
) -> None:
    gone = next(each for each in providers.TABLE if each not in providers.present() and not each.cache)
    results.remember(kept.tuned, kept.key(contender.source), choice("onnx", provider=gone.name))
    assert readiness.make_ready(contender, kept, ANY_SIZE) == "nothing to prepare"  # a prepared form is for the CPU
    model, fault = readiness.load_ready(contender.source, kept)
    assert gone.title in fault
    assert answer(model) == answer(contender.source.load())
    assert readiness.load_ready(contender.source, kept)[1] == ""


def test_why_nothing_that_a_provider_compiled_is_kept_is_said_and_no_failure(contender: Contender, kept: Kept) -> None:
    gone = next(each for each in providers.TABLE if each not in providers.present() and each.cache)
    results.remember(kept.tuned, kept.key(contender.source), choice("onnx", provider=gone.name))
    said = readiness.make_ready(contender, kept, Effort(tune_s=60.0))
    assert said.startswith(f"onnx · on {gone.name} · engine's threads; Nothing is kept of what {gone.title} compiles of ")
    assert list(kept.prepared.iterdir()) == []


def test_forgetting_what_is_not_there_is_no_error(contender: Contender, kept: Kept) -> None:
    readiness.forget(contender.source, kept)


def test_what_cannot_be_prepared_says_so_and_loads_as_it_is(tmp_path: Path, contender: Contender, kept: Kept) -> None:
    kept.cache.mkdir()
    kept.prepared.write_bytes(b"no directory")
    with pytest.raises((CannotPrepare, OSError)):
        readiness.make_ready(contender, kept, ANY_SIZE)
    assert answer(readiness.load_ready(contender.source, kept)[0]) == answer(contender.source.load())


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """Two variants, of which the second answers otherwise."""
    release = make_release(tmp_path / "release", "1.0.0", damages=(0.0, 0.5))
    manifest = msgspec.structs.replace(release.manifest, labels=tuple("0123456789"))
    places = {path.name: path for path in release.files.values()}
    return write_bundle(tmp_path / "bundle", manifest, places).directory


def test_a_bundle_is_loaded_as_its_publisher_prefers_with_its_labels(bundle: Path) -> None:
    model = runtime.load(bundle)
    assert model.labels == tuple("0123456789")
    assert answer(model) == answer(sources.find(bundle).load())


def test_a_bundle_gives_the_variant_that_is_named(bundle: Path) -> None:
    assert answer(runtime.load(bundle, variant="float-1")) == answer(sources.find(bundle, variant="float-1").load())
    with pytest.raises(ModelRejected, match=r"has no variant 'int4'. It has: float-0, float-1"):
        runtime.load(bundle, variant="int4")


def test_a_bundle_gives_the_variant_that_tuning_chose(bundle: Path, tmp_path: Path) -> None:
    key = results.key_of(sources.find(bundle).identity.manifest)
    results.remember(tmp_path / "cache", key, choice("float-1", threads=1))
    second = answer(sources.find(bundle, variant="float-1").load())
    assert answer(runtime.load(bundle, cache=tmp_path / "cache")) == second
    assert answer(runtime.load(bundle)) != second
    assert answer(runtime.load(bundle, variant="float-0", cache=tmp_path / "cache")) != second


def test_a_cache_that_knows_nothing_changes_nothing(bundle: Path, tmp_path: Path) -> None:
    assert answer(runtime.load(bundle, cache=tmp_path / "cache")) == answer(runtime.load(bundle))


def test_a_bundle_brings_its_own_options(bundle: Path) -> None:
    with pytest.raises(ModelRejected, match="Leave them out"):
        runtime.load(bundle, labels=("a",))


def test_a_bare_file_has_no_variants(tmp_path: Path) -> None:
    with pytest.raises(ModelRejected, match="has no variants"):
        runtime.load(models.linear_classifier(tmp_path / "m.onnx"), variant="int8")


def test_a_directory_without_a_manifest_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelRejected, match="is not a file"):
        runtime.load(tmp_path)


def test_a_bundle_whose_file_was_changed_is_refused(bundle: Path) -> None:
    file = sources.find(bundle).path
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(ModelRejected, match="digest differs"):
        runtime.load(bundle)


def test_one_array_is_enough_for_a_bundle_of_one_input(bundle: Path) -> None:
    model = runtime.load(bundle)
    scores = model.predict(models.samples(3)[0])
    assert isinstance(scores, np.ndarray)
    assert scores.shape == (3, 10)
    with pytest.raises(InvalidInput):
        model.predict([1, 2, 3])
    model.close()


def test_the_program_on_the_page_about_tuning_runs(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "tune.md").read_text(encoding="utf-8")
    (code,) = (each for each in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "make_ready" in each)
    path = models.linear_classifier(tmp_path / "m.onnx")
    names: dict[str, object] = {"path": path, "directory": tmp_path / "cache"}
    exec(compile(code.replace("tune_s=5", "tune_s=0.5"), "docs/tune.md", "exec"), names)
    assert (names["fault"], str(names["said"]).startswith("onnx · ")) == ("", True)
