"""`edgeward predict` and `edgeward serve` run a model as it was tuned here, and say so."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from runtime import sources
from runtime.tuning import results
from runtime.tuning.advice import AS_PUBLISHED
from runtime.tuning.record import Burst, Candidate, Row, Tuning
from tests.support import models
from tests.support.central_side import edgeward

WHY = "tuned: onnx · 1 thread · basic optimisation. It was the fastest."


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """One that was tuned, and beside it the cache that says so and a sample."""
    path = models.linear_classifier(tmp_path / "digits.onnx")
    chosen = Candidate(variant="onnx", threads=1, level="basic")
    row = Row(candidate=chosen, verdict="chosen", idle=Burst(p50_s=0.004, p95_s=0.005))
    tuning = Tuning(chosen=chosen, reason="It was the fastest.", rows=(row,), batch_gains={4: 9.0}, seconds=1.0)
    results.remember(tmp_path / "cache", results.key_of(sources.find(path).identity.manifest), tuning)
    np.save(tmp_path / "sample.npy", models.samples(2)[0])
    return path


def predicted(model: Path, *options: str) -> subprocess.CompletedProcess[str]:
    done = edgeward("predict", model, model.parent / "sample.npy", "--cache", model.parent / "cache", *options)
    assert done.returncode == 0, done.stderr
    return done


def test_predict_says_how_the_model_runs(model: Path) -> None:
    tuned, plain = (json.loads(predicted(model, "--json", *more).stdout) for more in ((), ("--no-tuned",)))
    assert tuned["way"] == WHY
    assert plain["way"] == "as published, as was asked for"
    np.testing.assert_allclose(tuned["outputs"]["scores"], plain["outputs"]["scores"], atol=1e-5)
    assert predicted(model).stderr == f"It runs {WHY}\n"


def test_predict_falls_back_where_nothing_is_known(model: Path) -> None:
    done = edgeward("predict", model, model.parent / "sample.npy", "--cache", model.parent / "nothing", "--json")
    assert json.loads(done.stdout)["way"] == AS_PUBLISHED


def test_serve_says_how_the_model_runs(model: Path) -> None:
    command = [sys.executable, "-m", "edgeward", "serve", str(model), "--port", "0", "--cache", str(model.parent / "cache")]
    process = subprocess.Popen([*command, "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    lines = [process.stderr.readline() for _ in range(3)]
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=20)
    said = json.loads(out)
    assert (said["way"], said["threads"], said["batch"], said["variant"]) == (WHY, 1, 4, "onnx")
    assert lines[0].startswith("Serving digits 0.0.0 (onnx, onnxruntime ")
    assert lines[1] == f"  runs {WHY}\n"
