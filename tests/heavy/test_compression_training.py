"""Trains real, tiny networks: what each kind of training gives, what it refuses, and that a stopped one goes on."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper

import converters
from converters.compression.recipes import (
    DistilRecipe,
    NMPruneRecipe,
    PruneRecipe,
    QatRecipe,
    Schedule,
    SparseRecipe,
    TrainingRecipe,
)
from converters.errors import ConversionError, DataRejected, SettingsRejected, SourceRejected, TrainingFailed
from converters.report.parity import ParityReport
from tests.heavy.small_nets import Digits, Regressor, Residual

pytestmark = pytest.mark.heavy

DATA = Path(__file__).parents[2] / "examples" / "digits" / "digits.npz"
NETS = "tests.heavy.small_nets"
SHORT = Schedule(epochs=6, learning_rate=2e-3)
ONE = Schedule(epochs=1, learning_rate=1e-3)

Arrays = dict[str, NDArray[Any]]


@pytest.fixture(scope="session")
def train() -> Arrays:
    data = np.load(DATA)
    return {"pixels": data["train_pixels"], "label": data["train_label"]}


@pytest.fixture(scope="session")
def held_out() -> Arrays:
    data = np.load(DATA)
    return {"pixels": data["pixels"], "label": data["label"]}


@pytest.fixture(scope="session")
def state(train: Arrays, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits network, trained for some seconds."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    net = Digits()
    fit(net, torch.from_numpy(train["pixels"]), torch.from_numpy(train["label"]), epochs=25)
    path = tmp_path_factory.mktemp("state") / "digits.pt"
    torch.save(net.state_dict(), path)
    return path


def fit(net: torch.nn.Module, pixels: torch.Tensor, label: torch.Tensor, *, epochs: int) -> None:
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3)
    for _ in range(epochs):
        for picked in torch.randperm(len(label)).split(64):
            loss = torch.nn.functional.nll_loss(torch.log(net(pixels[picked]) + 1e-9), label[picked])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    net.eval()


def compressed(
    source: object, data: Mapping[str, Any], train: Mapping[str, Any], recipes: Sequence[TrainingRecipe], out: Path, **more: Any
) -> tuple[converters.Bundle, ParityReport]:
    bundle = converters.compress(source, data, train, recipes, model="digits", version="1.0.0", out=out, **more)
    return bundle, converters.read_report(bundle)


def weights(bundle: converters.Bundle, variant: str) -> dict[str, NDArray[Any]]:
    found = bundle.manifest.variant(variant)
    assert found is not None
    model = onnx.load_model(str(bundle.path(found.file)))
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def test_pruned_channels_make_a_smaller_file_that_ships_within_the_budget(
    train: Arrays, held_out: Arrays, state: Path, tmp_path: Path
) -> None:
    recipe = PruneRecipe(amount=0.5, schedule=replace(SHORT, epochs=12))
    bundle, report = compressed(f"{NETS}:digits", held_out, train, [recipe], tmp_path / "out", state=state, budget=0.01)
    pruned, given = report.variant("pruned-50-float32"), report.variant("float32")
    assert pruned is not None
    assert given is not None
    assert pruned.shipped
    assert pruned.size is not None
    assert given.size is not None
    assert pruned.size < 0.4 * given.size
    assert [variant.shipped for variant in report.variants if variant.name == "pruned-50-int8-weights"] == [True]
    assert max(each.size for each in weights(bundle, "pruned-50-float32").values()) == 32 * 256
    assert pruned.recipe["trained"] == "channels pruned"
    assert "channels went" in report.trained[0]
    assert not (tmp_path / ".out.compress").exists()


def test_what_loses_too_much_is_left_out_and_the_given_model_still_ships(
    train: Arrays, held_out: Arrays, state: Path, tmp_path: Path
) -> None:
    recipe = PruneRecipe(amount=0.95, multiple=1, schedule=replace(ONE, learning_rate=1e-5))
    bundle, report = compressed(f"{NETS}:digits", held_out, train, [recipe], tmp_path / "out", state=state)
    left_out = [variant for variant in report.variants if variant.name.startswith("pruned-95")]
    assert left_out
    assert not any(variant.shipped for variant in left_out)
    pruned = report.variant("pruned-95-float32")
    assert pruned is not None
    assert "points of accuracy" in pruned.reason
    assert any("pruned-95" in warning for warning in report.warnings)
    assert bundle.manifest.variant("float32") is not None
    assert bundle.manifest.variant("pruned-95-float32") is None


def test_training_for_integers_gives_integers_only_and_keeps_the_architecture(
    train: Arrays, held_out: Arrays, state: Path, tmp_path: Path
) -> None:
    _, report = compressed(
        f"{NETS}:digits", held_out, train, [QatRecipe(schedule=replace(SHORT, epochs=3))], tmp_path / "out", state=state
    )
    assert [variant.name for variant in report.variants if variant.name.startswith("qat")] == ["qat-int8-static"]
    trained, plain = report.variant("qat-int8-static"), report.variant("int8-static")
    assert trained is not None
    assert plain is not None
    assert trained.accuracy is not None
    assert trained.accuracy.value > 0.93
    assert abs((trained.size or 0) - (plain.size or 0)) < 100


def test_a_student_learns_without_labels_too(train: Arrays, held_out: Arrays, state: Path, tmp_path: Path) -> None:
    recipe = DistilRecipe(student=f"{NETS}:student", schedule=replace(SHORT, epochs=25))
    bundle, report = compressed(
        f"{NETS}:digits", held_out, {"pixels": train["pixels"]}, [recipe], tmp_path / "out", state=state, budget=0.03
    )
    assert bundle.manifest.variant("distilled-int8-weights") is not None
    distilled = report.variant("distilled-float32")
    assert distilled is not None
    assert distilled.agreement is not None
    assert distilled.agreement > 0.9
    assert "5858 parameters" in report.trained[0]


def test_an_n_m_pattern_holds_in_the_file_and_packs_better(
    train: Arrays, held_out: Arrays, state: Path, tmp_path: Path
) -> None:
    bundle, report = compressed(
        f"{NETS}:digits", held_out, train, [NMPruneRecipe(schedule=SHORT), SparseRecipe(amount=0.8, schedule=SHORT)],
        tmp_path / "out", state=state, budget=0.2,
    )  # fmt: skip
    wide = next(each for each in weights(bundle, "sparse-2-4-float32").values() if each.shape in {(64, 512), (512, 64)})
    groups = (wide if wide.shape == (64, 512) else wide.T).reshape(64, 128, 4)
    assert ((groups != 0).sum(axis=2) <= 2).all()

    for note in report.trained:
        packed, given = (
            int(part.split(" has ")[1].split(" ")[0].rstrip(".")) for part in note.split("zlib, ")[1].split(", where ")
        )
        assert packed < 0.85 * given


def test_the_same_seed_trains_the_same_bytes_and_another_does_not(
    train: Arrays, held_out: Arrays, state: Path, tmp_path: Path
) -> None:
    recipes: list[TrainingRecipe] = [PruneRecipe(schedule=replace(ONE, epochs=3)), QatRecipe(schedule=ONE)]

    def digests(name: str, seed: int) -> dict[str, str]:
        bundle, _ = compressed(f"{NETS}:digits", held_out, train, recipes, tmp_path / name, state=state, budget=1.0, seed=seed)
        return {each.name: each.file.digest for each in bundle.manifest.variants if each.name.startswith(("pruned", "qat"))}

    first = digests("a", 1)
    assert first.keys() == {"pruned-50-float32", "pruned-50-int8-static", "pruned-50-int8-weights", "qat-int8-static"}
    assert digests("b", 1) == first
    assert not set(digests("c", 2).values()) & set(first.values())


def test_a_command_that_was_stopped_goes_on_with_the_training_at_which_it_was_stopped(
    train: Arrays, held_out: Arrays, state: Path, tmp_path: Path
) -> None:
    recipes: list[TrainingRecipe] = [SparseRecipe(schedule=ONE), PruneRecipe(schedule=ONE)]
    said: list[str] = []

    def stop(text: str, done: float) -> None:
        if text.startswith("pruned-50: epoch"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compressed(f"{NETS}:digits", held_out, train, recipes, tmp_path / "out", state=state, progress=stop)
    assert not (tmp_path / "out").exists()
    assert [path.name for path in (tmp_path / ".out.compress").iterdir()] == ["sparse-50"]
    bundle, _ = compressed(
        f"{NETS}:digits", held_out, train, recipes, tmp_path / "out", state=state, budget=1.0,
        progress=lambda text, done: said.append(text),
    )  # fmt: skip
    assert "sparse-50: trained before" in said
    assert not any(text.startswith("sparse-50: epoch") for text in said)
    assert any(text.startswith("pruned-50: epoch") for text in said)
    assert bundle.manifest.variant("pruned-50-float32") is not None


def test_sums_depthwise_convolutions_and_several_inputs_and_outputs_can_be_pruned(tmp_path: Path) -> None:
    chance = np.random.default_rng(5)
    torch.manual_seed(1)
    pixels, extra = chance.uniform(0, 16, (160, 1, 8, 8)).astype(np.float32), chance.normal(size=(160, 4)).astype(np.float32)
    data = {"pixels": pixels[:80], "extra": extra[:80]}
    taught = {"pixels": pixels[80:], "extra": extra[80:]}
    recipes: list[TrainingRecipe] = [PruneRecipe(schedule=ONE), QatRecipe(schedule=ONE), SparseRecipe(schedule=ONE)]
    _, report = compressed(Residual(), data, taught, recipes, tmp_path / "out")
    tried = {variant.name: variant for variant in report.variants}
    assert tried["pruned-50-float32"].sqnr_db is not None
    assert tried["qat-int8-static"].sqnr_db is not None
    assert (tried["pruned-50-float32"].size or 0) < (tried["float32"].size or 0)


def test_values_are_learned_from_the_given_model_alone(tmp_path: Path) -> None:
    torch.manual_seed(2)
    x = np.random.default_rng(6).normal(size=(900, 8)).astype(np.float32)
    recipe = PruneRecipe(amount=0.25, schedule=replace(SHORT, epochs=60, learning_rate=1e-2))
    _, report = compressed(Regressor(), {"x": x[:200]}, {"x": x[200:]}, [recipe], tmp_path / "out")
    pruned = report.variant("pruned-25-float32")
    assert pruned is not None
    assert pruned.sqnr_db is not None
    assert pruned.sqnr_db > 15


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("no_such_module:make", "cannot be imported"),
        (f"{NETS}:missing", "missing"),
        (f"{NETS}:number", "gives a int, and not a torch.nn.Module"),
        ("model.onnx", "model.onnx"),
    ],
)
def test_what_is_no_module_is_refused_by_name(source: str, said: str, train: Arrays, held_out: Arrays, tmp_path: Path) -> None:
    with pytest.raises(SourceRejected, match=said):
        compressed(source, held_out, train, [QatRecipe()], tmp_path / "out")


def test_weights_that_do_not_fit_are_named(train: Arrays, held_out: Arrays, state: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceRejected, match=r"does not fit the module.*features\.0\.weight"):
        compressed(f"{NETS}:student", held_out, train, [QatRecipe()], tmp_path / "out", state=state)
    with pytest.raises(SourceRejected, match=r"does not fit the module.*features\.0\.weight"):
        compressed(
            f"{NETS}:digits",
            held_out,
            train,
            [DistilRecipe(student=f"{NETS}:student", state=state)],
            tmp_path / "out",
            state=state,
        )


def test_a_pickle_that_is_more_than_tensors_is_never_opened(train: Arrays, held_out: Arrays, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "sprung",))

    torch.save({"features.0.weight": Trap()}, tmp_path / "evil.pt")
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps(Trap()))
    for name in ("evil.pt", "plain.pkl"):
        with pytest.raises(SourceRejected, match="is no plain state dict"):
            compressed(f"{NETS}:digits", held_out, train, [QatRecipe()], tmp_path / "out", state=tmp_path / name)
    assert not (tmp_path / "sprung").exists()


def test_training_data_that_does_not_fit_is_refused_before_any_training(
    train: Arrays, held_out: Arrays, state: Path, tmp_path: Path
) -> None:
    bad: dict[str, tuple[Mapping[str, Any], str]] = {
        "shape": ({"pixels": train["pixels"][:, :, :4], "label": train["label"]}, "shape"),
        "type": ({"pixels": train["pixels"].astype(np.float64), "label": train["label"]}, "float64"),
        "nan": ({"pixels": np.full_like(train["pixels"], np.nan), "label": train["label"]}, "NaN"),
        "name": ({"images": train["pixels"], "label": train["label"]}, "no array 'pixels'"),
        "labels": ({"pixels": train["pixels"], "label": train["label"] + 1}, "the label 10"),
        "negative": ({"pixels": train["pixels"], "label": train["label"] - 1}, "count from 0"),
        "few": ({"pixels": train["pixels"][:31], "label": train["label"][:31]}, "at least 32"),
        "same": (held_out, "are also in the training data"),
    }
    for data, said in bad.values():
        with pytest.raises(DataRejected, match=said):
            compressed(f"{NETS}:digits", held_out, data, [QatRecipe()], tmp_path / "out", state=state)
    assert not list(tmp_path.iterdir())


def test_a_student_of_other_answers_is_left_out_with_the_reason(
    train: Arrays, held_out: Arrays, state: Path, tmp_path: Path
) -> None:
    recipe = DistilRecipe(student=f"{NETS}:five_classes", schedule=ONE)
    _, report = compressed(f"{NETS}:digits", held_out, train, [recipe], tmp_path / "out", state=state)
    distilled = report.variant("distilled-float32")
    assert distilled is not None
    assert not distilled.shipped
    assert "answers in the shapes [[64, 5]] where the given model answers in [[64, 10]]" in distilled.reason


def test_a_loss_that_is_no_number_ends_the_training_with_a_clear_word(train: Arrays, held_out: Arrays, tmp_path: Path) -> None:
    recipe = SparseRecipe(schedule=Schedule(epochs=3, learning_rate=1.0))
    with pytest.raises(TrainingFailed, match=r"The loss became nan in epoch 1 .* Lower the learning rate \(1\)"):
        compressed(f"{NETS}:fragile", held_out, train, [recipe], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_time_limit_shortens_the_training_and_says_so(train: Arrays, held_out: Arrays, state: Path, tmp_path: Path) -> None:
    recipe = SparseRecipe(schedule=replace(SHORT, epochs=10_000))
    _, report = compressed(f"{NETS}:digits", held_out, train, [recipe], tmp_path / "out", state=state, minutes=0.05)
    assert "of 10000 (the time was up)" in report.trained[0]


def test_a_module_of_the_callers_own_is_left_as_it_was(train: Arrays, held_out: Arrays, state: Path, tmp_path: Path) -> None:
    net = Digits()
    net.load_state_dict(torch.load(state, weights_only=True))
    before = {name: values.clone() for name, values in net.state_dict().items()}
    chance, threads = torch.get_rng_state(), torch.get_num_threads()
    compressed(net, held_out, train, [PruneRecipe(schedule=ONE), QatRecipe(schedule=ONE)], tmp_path / "out")
    assert all(torch.equal(values, before[name]) for name, values in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), chance)
    assert torch.get_num_threads() == threads
    with pytest.raises(SettingsRejected, match="has its weights already"):
        compressed(net, held_out, train, [QatRecipe()], tmp_path / "other", state=state)


def test_every_refusal_is_one_kind_of_error() -> None:
    assert issubclass(TrainingFailed, ConversionError)
