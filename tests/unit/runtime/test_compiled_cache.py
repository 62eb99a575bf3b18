"""What a provider compiled is kept where it is the same model and loads sooner; everything else leaves the model as it was."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fleet_io import durable
from runtime import sources
from runtime.engines import providers
from runtime.errors import CannotPrepare
from runtime.hosting.order import ToOpen
from runtime.sources import Source
from runtime.tuning import compiled, readiness, results
from runtime.tuning.advice import Kept, advise_where, best_way
from runtime.tuning.record import Candidate, Tuning
from tests.support import compiling_child, models


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return sources.find(models.linear_classifier(tmp_path / "m.onnx"))


@pytest.fixture
def kept(source: Source, tmp_path: Path) -> Kept:
    return Kept(source.digest, tmp_path / "cache")


def compile_for(source: Source, kept: Kept, provider: str = "tensorrt", *, how: str = "", timeout_s: float = 60.0) -> Path:
    options = {"how": how} if how else {}
    return compiled.compile_for(
        provider,
        source.path,
        digest=kept.digest,
        cache=kept.prepared,
        session_options=options,
        timeout_s=timeout_s,
        child=compiling_child.__name__,
    )


def test_what_was_compiled_is_found_and_not_compiled_again(source: Source, kept: Kept) -> None:
    entry = compile_for(source, kept)
    assert (entry / "kernels" / "engine.bin").read_bytes() == b"tensorrt"
    assert compiled.find("tensorrt", digest=kept.digest, cache=kept.prepared) == entry
    before = entry.stat().st_ino
    assert compile_for(source, kept).stat().st_ino == before


def test_another_device_or_other_options_are_another_entry(source: Source, kept: Kept) -> None:
    compile_for(source, kept)
    assert compiled.find("tensorrt:1", digest=kept.digest, cache=kept.prepared) is None
    assert compiled.find("tensorrt", digest=kept.digest, cache=kept.prepared, session_options={"a": "b"}) is None


def test_what_was_changed_since_is_not_taken_and_made_again(source: Source, kept: Kept) -> None:
    entry = compile_for(source, kept)
    (entry / "kernels" / "engine.bin").write_bytes(b"tensorRT")
    assert compiled.find("tensorrt", digest=kept.digest, cache=kept.prepared) is None
    compile_for(source, kept)
    assert compiled.find("tensorrt", digest=kept.digest, cache=kept.prepared) == entry


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ("crash", "crashed"),
        ("empty", "it wrote no file"),
        ("large", "takes 1073741824 bytes, and may take"),
        ("other", r"answers otherwise \(20\.0 dB"),
        ("slow", r"ready in 9\.00 s with it and in 10\.00 s without"),
    ],
)
def test_what_is_not_worth_keeping_leaves_nothing_and_says_why(source: Source, kept: Kept, how: str, why: str) -> None:
    with pytest.raises(CannotPrepare, match=f"Nothing is kept of what TensorRT compiles of .*{why}"):
        compile_for(source, kept, how=how)
    assert list(kept.prepared.iterdir()) == []


def test_a_provider_that_hangs_is_stopped(source: Source, kept: Kept) -> None:
    with pytest.raises(CannotPrepare, match="did not answer within"):
        compile_for(source, kept, how="hang", timeout_s=0.5)
    assert list(kept.prepared.iterdir()) == []


def test_a_provider_that_is_not_there_is_named(source: Source, kept: Kept) -> None:
    gone = next(each for each in providers.TABLE if each not in providers.present() and each.cache)
    with pytest.raises(CannotPrepare, match=gone.title):
        compiled.compile_for(gone.name, source.path, digest=kept.digest, cache=kept.prepared)


def test_whoever_says_where_it_runs_gets_what_was_compiled_for_that(source: Source, kept: Kept) -> None:
    entry = compile_for(source, kept)
    asked = replace(source, provider="tensorrt")
    assert advise_where(asked, kept.cache).source.compiled == entry
    assert advise_where(asked, kept.cache).plain == asked
    assert advise_where(replace(source, provider="cuda"), kept.cache).source.compiled is None
    assert ToOpen.of(replace(asked, compiled=entry), source.path, threads=1).compiled == str(entry)


def test_a_tuned_model_runs_from_what_was_compiled_until_that_is_forgotten(source: Source, kept: Kept) -> None:
    chosen = Candidate(variant="onnx", provider="coreml")
    results.remember(kept.tuned, kept.key(source), Tuning(chosen=chosen, reason="", rows=(), batch_gains={}, seconds=0.0))
    entry = compile_for(source, kept, "coreml")
    other = compile_for(source, kept, "coreml:ALL")
    (kept.prepared / f"{durable.TEMPORARY_PREFIX}killed").mkdir()
    readiness.keep_only(kept.cache, [(source, kept)])
    assert list(kept.prepared.iterdir()) == [entry] != [other]
    assert best_way(source, kept).compiled == entry
    readiness.forget(source, kept)
    assert list(kept.prepared.iterdir()) == []


def test_each_provider_is_told_the_directory_in_its_own_words(tmp_path: Path) -> None:
    def asked(name: str) -> providers.Asked:
        return replace(providers.parse(name), compiled=tmp_path)

    assert asked("tensorrt:1").options == {
        "device_id": "1",
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(tmp_path),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(tmp_path),
    }
    assert asked("coreml").options == {"ModelCacheDirectory": str(tmp_path)}
    assert asked("cuda").options == providers.parse("cuda").options


def test_an_empty_directory_is_filled_and_a_full_one_is_opened(tmp_path: Path) -> None:
    asked, model = replace(providers.parse("openvino"), compiled=tmp_path), tmp_path / "m.onnx"
    file, entries = asked.in_place_of(model)
    assert (file, entries["ep.context_file_path"]) == (model, str(tmp_path / "context.onnx"))
    (tmp_path / "context.onnx").touch()
    assert asked.in_place_of(model) == (tmp_path / "context.onnx", {})
    assert replace(asked, compiled=None).in_place_of(model) == (model, {})
