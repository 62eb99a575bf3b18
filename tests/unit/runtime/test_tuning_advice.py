"""What was found on this device is used, and is never more than advice."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest

import runtime
from runtime import sources
from runtime.device_facts import device_facts, usable_cores
from runtime.errors import ModelRejected
from runtime.hosting.batching import BatchingEngine, most_worth
from runtime.model import Model
from runtime.sources import Source
from runtime.tuning import measurement, results
from runtime.tuning.advice import AS_PUBLISHED, Advice, advise
from runtime.tuning.record import Burst, Candidate, Goal, Objective, Row, Tuning, TuningKey
from tests.support import models


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return models.linear_classifier(tmp_path / "digits.onnx")


@pytest.fixture
def source(path: Path) -> Source:
    return sources.find(path)


def tuning(*, threads: int | None = None, gains: Mapping[int, float] | None = None, provider: str = "cpu") -> Tuning:
    chosen = Candidate(variant="onnx", threads=threads, level="basic", provider=provider)
    row = Row(candidate=chosen, verdict="chosen", idle=Burst(p50_s=0.004, p95_s=0.005))
    return Tuning(chosen=chosen, reason="It was the fastest.", rows=(row,), batch_gains=dict(gains or {}), seconds=1.0)


def keep(cache: Path, source: Source, found: Tuning, goal: Goal = "latency") -> Path:
    before = set(cache.glob("*"))
    results.remember(cache, results.key_of(source.identity.manifest, Objective(goal=goal)), found)
    return (set(cache.glob("*")) - before).pop()


def is_batched(model: Model) -> bool:
    wrapped: list[object] = []
    model.through(lambda engine: wrapped.append(engine) or engine).close()  # type: ignore[func-returns-value]  # looks only
    return isinstance(wrapped[0], BatchingEngine)


def test_a_model_of_which_nothing_is_known_is_opened_as_published(source: Source, tmp_path: Path) -> None:
    assert advise([source], tmp_path / "nothing") == Advice(source, source, AS_PUBLISHED)


def test_what_was_tuned_says_how_and_why(source: Source, tmp_path: Path) -> None:
    keep(tmp_path / "cache", source, tuning(threads=1))
    advice = advise([source], tmp_path / "cache")
    assert (advice.source.threads, advice.source.provider) == (1, "cpu")
    assert advice.source.session_options["graph_optimization_level"] == "basic"
    assert advice.plain == source
    assert advice.why == "tuned: onnx · 1 thread · basic optimisation. It was the fastest."
    assert advice.typical_s == 0.004


def test_of_several_objectives_the_last_one_counts(source: Source, tmp_path: Path) -> None:
    first = keep(tmp_path, source, tuning(threads=1), "latency")
    second = keep(tmp_path, source, tuning(threads=2), "cpu")
    os.utime(first, ns=(1, 1))
    assert advise([source], tmp_path).source.threads == 2
    os.utime(second, ns=(0, 0))
    assert advise([source], tmp_path).source.threads == 1


def test_what_was_found_on_another_device_or_of_another_model_says_nothing(source: Source, tmp_path: Path) -> None:
    elsewhere = msgspec.structs.replace(device_facts(), libraries={"onnxruntime": "99.0"})
    key = TuningKey(digest=source.identity.manifest, objective=Objective(), device=elsewhere)
    results.remember(tmp_path, key, tuning(threads=1))
    other = sources.find(models.mlp_classifier(tmp_path / "other.onnx"))
    keep(tmp_path, other, tuning(threads=1))
    assert advise([source], tmp_path).source == source


def test_a_damaged_result_says_nothing(source: Source, tmp_path: Path) -> None:
    keep(tmp_path, source, tuning(threads=1)).write_bytes(b"\xff{")
    assert advise([source], tmp_path).source == source


def test_a_way_that_does_not_work_any_more_is_left_and_the_reason_says_so(source: Source, tmp_path: Path) -> None:
    keep(tmp_path, source, tuning(provider="cuda"))
    model, why = advise([source], tmp_path).load()
    model.close()
    assert why.startswith("as published, since the way that is known on this device does not work: ")


def test_a_file_that_opens_in_no_way_is_refused(source: Source, tmp_path: Path) -> None:
    keep(tmp_path, source, tuning(threads=1))
    source.path.write_bytes(b"no model")
    with pytest.raises(ModelRejected):
        advise([source], tmp_path).load()


@pytest.mark.parametrize(
    ("threads", "gain", "merged"), [(None, 1.3, True), (None, 1.2, False), (1, 1.2 * usable_cores() + 0.1, True)]
)
def test_requests_are_merged_where_the_tuner_saw_a_gain(
    path: Path, source: Source, tmp_path: Path, threads: int | None, gain: float, *, merged: bool
) -> None:
    found = tuning(threads=threads, gains={4: gain, 8: 0.9})
    keep(tmp_path, source, found)
    assert is_batched(runtime.load(path, cache=str(tmp_path))) is merged
    assert is_batched(measurement.load_tuned(path, found)) is merged
    assert not is_batched(runtime.load(path))


def test_requests_that_would_run_side_by_side_are_merged_only_for_more_than_that() -> None:
    gains = {2: 1.3, 4: 2.3, 8: 2.5}
    assert [most_worth(gains, side_by_side=count) for count in (1, 2, 4)] == [8, 8, 1]
    assert most_worth({2: 1.3, 4: 2.3}, side_by_side=2) == 1


def test_a_bare_file_given_its_own_options_is_opened_with_them(path: Path, source: Source, tmp_path: Path) -> None:
    keep(tmp_path, source, tuning(gains={4: 9.0}))
    assert not is_batched(runtime.load(path, cache=tmp_path, session_options={"session.disable_quant_qdq": "1"}))


def test_a_merging_model_keeps_its_labels(source: Source) -> None:
    labels = tuple("0123456789")
    model = runtime.load(source.path, labels=labels).through(lambda engine: engine)
    assert model.labels == labels
    model.close()
