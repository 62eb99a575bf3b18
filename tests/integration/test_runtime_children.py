"""The runtime's child processes answer, refuse, die and end with their parent; tuning measures real candidates in them."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path

import msgspec
import numpy as np
import psutil
import pytest

from fleet_io.bundle_directory import write_bundle
from runtime.children import Child
from runtime.device_facts import device_facts
from runtime.errors import CannotTune, ChildFailed, ModelRejected
from runtime.sources import find
from runtime.trial import TrialResult
from runtime.tuning import measurement, measurement_child, results
from runtime.tuning.measurement_child import Batch, Batched, Check, Open, Opened, Pace, Paced, Pad, Padded, Run
from runtime.tuning.neighbour_child import Burn, Burning
from runtime.tuning.record import Burst, Candidate, Objective, Tuning, TuningKey
from tests.support import models
from tests.support.releases import make_release
from tests.support.waiting import until

WORKER = measurement_child.__name__

PARENT = """
import sys
from runtime.children import Child
from runtime.tuning.neighbour_child import Burn, Burning
child = Child("runtime.tuning.neighbour_child")
child.ask(Burn(on=True), Burning, timeout_s=60)
print(child.pid, flush=True)
sys.stdin.read()
"""


def open_order(path: Path, scratch: Path, golden: Path | None = None) -> Open:
    return Open(
        model=str(path),
        session_options={},
        threads=1,
        golden=None if golden is None else str(golden),
        answers=str(scratch / "answers.npz"),
    )


def test_a_worker_does_all_that_it_is_told(tmp_path: Path) -> None:
    path, golden = models.linear_classifier(tmp_path / "m.onnx"), models.linear_golden(tmp_path / "g.npz")
    with Child(WORKER) as child:
        opened = child.ask(open_order(path, tmp_path, golden), Opened, timeout_s=60)
        assert opened.takes_batches
        assert opened.load_s > 0
        checked = child.ask(Check(golden=str(golden), seconds=1.0), TrialResult, timeout_s=60)
        assert checked.failure is None
        assert checked.sqnr_db is not None
        assert checked.sqnr_db > 60
        burst = child.ask(Run(seconds=0.01, settle_s=0.0), Burst, timeout_s=60)
        assert 0 < burst.p50_s <= burst.p95_s
        assert child.ask(Pace(runs=2, period_s=0.01), Paced, timeout_s=60).cpu_s >= 0
        assert set(child.ask(Batch(sizes=(2, 4), seconds=0.01), Batched, timeout_s=60).gains) == {2, 4}
    with np.load(tmp_path / "answers.npz", allow_pickle=False) as answers:
        assert answers["0/0"].shape == (1, 10)
        assert len(answers) == measurement_child.ANSWERED


def test_a_child_that_meets_the_unforeseen_says_what_it_was() -> None:
    with Child(WORKER) as child, pytest.raises(ChildFailed, match=r"ended with exit code 1: .*ValidationError"):
        child.ask({"type": "Dance"}, Opened, timeout_s=60)


@pytest.mark.parametrize("keeps_to_mask", [True, False])
def test_tuning_finds_whether_sequences_may_be_padded(tmp_path: Path, *, keeps_to_mask: bool) -> None:
    path = models.masked_encoder(tmp_path / "m.onnx", keeps_to_mask=keeps_to_mask)
    with Child(WORKER) as child:
        child.ask(open_order(path, tmp_path), Opened, timeout_s=60)
        assert child.ask(Pad(), Padded, timeout_s=60).holds == keeps_to_mask


def test_a_model_without_a_mask_is_not_padded(tmp_path: Path) -> None:
    with Child(WORKER) as child:
        child.ask(open_order(models.linear_classifier(tmp_path / "m.onnx"), tmp_path), Opened, timeout_s=60)
        assert not child.ask(Pad(), Padded, timeout_s=60).holds


def test_a_slow_model_is_checked_on_part_of_the_samples(tmp_path: Path) -> None:
    path, golden = models.linear_classifier(tmp_path / "m.onnx"), models.linear_golden(tmp_path / "g.npz", count=64)
    with Child(WORKER) as child:
        child.ask(open_order(path, tmp_path, golden), Opened, timeout_s=60)
        checked = child.ask(Check(golden=str(golden), seconds=0.0), TrialResult, timeout_s=60)
    assert checked.samples == measurement_child.LEAST_CHECKED


def test_a_refusal_is_an_answer_and_the_child_lives_on(tmp_path: Path) -> None:
    path = models.linear_classifier(tmp_path / "m.onnx")
    with Child(WORKER) as child:
        with pytest.raises(ChildFailed, match="cannot be read"):
            child.ask(open_order(tmp_path / "none.onnx", tmp_path), Opened, timeout_s=60)
        with pytest.raises(ChildFailed, match="Open one first"):
            child.ask(Run(seconds=0.01, settle_s=0.0), Burst, timeout_s=60)
        assert child.ask(open_order(path, tmp_path), Opened, timeout_s=60).memory_bytes >= 0


def test_a_crash_is_told_and_stays_told(tmp_path: Path) -> None:
    path = models.linear_classifier(tmp_path / "m.onnx")
    with Child(WORKER) as child:
        child.ask(open_order(path, tmp_path), Opened, timeout_s=60)
        psutil.Process(child.pid).send_signal(signal.SIGSEGV)
        for _ in range(2):
            with pytest.raises(ChildFailed, match="crashed"):
                child.ask(Run(seconds=0.01, settle_s=0.0), Burst, timeout_s=60)


def test_a_child_that_hangs_is_stopped(tmp_path: Path) -> None:
    path = models.linear_classifier(tmp_path / "m.onnx")
    with Child(WORKER) as child:
        child.ask(open_order(path, tmp_path), Opened, timeout_s=60)
        psutil.Process(child.pid).suspend()
        with pytest.raises(ChildFailed, match=r"within 0\.2 s"):
            child.ask(Run(seconds=0.01, settle_s=0.0), Burst, timeout_s=0.2)
        with pytest.raises(ChildFailed):
            child.ask(Run(seconds=0.01, settle_s=0.0), Burst, timeout_s=60)


def test_a_module_that_fails_says_why() -> None:
    with Child("runtime.no_such_child") as child, pytest.raises(ChildFailed, match="no_such_child"):
        child.ask(Burn(on=True), Burning, timeout_s=60)


def test_an_answer_of_another_kind_is_nonsense() -> None:
    with Child("runtime.tuning.neighbour_child") as child, pytest.raises(ChildFailed, match="nonsense"):
        child.ask(Burn(on=True), Paced, timeout_s=60)


def test_a_child_ends_with_its_parent_in_the_middle_of_its_work() -> None:
    parent = subprocess.Popen(
        (
            sys.executable,
            "-c",
            PARENT,
        ),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.kill()
        parent.wait()
        until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE, "the child's end")


def test_the_neighbour_burns_a_core_until_it_is_told_to_rest() -> None:
    with Child("runtime.tuning.neighbour_child") as child:
        child.ask(Burn(on=True), Burning, timeout_s=60)
        process = psutil.Process(child.pid)
        until(lambda: process.cpu_times().user > 0.3, "a burned core")
        child.ask(Burn(on=False), Burning, timeout_s=60)

        def rests() -> bool:
            before = process.cpu_times().user
            threading.Event().wait(0.2)
            return process.cpu_times().user == before

        until(rests, "a neighbour at rest")


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Tuning]:
    directory = tmp_path_factory.mktemp("tuned")
    path = models.mlp_classifier(directory / "mlp.onnx")
    return path, directory / "cache", measurement.tune(path, seconds=2.0, cache=directory / "cache")


def test_tuning_a_bare_file_chooses_something_that_runs(tuned: tuple[Path, Path, Tuning]) -> None:
    path, _, tuning = tuned
    model = measurement.load_tuned(path, tuning)
    assert model({"pixels": models.samples(3)[0]})["scores"].shape == (3, 10)
    assert tuning.row.verdict.startswith("chosen")
    assert tuning.row.idle is not None
    assert set(tuning.batch_gains) == {2, 4, 8, 16}


def test_what_was_tuned_is_not_measured_again(tuned: tuple[Path, Path, Tuning]) -> None:
    path, cache, tuning = tuned
    assert measurement.tune(path, seconds=2.0, cache=cache) == tuning


def test_another_objective_is_another_result(tuned: tuple[Path, Path, Tuning]) -> None:
    path, cache, _ = tuned
    digest = find(path).identity.manifest
    key = TuningKey(digest=digest, objective=Objective(), device=device_facts())
    assert results.recall(cache, key) is not None
    assert results.recall(cache, msgspec.structs.replace(key, objective=Objective(goal="cpu"))) is None
    newer = msgspec.structs.replace(key.device, libraries={"onnxruntime": "99.0"})
    assert results.recall(cache, msgspec.structs.replace(key, device=newer)) is None


@pytest.mark.parametrize("content", [b"", b"{}", b'{"key": null}', b"\xff"])
def test_a_damaged_result_is_none(tuned: tuple[Path, Path, Tuning], tmp_path: Path, content: bytes) -> None:
    path, _, tuning = tuned
    key = TuningKey(digest=find(path).identity.manifest, objective=Objective(), device=device_facts())
    results.remember(tmp_path, key, tuning)
    assert results.recall(tmp_path, key) == tuning
    (kept,) = tmp_path.iterdir()
    kept.write_bytes(content)
    assert results.recall(tmp_path, key) is None


def test_a_file_that_does_not_load_cannot_be_tuned(tmp_path: Path) -> None:
    path = models.truncated(models.linear_classifier(tmp_path / "whole.onnx"), tmp_path / "half.onnx")
    with pytest.raises(CannotTune, match="No variant works"):
        measurement.tune(path, seconds=1.0)


def test_a_variant_that_answers_wrongly_is_never_chosen(tmp_path: Path) -> None:
    release = make_release(tmp_path / "release", "1.0.0", damages=(0.0, 0.6))
    places = {each.path: release.files[each.digest] for each in release.manifest.files()}
    bundle = write_bundle(tmp_path / "bundle", release.manifest, places)
    tuning = measurement.tune(bundle.directory, seconds=6.0)
    assert tuning.chosen.variant == "float-0"
    damaged = next(row for row in tuning.rows if row.candidate.variant == "float-1")
    assert damaged.verdict.startswith("wrong: ")
    assert damaged.idle is None


def test_a_choice_of_another_model_is_refused(tuned: tuple[Path, Path, Tuning]) -> None:
    path, _, tuning = tuned
    foreign = msgspec.structs.replace(tuning, chosen=Candidate(variant="int8"))
    with pytest.raises(ModelRejected, match="Tune it again"):
        measurement.load_tuned(path, foreign)
