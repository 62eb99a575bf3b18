"""PyTorch for real: exported programs, factories with a state dict, modules; what breaks, and what is refused."""

from __future__ import annotations

import contextlib
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import converters
from converters.errors import DataRejected, SourceRejected
from converters.sources import Source, Trust, read_source
from converters.sources.exchange import Samples
from runtime import load
from tests.support.heavy_models import TORCH_MODULE, numbers

pytestmark = [pytest.mark.heavy, pytest.mark.filterwarnings("ignore")]

IMAGE = {"image": numbers(3, 16, 16)}


@pytest.fixture
def nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module of networks, which lies where the command is run."""
    import importlib
    import sys

    (tmp_path / "nets_of_test.py").write_text(TORCH_MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("nets_of_test", None)
    import torch

    torch.manual_seed(0)
    return importlib.import_module("nets_of_test")


def read(given: object, samples: Samples, tmp_path: Path, trust: Trust | None = None) -> Source:
    (work := tmp_path / f"work{len(list(tmp_path.iterdir()))}").mkdir()
    return read_source(given, lambda: samples, work, trust or Trust())


def answers(source: Source, samples: Samples, tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "m.onnx").write_bytes(source.content())
    with contextlib.closing(load(tmp_path / "m.onnx")) as model:
        return dict(model(samples))


def exported(module: Any, samples: Samples, path: Path, *, free: bool = True, count: int = 4) -> Path:
    import torch

    examples = tuple(torch.from_numpy(values[:count].copy()) for values in samples.values())
    shapes = tuple({0: torch.export.Dim.DYNAMIC} for _ in examples) if free else None
    torch.export.save(torch.export.export(module, examples, dynamic_shapes=shapes), path)
    return path


@pytest.mark.parametrize(
    ("name", "samples"),
    [("Net", IMAGE), ("Encoder", {"tokens": numbers(5, 8)}), ("Two", {"a": numbers(4), "b": numbers(6, seed=1)})],
)
def test_a_module_answers_as_in_torch(name: str, samples: Samples, nets: Any, tmp_path: Path) -> None:
    import torch

    module = getattr(nets, name)().eval()
    torch.save(module.state_dict(), tmp_path / "state.pt")
    with torch.no_grad():
        wanted = module(*(torch.from_numpy(values) for values in samples.values()))
    first = (wanted[0] if isinstance(wanted, tuple) else wanted).numpy()
    program = exported(module, samples, tmp_path / "m.pt2")
    for given, trust in ((module, None), (program, None), (f"nets_of_test:{name}", Trust(tmp_path / "state.pt"))):
        got = answers(read(given, samples, tmp_path, trust), samples, tmp_path)
        np.testing.assert_allclose(got["output_0" if isinstance(wanted, tuple) else "output"], first, atol=1e-4)


def test_a_program_for_one_sample_is_read(nets: Any, tmp_path: Path) -> None:
    program = exported(nets.Net().eval(), IMAGE, tmp_path / "one.pt2", free=False, count=1)
    source = read(program, IMAGE, tmp_path)
    assert source.model.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 1


def test_a_program_for_four_samples_is_told_how_to_export(nets: Any, tmp_path: Path) -> None:
    program = exported(nets.Net().eval(), IMAGE, tmp_path / "four.pt2", free=False)
    with pytest.raises(SourceRejected, match=r"fixes the first axis of 'image' to 4.*Dim\.DYNAMIC"):
        read(program, IMAGE, tmp_path)


def test_a_program_in_training_mode_is_refused(nets: Any, tmp_path: Path) -> None:
    program = exported(nets.Net().train(), IMAGE, tmp_path / "training.pt2")
    with pytest.raises(SourceRejected, match=r"training mode.*model\.eval\(\)"):
        read(program, IMAGE, tmp_path)


def test_channels_last_data_is_told_how_to_turn(nets: Any, tmp_path: Path) -> None:
    with pytest.raises(DataRejected, match=r"give 'image' as numpy\.transpose\(x, \(0, 3, 1, 2\)\)"):
        read("nets_of_test:Net", {"image": numbers(16, 16, 3)}, tmp_path)


@pytest.mark.parametrize(
    ("factory", "said"),
    [
        ("nowhere_at_all:build", "cannot be imported"),
        ("nets_of_test:missing", "has no attribute 'missing'"),
        ("nets_of_test:not_a_module", "gives a int, and not a torch.nn.Module"),
        ("nets_of_test:breaks", "no such file: weights.bin"),
        ("nets_of_test:Branching", "cannot be exported.*Control flow"),
    ],
)
def test_a_factory_that_gives_no_model_is_told_why(factory: str, said: str, nets: Any, tmp_path: Path) -> None:
    with pytest.raises(SourceRejected, match=f"(?s){said}"):
        read(factory, {"a": numbers(4, 4)}, tmp_path)


def test_an_operator_without_onnx_form_is_named(nets: Any, tmp_path: Path) -> None:
    with pytest.raises(SourceRejected, match=r"svd"):
        read("nets_of_test:Inverse", {"a": numbers(4, 4)}, tmp_path)


def test_a_state_of_another_module_is_told(nets: Any, tmp_path: Path) -> None:
    import torch

    torch.save(nets.Two().state_dict(), tmp_path / "other.pt")
    with pytest.raises(SourceRejected, match="does not fit the module"):
        read("nets_of_test:Net", IMAGE, tmp_path, Trust(tmp_path / "other.pt"))


class Evil:
    """Leaves a file where it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, ("unpickled",))


def test_a_state_with_code_is_not_unpickled(nets: Any, tmp_path: Path) -> None:
    import torch

    torch.save({"weights": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(SourceRejected, match="no plain state dict"):
        read("nets_of_test:Net", IMAGE, tmp_path, Trust(tmp_path / "evil.pt"))
    assert not (tmp_path / "unpickled").exists()


def test_an_exported_program_with_code_is_not_unpickled(nets: Any, tmp_path: Path) -> None:
    program = exported(nets.Net().eval(), IMAGE, tmp_path / "m.pt2")
    evil = tmp_path / "evil.pt2"
    with zipfile.ZipFile(program) as old, zipfile.ZipFile(evil, "w") as new:
        for name in old.namelist():
            inputs = "sample_inputs" in name and name.endswith(".pt")
            new.writestr(name, pickle.dumps(Evil()) if inputs else old.read(name))
    with pytest.raises(SourceRejected, match="cannot be loaded by torch"):
        read(evil, IMAGE, tmp_path)
    assert not (tmp_path / "unpickled").exists()
    (tmp_path / "unpickled").mkdir()  # so that trusting it would fail, too


def test_weights_without_a_module_are_told_what_is_missing(nets: Any, tmp_path: Path) -> None:
    import torch

    torch.save(nets.Net().state_dict(), tmp_path / "weights.pt")
    with pytest.raises(SourceRejected, match=r"package\.module:factory --state"):
        read(tmp_path / "weights.pt", IMAGE, tmp_path)


def test_a_module_becomes_a_bundle_with_the_same_bytes_twice(nets: Any, tmp_path: Path) -> None:
    program = exported(nets.Net().eval(), IMAGE, tmp_path / "m.pt2")
    digests = {
        converters.convert(program, IMAGE, model="net", version="1.0.0", out=tmp_path / name, prefer="float32").digest
        for name in ("a", "b")
    }
    assert len(digests) == 1
