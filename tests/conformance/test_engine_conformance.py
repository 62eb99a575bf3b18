"""What holds for every engine, on real files.

The engines are those of this environment: onnxruntime's execution providers that work here each have a turn, and TFLite files
run on the package that is found. `scripts/test-tflite-runtime` runs this suite once more where that is tflite-runtime.
"""

from __future__ import annotations

import atexit
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from importlib import util
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest

import runtime
from fleet_protocol.digests import digest_of
from fleet_protocol.tensors import TensorSpec
from runtime import InferenceFailed, InvalidInput, Model, ModelRejected
from runtime.engines import providers
from runtime.model import load as open_model
from runtime.tuning import prepared
from tests.support import models

TFLITE_FILES = Path(models.__file__).parent / "tflite_files"


@dataclass(frozen=True)
class Family:
    """One engine's files, and how they are opened."""

    engine: str
    place: str
    classifier: Callable[[Path], Path]
    two_inputs: Callable[[Path], Path]
    custom_operator: Callable[[Path], Path]
    provider: str | None = None

    def load(self, path: Path, **options: Any) -> Model:
        return runtime.load(path, provider=self.provider, **options)


class PreparedFamily(Family):
    """TFLite on weights that were packed before. What cannot be prepared is loaded as it is, as everywhere."""

    def load(self, path: Path, **options: Any) -> Model:
        ready = prepared.find(path, digest=digest_of(path.read_bytes()), cache=packed_weights())
        return open_model(path, compiled=None if ready is None else ready.compiled, **options)


def onnx_on(provider: providers.Provider) -> Family:
    wanted = None if provider.name == providers.CPU else provider.name
    return Family("onnxruntime", provider.title, models.linear_classifier, models.two_inputs, models.custom_operator, wanted)


def kept(name: str, path: Path) -> Path:
    """A copy of a file that `tests.support.tflite_models` once wrote, for environments that cannot write it."""
    shutil.copyfile(TFLITE_FILES / f"{name}.tflite", path)
    return path


@cache
def packed_weights() -> Path:
    directory = TemporaryDirectory(prefix="edgeward-conformance-")
    atexit.register(directory.cleanup)
    return Path(directory.name)


def packed(name: str, path: Path) -> Path:
    """The same file, whose weights are packed in a child, the first time that it is asked for."""
    prepared.prepare(kept(name, path), digest=digest_of(path.read_bytes()), cache=packed_weights())
    return path


def prepared_families() -> dict[str, Family]:
    """Only ai-edge-litert keeps packed weights."""
    if not util.find_spec("ai_edge_litert"):
        return {}
    files = (partial(packed, "linear_classifier"), partial(packed, "two_inputs"), partial(kept, "custom_operator"))
    return {"tflite-prepared": PreparedFamily("LiteRT", "packed weights mapped", *files)}


FAMILIES = {
    "tflite": Family(
        "LiteRT" if util.find_spec("ai_edge_litert") else "tflite-runtime",
        "CPU",
        partial(kept, "linear_classifier"),
        partial(kept, "two_inputs"),
        partial(kept, "custom_operator"),
    ),
    **prepared_families(),
    # QNN compiles models of fixed shapes only, which these are not: `test_provider_plugins.py` has one for it.
    **{f"onnx-{each.name}": onnx_on(each) for each in providers.working() if each.name != "qnn"},
}


@pytest.fixture(params=sorted(FAMILIES))
def family(request: pytest.FixtureRequest) -> Family:
    return FAMILIES[request.param]


@pytest.fixture
def model(family: Family, tmp_path: Path) -> Iterator[Model]:
    # Named by no suffix, as a blob on a device is.
    loaded = family.load(family.classifier(tmp_path / "blob"))
    yield loaded
    loaded.close()


def test_it_says_which_engine_runs_the_file(family: Family, model: Model) -> None:
    assert model.engine.startswith(family.engine)
    assert family.place in model.engine
    assert model.choice


def test_it_says_what_it_takes_and_gives(model: Model) -> None:
    assert model.inputs == (TensorSpec(name="pixels", datatype="FP32", shape=(-1, 64)),)
    assert model.outputs == (TensorSpec(name="scores", datatype="FP32", shape=(-1, 10)),)


@pytest.mark.parametrize("count", [1, 2, 33])
def test_its_answers_are_those_of_the_reference(model: Model, count: int) -> None:
    pixels, _ = models.samples(count)
    np.testing.assert_allclose(model({"pixels": pixels})["scores"], models.scores(pixels), atol=1e-5)


def test_batches_of_changing_size_do_not_disturb_one_another(model: Model) -> None:
    pixels, _ = models.samples(8)
    wanted = models.scores(pixels)
    for count in (1, 8, 3, 1, 8):
        np.testing.assert_allclose(model({"pixels": pixels[:count]})["scores"], wanted[:count], atol=1e-5)


def test_an_answer_stays_as_it_is_when_the_next_one_is_made(model: Model) -> None:
    pixels, _ = models.samples(2)
    first = model({"pixels": pixels[:1]})["scores"]
    kept = first.copy()
    model({"pixels": pixels[1:]})
    np.testing.assert_array_equal(first, kept)


def test_the_inputs_stay_as_they_are(model: Model) -> None:
    pixels, _ = models.samples(4)
    before = pixels.copy()
    model({"pixels": pixels})
    np.testing.assert_array_equal(pixels, before)


def test_an_array_that_is_not_contiguous_is_read_as_it_looks(model: Model) -> None:
    pixels, _ = models.samples(8)
    every_other = np.asfortranarray(pixels)[::2]
    np.testing.assert_allclose(model({"pixels": every_other})["scores"], models.scores(pixels)[::2], atol=1e-5)


def test_a_read_only_array_is_taken(model: Model) -> None:
    pixels, _ = models.samples(1)
    pixels.flags.writeable = False
    assert model({"pixels": pixels})["scores"].shape == (1, 10)


def test_inputs_are_told_apart_by_name(family: Family, tmp_path: Path) -> None:
    model = family.load(family.two_inputs(tmp_path / "blob"))
    left, right = np.array([[1, 2]], np.float32), np.array([[10, 20]], np.float32)
    for inputs in ({"left": left, "right": right}, {"right": right, "left": left}):
        np.testing.assert_array_equal(model(inputs)["total"], [[11, 22]])


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, r"The inputs are nothing; wanted exactly pixels: FP32\[\?, 64\]"),
        ({"image": np.zeros((1, 64), np.float32)}, r"The inputs are image; wanted exactly pixels"),
        ({"pixels": np.zeros((1, 64), np.float32), "more": np.zeros(1)}, r"The inputs are more, pixels; wanted exactly"),
        ({"pixels": np.zeros((1, 64))}, r"Input pixels is FP64; wanted pixels: FP32\[\?, 64\].*astype\('float32'\)"),
        ({"pixels": np.zeros((1, 64), ">f4")}, r"Input pixels is FP32 of foreign byte order"),
        ({"pixels": np.zeros((1, 63), np.float32)}, r"shape \[1, 63\]; wanted pixels: FP32\[\?, 64\]"),
        ({"pixels": np.zeros(64, np.float32)}, r"shape \[64\]; wanted"),
        ({"pixels": np.zeros((), np.float32)}, r"shape \[\]; wanted"),
        ({"pixels": [[0.0] * 64]}, r"Input pixels is a list; wanted a numpy array"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_came_and_what_was_wanted(
    model: Model, inputs: dict[str, np.ndarray], message: str
) -> None:
    with pytest.raises(InvalidInput, match=message):
        model(inputs)


def test_shapes_that_contradict_each_other_fail_one_request_and_not_the_next(family: Family, tmp_path: Path) -> None:
    model = family.load(family.two_inputs(tmp_path / "blob"))
    with pytest.raises((InvalidInput, InferenceFailed)):
        model({"left": np.zeros((3, 2), np.float32), "right": np.zeros((2, 2), np.float32)})
    ones = np.ones((3, 2), np.float32)
    np.testing.assert_array_equal(model({"left": ones, "right": ones})["total"], 2 * ones)


def test_threads_that_ask_at_once_each_get_their_own_answer(model: Model) -> None:
    pixels, _ = models.samples(8)
    wanted = models.scores(pixels)
    wrong: list[int] = []
    start = threading.Barrier(8)

    def ask(row: int) -> None:
        start.wait(10)
        for _ in range(50):
            got = model({"pixels": pixels[row : row + 1]})["scores"]
            if not np.allclose(got[0], wanted[row], atol=1e-5):
                wrong.append(row)

    threads = [threading.Thread(target=ask, args=(row,)) for row in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_closed_model_says_so(family: Family, tmp_path: Path) -> None:
    model = family.load(family.classifier(tmp_path / "blob"))
    model.close()
    model.close()
    with pytest.raises(InferenceFailed, match="closed"):
        model({"pixels": models.samples(1)[0]})


def test_a_truncated_file_is_refused(family: Family, tmp_path: Path) -> None:
    whole = family.classifier(tmp_path / "whole")
    for keep in (0.1, 0.5, 0.9):
        with pytest.raises(ModelRejected, match="is not a"):
            family.load(models.truncated(whole, tmp_path / "short", keep=keep))


def test_an_operator_that_nobody_knows_is_refused(family: Family, tmp_path: Path) -> None:
    with pytest.raises(ModelRejected, match="Launch"):
        family.load(family.custom_operator(tmp_path / "blob"))


def test_an_option_that_nobody_knows_is_refused(family: Family, tmp_path: Path) -> None:
    with pytest.raises(ModelRejected, match=r"session\.nonsense"):
        family.load(family.classifier(tmp_path / "blob"), session_options={"session.nonsense": "1"})


@pytest.mark.parametrize("threads", [1, 2])
def test_the_threads_of_a_run_can_be_bounded(family: Family, tmp_path: Path, threads: int) -> None:
    model = family.load(family.classifier(tmp_path / "blob"), threads=threads)
    assert model({"pixels": models.samples(1)[0]})["scores"].shape == (1, 10)


@pytest.mark.parametrize("threads", [0, 1_000_000])
def test_no_thread_at_all_is_refused_and_so_many_that_the_process_dies(family: Family, tmp_path: Path, threads: int) -> None:
    with pytest.raises(ModelRejected, match=f"threads = {threads} cannot"):
        family.load(family.classifier(tmp_path / "blob"), threads=threads)
