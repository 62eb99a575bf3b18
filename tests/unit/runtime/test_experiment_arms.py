"""An experiment answers from its arms, names and counts who answered, and serves as one of them would."""

from __future__ import annotations

import numpy as np
import pytest

from fleet_protocol.tensors import TensorSpec
from runtime import ModelHost, ModelIdentity, ModelRejected, NotServing
from runtime.hosting.experiment import Experiment, Split, serving_for
from tests.support.engines import ScriptedEngine, fixed, model_of

X = {"x": np.zeros((1, 2), np.float32)}
WEIGHTS = {"1.0.0": 0.5, "1.1.0": 0.5}


def host(version: str) -> ModelHost:
    made = ModelHost()
    made.activate(ModelIdentity("digits", version, "sha256:" + "0" * 64, "float"), model_of(fixed(1, 2, 3)))
    return made


@pytest.fixture
def experiment() -> Experiment:
    return Experiment("digits", Split("s", WEIGHTS), {version: host(version) for version in WEIGHTS})


def test_each_key_is_answered_by_its_arm_which_names_its_version(experiment: Experiment) -> None:
    split = Split("s", WEIGHTS)
    answered = {key: experiment.infer("digits", X, key=key).identity.version for key in "abcdefgh"}
    assert answered == {key: split.arm(key) for key in answered}
    assert set(answered.values()) == set(WEIGHTS)


def test_without_a_key_the_first_arm_answers(experiment: Experiment) -> None:
    assert {experiment.infer("digits", X).identity.version for _ in range(5)} == {"1.0.0"}


def test_usage_is_counted_by_arm(experiment: Experiment) -> None:
    for key in "abcdefgh":
        experiment.infer("digits", X, key=key)
    counted = {usage.version: usage.latency.count for usage in experiment.take_usage(2e9)}
    split = Split("s", WEIGHTS)
    assert counted == {version: sum(split.arm(key) == version for key in "abcdefgh") for version in WEIGHTS}


def test_a_version_is_found_in_the_arm_that_has_it(experiment: Experiment) -> None:
    assert experiment.describe("digits", version="1.1.0").identity.version == "1.1.0"
    assert experiment.place("digits", version="1.1.0").infer(X).identity.version == "1.1.0"
    with pytest.raises(NotServing, match=r"2\.0\.0"):
        experiment.describe("digits", version="2.0.0")


def test_it_shows_all_its_arms(experiment: Experiment) -> None:
    assert [each.version for each in experiment.identities()] == ["1.0.0", "1.1.0"]
    assert [each.identity.version for each in experiment.active()] == ["1.0.0", "1.1.0"]


@pytest.mark.parametrize(
    "spec", [TensorSpec(name="x", datatype="FP64", shape=(-1, 2)), TensorSpec(name="pixels", datatype="FP32", shape=(-1, 2))]
)
def test_arms_that_do_not_take_the_same_inputs_are_refused(spec: TensorSpec) -> None:
    other = ModelHost()
    engine = ScriptedEngine(lambda x: x, inputs=(spec,))
    other.activate(ModelIdentity("digits", "1.1.0", "sha256:" + "1" * 64, "float"), model_of(engine))
    with pytest.raises(ModelRejected) as refused:
        Experiment("digits", Split("s", WEIGHTS), {"1.0.0": host("1.0.0"), "1.1.0": other})
    told = f"digits 1.1.0 takes {spec.describe()}; 1.0.0 takes x: FP32[?, 2]."
    assert str(refused.value).startswith(told)


def test_arms_may_differ_in_the_samples_that_they_take_at_once() -> None:
    other = ModelHost()
    engine = ScriptedEngine(lambda x: x, inputs=(TensorSpec(name="x", datatype="FP32", shape=(1, 2)),))
    other.activate(ModelIdentity("digits", "1.1.0", "sha256:" + "1" * 64, "float"), model_of(engine))
    Experiment("digits", Split("s", WEIGHTS), {"1.0.0": host("1.0.0"), "1.1.0": other})


def test_another_server_of_models_takes_no_notice_of_keys() -> None:
    alone = host("1.0.0")
    assert serving_for(alone, "key") is alone
