"""`edgeward diff`: two bundles, and a model beside a bundle."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import converters
from converters.errors import SourceRejected
from converters.report.comparison import compare
from edgeward.cli import main
from tests.support import models


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("diff")
    pixels, label = models.samples(300)
    made = {"float": models.mlp_classifier(folder / "m.onnx")}
    for version, source in (("1.0.0", made["float"]), ("1.1.0", models.linear_classifier(folder / "l.onnx", seed=3))):
        made[version] = folder / version
        data = {"pixels": pixels, "label": label}
        converters.convert(source, data, model="m", version=version, out=made[version], prefer="float32")
    return made


def test_a_bundle_is_as_itself(releases: dict[str, Path]) -> None:
    found = compare(releases["1.0.0"], releases["1.0.0"])
    assert not found.lineage
    assert not found.operators
    assert all(variant.sizes[0] == variant.sizes[1] and not variant.recipe for variant in found.variants)
    assert (found.agreement, found.samples) == (1.0, 64)


def test_other_models_differ_in_operators_sizes_and_answers(releases: dict[str, Path]) -> None:
    found = compare(releases["1.0.0"], releases["1.1.0"])
    assert found.names == ("m 1.0.0", "m 1.1.0")
    assert found.operators["Gemm"] == (2, 1)
    assert "source" in found.lineage
    assert "data" not in found.lineage
    float32 = next(variant for variant in found.variants if variant.name == "float32")
    assert float32.sizes[0] != float32.sizes[1]
    assert found.sqnr_db is not None
    assert found.sqnr_db < 60


def test_a_model_beside_its_bundle_answers_alike(releases: dict[str, Path]) -> None:
    found = compare(releases["float"], releases["1.0.0"])
    assert found.agreement == 1.0
    assert [variant.sizes[0] for variant in found.variants] == [None] * len(found.variants)


def test_the_command_prints_a_table_or_json(releases: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["diff", str(releases["1.0.0"]), str(releases["1.1.0"])]
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    assert "Gemm 2 → 1" in shown
    assert "golden samples" in shown
    with pytest.raises(SystemExit):
        main([*arguments, "--json"])
    assert json.loads(capsys.readouterr().out)["samples"] == 64


def test_what_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(SourceRejected, match="does not exist"):
        compare(tmp_path / "a", tmp_path / "b")
