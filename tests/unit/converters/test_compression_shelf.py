"""What was trained is kept until the bundle is there, whole or not at all; without torch, a clear word says what to install."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import onnx
import pytest

import converters
from converters.choice import choose
from converters.compression.recipes import PruneRecipe
from converters.compression.shelf import Shelf
from converters.errors import ConversionError, SettingsRejected
from converters.judging.trial import Trial
from converters.recipe import StaticRecipe, TrainedRecipe, WeightsRecipe
from converters.trained import Trained, candidates, notes
from fleet_io.errors import BundleUnwritable
from tests.support.models import linear_classifier, samples


@pytest.fixture
def trained(tmp_path: Path) -> Trained:
    model = onnx.load_model(str(linear_classifier(tmp_path / "model.onnx")))
    return Trained(name="pruned-50", choices={"trained": "channels pruned"}, model=model, note="half of it went")


def test_what_was_put_there_is_found_again_by_the_same_question_only(tmp_path: Path, trained: Trained) -> None:
    shelf = Shelf(tmp_path / "out")
    assert shelf.find("pruned-50", "this") is None
    shelf.put(trained, "this")
    assert Shelf(tmp_path / "out").find("pruned-50", "this") == trained
    assert shelf.find("pruned-50", "that") is None
    assert shelf.find("pruned-70", "this") is None


def test_a_file_that_breaks_off_or_was_changed_is_as_if_it_were_not_there(tmp_path: Path, trained: Trained) -> None:
    shelf = Shelf(tmp_path / "out")
    shelf.put(trained, "this")
    path = shelf.directory / "pruned-50"
    whole = path.read_bytes()
    for damaged in (b"", b"{}", whole[:40], whole[:-1], whole[:-1] + bytes([whole[-1] ^ 1])):
        path.write_bytes(damaged)
        assert shelf.find("pruned-50", "this") is None
    path.write_bytes(whole)
    assert shelf.find("pruned-50", "this") == trained


def test_the_shelf_is_beside_the_bundle_and_goes_when_it_is_done(tmp_path: Path, trained: Trained) -> None:
    shelf = Shelf(tmp_path / "out")
    shelf.put(trained, "this")
    assert shelf.directory.parent == tmp_path
    shelf.remove()
    assert not shelf.directory.exists()
    shelf.remove()


def test_a_shelf_that_cannot_be_written_says_where_and_why(tmp_path: Path, trained: Trained) -> None:
    (tmp_path / ".out.compress").write_text("in the way")
    with pytest.raises(BundleUnwritable, match=r"\.out\.compress, which keeps what was trained, cannot be written"):
        Shelf(tmp_path / "out").put(trained, "this")


def trials(tmp_path: Path) -> list[Trial]:
    def trial(recipe: StaticRecipe | WeightsRecipe, size: int, name: str = "", fault: str = "") -> Trial:
        path = tmp_path / f"{name}{recipe.name}"
        path.write_bytes(np.random.default_rng(0).bytes(size))
        return Trial(TrainedRecipe(name, recipe, {}) if name else recipe, fault, path)

    return [
        trial(StaticRecipe(), 1000),
        trial(WeightsRecipe(), 1000),
        trial(StaticRecipe(), 400, "pruned-50"),
        trial(WeightsRecipe(), 400, "pruned-50"),
        trial(StaticRecipe(), 300, "pruned-70", "loses 3.00 points of accuracy"),
        trial(WeightsRecipe(), 300, "pruned-70", "loses 2.00 points of accuracy"),
        trial(WeightsRecipe(), 1000, "sparse-50"),
    ]


def test_among_equal_arithmetic_the_smaller_model_goes_first_and_one_of_equal_size_behind(tmp_path: Path) -> None:
    choice = choose(candidates(trials(tmp_path), {}), "auto")
    assert choice.order == (
        "pruned-50-int8-static", "int8-static", "pruned-50-int8-weights", "int8-weights", "sparse-50-int8-weights",
    )  # fmt: skip


def test_the_notes_tell_what_came_of_each_training_and_how_it_packs(tmp_path: Path, trained: Trained) -> None:
    failed = Trained(name="qat", choices={}, model=None, fault="cannot be traced")
    first, second = notes([trained, failed], trials(tmp_path))
    assert first.startswith("pruned-50: half of it went; packed with zlib, pruned-50-int8-weights has ")
    assert first.endswith("where int8-weights has 1011.")
    assert second == "qat: cannot be traced."


def test_a_trained_variant_tells_both_how_it_was_trained_and_what_was_done_then() -> None:
    recipe = TrainedRecipe("pruned-50", WeightsRecipe(), {"trained": "channels pruned"})
    assert recipe.name == "pruned-50-int8-weights"
    assert recipe.session_options == WeightsRecipe().session_options
    assert recipe.choices() == {"trained": "channels pruned", **WeightsRecipe().choices()}


@pytest.mark.skipif(importlib.util.find_spec("torch") is not None, reason="is about an installation without torch")
def test_without_torch_the_command_says_what_to_install(tmp_path: Path) -> None:
    data = {"pixels": samples(64)[0]}
    with pytest.raises(
        SettingsRejected, match=r"needs PyTorch, which is not installed: pip install 'edgeward\[convert,compress\]'"
    ):
        converters.compress("nets:make", data, data, [PruneRecipe()], model="m", version="1.0.0", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_settings_are_refused_before_anything_is_imported_or_trained(tmp_path: Path) -> None:
    data = {"pixels": samples(64)[0]}
    with pytest.raises(ConversionError, match="is not a share"):
        converters.compress(
            "nets:make", data, data, [PruneRecipe()], model="m", version="1.0.0", out=tmp_path / "out", budget=2.0
        )
    with pytest.raises(SettingsRejected, match="threads = 0"):
        converters.compress(
            "nets:make", data, data, [PruneRecipe()], model="m", version="1.0.0", out=tmp_path / "out", threads=0
        )
    many = [PruneRecipe(amount=each / 100) for each in range(10, 90, 10)]
    with pytest.raises(SettingsRejected, match="one bundle holds 32"):
        converters.compress("nets:make", data, data, many, model="m", version="1.0.0", out=tmp_path / "out")
