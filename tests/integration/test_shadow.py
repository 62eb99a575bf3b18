"""A shadow beside a live model: what it finds out, and that nothing of it reaches whoever asks."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest

from runtime import Inference, ModelHost, ModelIdentity
from runtime.shadowing.shadow import CHILD, Allowance, Shadow
from runtime.shadowing.shadow_record import ShadowRecord
from runtime.sources import find
from tests.support import models
from tests.support.waiting import until

EVERYTHING = Allowance(share=1.0, cpu_share=1.0)
PIXELS = {"pixels": models.samples(4)[0]}


@contextmanager
def shadowed(live: Path, candidate: Path, allowance: Allowance = EVERYTHING) -> Iterator[tuple[ModelHost, Shadow]]:
    """A host on which `live` answers as model `live`, with a shadow whose candidate is loaded or has ended."""
    host, source = ModelHost(), find(live)
    host.activate(source.identity, source.load(threads=1))
    shadow = Shadow(host, source.identity.model, find(candidate), allowance)
    shadow.start()
    try:
        until(lambda: shadow.record().state != "loading", "the candidate is loaded", timeout_s=60)
        yield host, shadow
    finally:
        shadow.stop()
        host.deactivate(source.identity.model)


def ask(host: ModelHost) -> None:
    assert host.infer("live", PIXELS).finite


def asked_until(host: ModelHost, shadow: Shadow, outcome: str, count: int = 1) -> ShadowRecord:
    def seen() -> bool:
        ask(host)
        return shadow.record().requests.get(outcome, 0) >= count

    until(seen, f"{count} requests are {outcome}")
    return shadow.record()


def process_of_candidate() -> psutil.Process:
    return next(each for each in psutil.Process().children() if CHILD in " ".join(each.cmdline()))


def live(tmp_path: Path) -> Path:
    return models.linear_classifier(tmp_path / "live.onnx")


def test_agreement_difference_and_latency_of_both_are_recorded(tmp_path: Path) -> None:
    candidate = models.linear_classifier(tmp_path / "candidate.onnx", seed=1)
    with shadowed(live(tmp_path), candidate) as (host, shadow):
        found = asked_until(host, shadow, "compared", 5)
    assert found.agreement == 1.0
    assert found.classes_compared == 4 * found.requests["compared"]
    assert found.sqnr_db is not None
    assert 10 < found.sqnr_db < 100
    assert found.max_difference is not None
    assert 0 < found.max_difference < 1
    assert found.live_p50_s is not None
    assert found.candidate_p50_s is not None
    assert found.cpu_s > 0
    assert (found.model, found.live, found.candidate, found.state) == ("live", "0.0.0", "0.0.0", "running")


def test_a_candidate_that_answers_otherwise_is_seen(tmp_path: Path) -> None:
    with shadowed(live(tmp_path), models.constant(tmp_path / "candidate.onnx", 0.5)) as (host, shadow):
        found = asked_until(host, shadow, "compared", 3)
    assert found.agreement is not None
    assert found.agreement < 1
    assert found.sqnr_db is not None
    assert found.sqnr_db < 5


def test_nan_of_the_candidate_is_counted_and_never_seen_by_clients(tmp_path: Path) -> None:
    with shadowed(live(tmp_path), models.not_a_number(tmp_path / "candidate.onnx")) as (host, shadow):
        found = asked_until(host, shadow, "non_finite", 3)
        assert host.errors("live") == 0
    assert found.agreement is None
    assert found.why == "the candidate answered NaN or infinity"


def test_a_candidate_that_dies_is_loaded_again_and_ends_the_shadow_in_the_end(tmp_path: Path) -> None:
    allowance = Allowance(share=1.0, cpu_share=1.0, crashes=2)
    with shadowed(live(tmp_path), live(tmp_path), allowance) as (host, shadow):
        for crashes in (1, 2):
            asked_until(host, shadow, "compared", shadow.record().requests.get("compared", 0) + 1)
            process_of_candidate().kill()
            asked_until(host, shadow, "crashed", crashes)
        until(lambda: shadow.record().state == "ended", "the shadow gives up")
        ask(host)
        assert host.errors("live") == 0
        assert "crashed or hung 2 times" in shadow.record().why


SIZE = PIXELS["pixels"].nbytes + 4 * models.CLASSES * 4


@pytest.mark.parametrize("bound", [{"queue_bytes": 3 * SIZE}, {"queue_copies": 2}], ids=str)
def test_a_candidate_that_hangs_costs_no_live_request_anything_but_memory_within_the_budget(
    bound: dict[str, int], tmp_path: Path
) -> None:
    allowance = Allowance(share=1.0, cpu_share=1.0, timeout_s=600, **bound)
    with shadowed(live(tmp_path), live(tmp_path), allowance) as (host, shadow):
        asked_until(host, shadow, "compared", 1)
        until(lambda: "waiting" not in shadow.record().requests, "nothing waits")
        os.kill(process_of_candidate().pid, signal.SIGSTOP)
        for _ in range(10):
            ask(host)
        found = shadow.record()
        assert found.requests["over_memory"] >= 7
        assert found.requests.get("waiting", 0) <= 3


def test_a_candidate_that_hangs_too_often_is_stopped_and_live_requests_are_answered(tmp_path: Path) -> None:
    allowance = Allowance(share=1.0, cpu_share=1.0, timeout_s=0.2, crashes=1)
    with shadowed(live(tmp_path), live(tmp_path), allowance) as (host, shadow):
        os.kill(process_of_candidate().pid, signal.SIGSTOP)
        asked_until(host, shadow, "crashed")
        until(lambda: shadow.record().state == "ended", "the hung candidate is stopped")
        assert "did not answer within 0.2 s" in shadow.record().why
        ask(host)


def test_a_copy_gives_its_room_back(tmp_path: Path) -> None:
    allowance = Allowance(share=1.0, cpu_share=1.0, queue_bytes=SIZE)
    with shadowed(live(tmp_path), live(tmp_path), allowance) as (host, shadow):
        asked_until(host, shadow, "compared", 5)


def test_live_answers_that_are_no_numbers_are_not_copied(tmp_path: Path) -> None:
    bad = models.not_a_number(tmp_path / "live.onnx")
    with shadowed(bad, models.linear_classifier(tmp_path / "candidate.onnx")) as (host, shadow):
        for _ in range(5):
            assert not host.infer("live", PIXELS).finite
        assert shadow.record().requests == {}


def test_what_was_spent_must_be_earned_before_the_next_copy(tmp_path: Path) -> None:
    allowance = Allowance(share=1.0, cpu_share=0.01)
    with shadowed(live(tmp_path), live(tmp_path), allowance) as (host, shadow):
        found = asked_until(host, shadow, "over_cpu", 50)
        assert found.requests["compared"] < 25


def test_only_a_sample_of_the_requests_is_copied(tmp_path: Path) -> None:
    drawn = 0

    def chance() -> float:
        nonlocal drawn
        drawn += 1
        return (drawn * 0.618) % 1

    source = find(live(tmp_path))
    shadow = Shadow(ModelHost(), "live", source, Allowance(share=0.25), chance=chance)
    answer = Inference({"scores": np.zeros((1, 10), np.float32)}, source.identity)
    skipped = sum(shadow(PIXELS, answer, 0.0) for _ in range(1000))
    assert drawn == 1000
    assert 2800 < skipped < 3200


def test_a_new_live_version_begins_a_new_record(tmp_path: Path) -> None:
    with shadowed(live(tmp_path), live(tmp_path)) as (host, shadow):
        asked_until(host, shadow, "compared", 3)
        other = find(models.linear_classifier(tmp_path / "other.onnx", seed=2))
        host.activate(ModelIdentity("live", "2.0.0", "sha256:" + "1" * 64, "float"), other.load(threads=1))

        def renewed() -> bool:
            ask(host)
            return shadow.record().live == "2.0.0"

        until(renewed, "the record is of the new version")
        assert shadow.record().agreement == 1.0


def test_inputs_that_do_not_fit_end_the_shadow_at_once(tmp_path: Path) -> None:
    candidate = models.linear_classifier(tmp_path / "candidate.onnx", input_name="image")
    with shadowed(live(tmp_path), candidate) as (host, shadow):
        ask(host)
        assert shadow.record().state == "ended"
        assert "image" in shadow.record().why


def test_a_file_that_is_no_model_ends_the_shadow(tmp_path: Path) -> None:
    broken = tmp_path / "candidate.onnx"
    broken.write_bytes(b"not a model")
    with shadowed(live(tmp_path), broken) as (host, shadow):
        ask(host)
        assert shadow.record().state == "ended"


def test_a_candidate_may_not_take_more_memory_than_allowed(tmp_path: Path) -> None:
    with shadowed(live(tmp_path), live(tmp_path), Allowance(memory_bytes=1)) as (host, shadow):
        ask(host)
        assert shadow.record().state == "ended"


def test_stopping_ends_the_process_and_lets_the_host_go(tmp_path: Path) -> None:
    with shadowed(live(tmp_path), live(tmp_path)) as (host, shadow):
        process = process_of_candidate()
        shadow.stop()
        assert host.observer("live") is None
        assert not process.is_running()
        assert (shadow.record().state, shadow.record().why) == ("ended", "it was stopped")
        ask(host)


def test_arrays_that_are_reused_after_the_answer_do_not_reach_the_candidate(tmp_path: Path) -> None:
    with shadowed(live(tmp_path), live(tmp_path)) as (host, shadow):
        seeds = itertools.count()

        def asked_and_reused() -> bool:
            pixels = models.samples(4, seed=next(seeds))[0]
            answer = host.infer("live", {"pixels": pixels})
            pixels[:] = -1
            answer.outputs["scores"][:] = np.nan
            return shadow.record().requests.get("compared", 0) >= 20

        until(asked_and_reused, "enough are compared")
        assert shadow.record().sqnr_db == 200.0


@pytest.mark.parametrize(("share", "cpu_share"), [(0.0, 0.1), (1.5, 0.1), (0.1, 0.0), (0.1, 2.0)])
def test_an_allowance_that_makes_no_sense_is_refused(tmp_path: Path, share: float, cpu_share: float) -> None:
    with pytest.raises(ValueError, match="must lie in"):
        Shadow(ModelHost(), "live", find(live(tmp_path)), Allowance(share=share, cpu_share=cpu_share))
