"""`edgeward bench` measures what it says, and says what it could not measure."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runtime.errors import InvalidInput, ModelRejected
from runtime.tuning.benching import bench
from tests.support import models
from tests.support.central_side import edgeward


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return models.linear_classifier(tmp_path / "digits.onnx")


def test_every_case_is_a_line_and_larger_models_take_longer(model: Path, tmp_path: Path) -> None:
    large = models.linear_classifier(tmp_path / "large.onnx", features=4096, classes=512)
    done = edgeward("bench", model, large, "--batch", "1,4", "--threads", "1", "--seconds", "1.5", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    rows = json.loads(done.stdout)["rows"]
    assert [(row["model"], row["batch"], row["threads"]) for row in rows] == [
        ("digits.onnx", 1, 1),
        ("digits.onnx", 4, 1),
        ("large.onnx", 1, 1),
        ("large.onnx", 4, 1),
    ]
    for row in rows:
        assert 0 < row["p50_s"] <= row["p95_s"] <= row["p99_s"]
        assert row["runs"] >= 3
        assert row["samples_per_s"] > 0 < row["cpu_s"]
    assert rows[0]["ratio"] == 1.0
    assert rows[2]["ratio"] > 3  # a thousand times the work
    assert rows[2]["memory_bytes"] > rows[0]["memory_bytes"] + 4_000_000  # 8 MB of weights


def test_the_table_has_a_line_for_each(model: Path) -> None:
    done = edgeward("bench", model, "--seconds", "0.3")
    assert done.returncode == 0
    assert "digits.onnx  onnx     engine's      1" in done.stdout
    assert "samples/s" in done.stdout


def test_a_case_that_cannot_be_measured_says_why_beside_the_others(model: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    done = edgeward("bench", model, tmp_path / "broken.onnx", "--seconds", "0.3")
    assert done.returncode == 0
    assert "Not measured: broken.onnx onnx, batch 1: " in done.stderr
    alone = edgeward("bench", tmp_path / "broken.onnx", "--seconds", "0.3")
    assert (alone.returncode, "Traceback" in alone.stderr) == (1, False)


def test_a_model_of_single_samples_is_not_asked_for_batches(tmp_path: Path) -> None:
    fixed = models.identity(tmp_path / "fixed.onnx", shape=(1, 4))
    one, four = bench([fixed], batches=(1, 4), seconds=0.3).rows
    assert one.runs > 0
    assert four.failure == "the model takes one sample at a time"


def test_what_cannot_be_asked_is_refused_at_once(model: Path) -> None:
    with pytest.raises(InvalidInput, match="65 cases were asked for"):
        bench([model], batches=range(1, 66), seconds=0.1)
    with pytest.raises(InvalidInput, match=r"has no variant 'int8'\. It has: onnx"):
        bench([model], variant="int8", seconds=0.1)
    with pytest.raises(ModelRejected, match="cannot be read"):
        bench([Path("nothing.onnx")], seconds=0.1)


@pytest.mark.parametrize("value", ["0", "a", "1,,2", "5000", "-1", ""])
def test_a_list_that_is_none_is_wrong_usage(value: str, model: Path) -> None:
    done = edgeward("bench", model, "--batch", value)
    assert done.returncode == 2
    assert "is no list of numbers" in done.stderr
