"""TFLite on packed weights answers what the plain model answers, and takes nothing that is damaged, foreign, or changed."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

import runtime
from fleet_protocol.digests import digest_of
from runtime import InferenceFailed, Model, ModelRejected
from runtime.engines import litert_library
from runtime.engines.litert_cached import DESCRIPTION, WEIGHTS
from runtime.errors import CannotPrepare, EngineUnavailable
from runtime.hosting.isolated import InChildren
from runtime.model import load
from runtime.sources import find as find_source
from runtime.tuning import prepared, readiness
from runtime.tuning.advice import best_way
from runtime.tuning.prepared import Prepared
from runtime.tuning.readiness import Effort, Kept
from tests.support import models, tflite_models

ANY_SIZE = Effort(tune_s=0.0, smallest_bytes=0)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tflite_models.linear_classifier(tmp_path_factory.mktemp("model") / "linear.tflite")


@pytest.fixture(scope="module")
def built(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(model, tmp_path_factory.mktemp("built") / "cache").entry


@pytest.fixture
def weight_cache(built: Path, tmp_path: Path) -> Path:
    """What was built, for a test to damage."""
    return Path(shutil.copytree(built, tmp_path / "entry"))


def prepare(path: Path, cache: Path) -> Prepared:
    return prepared.prepare(path, digest=digest_of(path.read_bytes()), cache=cache)


def test_it_answers_to_the_bit_what_the_plain_model_answers_in_whatever_order_shapes_come(model: Path, built: Path) -> None:
    sizes = np.random.default_rng(0).integers(1, 40, 60)
    with runtime.load(model) as plain, load(model, compiled=built) as packed:
        assert (packed.inputs, packed.outputs) == (plain.inputs, plain.outputs)
        for size in [1, *map(int, sizes), 1]:
            inputs = {"pixels": models.samples(size)[0]}
            np.testing.assert_array_equal(packed(inputs)["scores"], plain(inputs)["scores"])


def test_each_says_how_it_came_to_its_weights(model: Path, built: Path) -> None:
    with runtime.load(model) as plain, load(model, compiled=built) as packed:
        assert "packs the weights at each load" in plain.choice
        assert packed.engine.endswith("packed weights mapped")
        assert "packed for this processor" in packed.choice


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux lists what is mapped")
def test_its_weights_are_pages_of_the_file_until_it_is_closed_and_no_library_of_a_gpu_is_loaded(
    model: Path, weight_cache: Path
) -> None:
    weights = (weight_cache / WEIGHTS).resolve()
    with load(model, compiled=weight_cache) as packed:
        for size in (2, 1, 9):
            packed({"pixels": models.samples(size)[0]})
        mapped = Path("/proc/self/maps").read_text()
    assert str(weights) in mapped
    assert "WebGpu" not in mapped
    assert str(weights) not in Path("/proc/self/maps").read_text()
    assert str(weights) not in [os.path.realpath(each) for each in Path("/proc/self/fd").iterdir()]


def test_it_runs_on_when_what_was_prepared_is_removed_and_larger_requests_come(model: Path, weight_cache: Path) -> None:
    with load(model, compiled=weight_cache) as packed:
        packed({"pixels": models.samples(1)[0]})
        shutil.rmtree(weight_cache)
        pixels, _ = models.samples(50)
        np.testing.assert_allclose(packed({"pixels": pixels})["scores"], models.scores(pixels), atol=1e-5)


def flipped(at: float) -> Callable[[Path], None]:
    def flip(weights: Path) -> None:
        content = bytearray(weights.read_bytes())
        content[int(at * (len(content) - 1))] ^= 0x10
        weights.write_bytes(content)

    return flip


def cut(keep: float) -> Callable[[Path], None]:
    return lambda weights: os.truncate(weights, int(keep * weights.stat().st_size))


def of_another_model(weights: Path) -> None:
    other = tflite_models.linear_classifier(weights.parent / "other.tflite", seed=1)
    shutil.copyfile(prepare(other, weights.parent / "cache").entry / WEIGHTS, weights)


DAMAGES: dict[str, Callable[[Path], None]] = {
    **{f"a bit flipped at {at}": flipped(at) for at in (0.0, 0.002, 0.5, 0.97, 1.0)},
    **{f"cut to {keep}": cut(keep) for keep in (0.0, 0.01, 0.5, 0.99)},
    "longer": lambda weights: os.truncate(weights, weights.stat().st_size + 4096),
    "another model's": of_another_model,
    "gone": lambda weights: weights.unlink(),
    "a link": lambda weights: weights.symlink_to(weights.rename(weights.parent / "elsewhere")),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_weights_that_are_not_as_they_were_written_are_refused_before_they_are_mapped(
    model: Path, weight_cache: Path, damage: str
) -> None:
    DAMAGES[damage](weight_cache / WEIGHTS)
    with pytest.raises(ModelRejected, match="Prepare the model again"):
        load(model, compiled=weight_cache)


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"\xff" * 100])
def test_a_description_that_says_nothing_is_refused(model: Path, weight_cache: Path, content: bytes) -> None:
    (weight_cache / DESCRIPTION).write_bytes(content)
    with pytest.raises(ModelRejected, match="Prepare the model again"):
        load(model, compiled=weight_cache)


def test_a_model_that_changed_since_its_weights_were_packed_is_refused(model: Path, built: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copyfile(model, tmp_path / "linear.tflite"))
    with load(copy, compiled=built) as packed:
        assert packed({"pixels": models.samples(1)[0]})["scores"].shape == (1, 10)
    tflite_models.linear_classifier(copy, seed=1)
    with pytest.raises(ModelRejected, match="not the model whose weights"):
        load(copy, compiled=built)


def test_what_was_damaged_is_found_no_more_and_made_again(model: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    made = prepare(model, cache)
    flipped(0.5)(made.entry / WEIGHTS)
    assert prepared.find(model, digest=digest_of(model.read_bytes()), cache=cache) is None
    with prepare(model, cache).load() as packed:
        assert "mapped" in packed.engine


def test_a_request_that_fails_says_why_and_the_next_one_works(tmp_path: Path) -> None:
    with prepare(tflite_models.lookup(tmp_path / "lookup.tflite"), tmp_path / "cache").load() as packed:
        for _ in range(2):
            with pytest.raises(InferenceFailed, match=r"index out of bounds\. Got 9"):
                packed({"rows": np.array([1, 9], np.int32)})
            np.testing.assert_array_equal(packed({"rows": np.array([2], np.int32)})["found"], [[8, 9, 10, 11]])


@pytest.mark.parametrize("make", [tflite_models.answers_what_it_is_given, tflite_models.answers_of_any_size])
def test_a_model_that_would_answer_otherwise_on_packed_weights_is_not_prepared(
    make: Callable[[Path], Path], tmp_path: Path
) -> None:
    path = make(tmp_path / "odd.tflite")
    with pytest.raises(CannotPrepare, match="Load it as it is"):
        prepare(path, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []
    assert isinstance(runtime.load(path), Model)


def test_who_made_a_model_ready_loads_it_so_in_a_child_process_too(model: Path, tmp_path: Path) -> None:
    source = find_source(model)
    kept = Kept(source.digest, tmp_path / "cache")
    [contender] = runtime.sources.contenders(model)
    assert readiness.make_ready(contender, kept, ANY_SIZE) == "its weights packed for this processor"
    packed, fault = readiness.load_ready(source, kept)
    assert ("mapped" in packed.engine, fault) == (True, "")
    inputs = {"pixels": models.samples(3)[0]}
    with InChildren().open(best_way(source, kept)) as isolated:
        assert "mapped" in isolated.engine
        np.testing.assert_array_equal(isolated(inputs)["scores"], packed(inputs)["scores"])


def test_where_the_library_is_missing_the_weights_are_packed_at_each_load_and_that_is_said(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    [contender] = runtime.sources.contenders(model)
    said = readiness.make_ready(contender, Kept(contender.source.digest, tmp_path / "cache"), ANY_SIZE)
    assert said.startswith(
        "its weights packed at each load, since weights are packed in a file by ai-edge-litert 2.1.6 or later only"
    )
    with pytest.raises(EngineUnavailable, match=r"pip install 'edgeward\[tflite\]'"):
        litert_library.library.__wrapped__()


def test_a_library_without_what_is_called_is_refused_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "ai_edge_litert"
    package.mkdir()
    (package / "__init__.py").touch()
    shutil.copyfile(msgspec._core.__file__, package / "libLiteRt.so")
    monkeypatch.delitem(sys.modules, "ai_edge_litert", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(EngineUnavailable, match=r"cannot keep packed weights in a file: .*LiteRtCreateEnvironment"):
        litert_library.library.__wrapped__()
