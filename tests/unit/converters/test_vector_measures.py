"""Embeddings are judged by their cosine to float, and scores come with paired intervals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from converters.data.calibration import Parts, make_dataset
from converters.judging.measures import anomaly_metric, cosines, step_metric, vector_metric
from converters.judging.metrics import area_under_curve, mean_interval, paired_area_difference
from converters.judging.trial import Reference, over_budget
from fleet_protocol.tensors import TensorSpec

COUNT, PLACES, WIDTH = 60, 8, 32
BUDGET = 0.005
IDS = TensorSpec(name="ids", datatype="INT64", shape=(-1, PLACES))
MASK = TensorSpec(name="mask", datatype="INT64", shape=(-1, PLACES))


def chance(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def sentences(seed: int = 0) -> tuple[Reference, NDArray[np.float32]]:
    """An encoder of tokens, one vector each; the last three places of every sentence are masked."""
    mask = np.ones((COUNT, PLACES), np.int64)
    mask[:, -3:] = 0
    data = make_dataset({"ids": chance(1).integers(0, 90, (COUNT, PLACES)), "mask": mask}, (IDS, MASK))
    vectors = chance(seed).normal(size=(COUNT, PLACES, WIDTH)).astype(np.float32)
    outputs = {"states": vectors}
    return Reference(Parts(data, data, data), 64, outputs, outputs, None, vector_metric(outputs, data)), vectors


def noisy(vectors: NDArray[np.float32], db: float) -> dict[str, NDArray[Any]]:
    noise = chance(9).normal(size=vectors.shape) * vectors.std() * 10 ** (-db / 20)
    return {"states": (vectors + noise).astype(np.float32)}


def test_embeddings_ship_at_a_cosine_of_0_995_and_not_below() -> None:
    reference, vectors = sentences()
    good, bad = (reference.judge(noisy(vectors, db)) for db in (21, 18))
    assert good.metric == "cosine to float"
    assert reference.own().score == 1.0
    assert over_budget(good, reference, BUDGET) == ""
    assert "of cosine to float (1.0000 to 0.99" in over_budget(bad, reference, BUDGET)


def test_noise_that_the_mean_over_places_evens_out_ships_until_single_vectors_are_ruined() -> None:
    reference, vectors = sentences()
    vectors += 3  # what all places have in common stays when they are averaged
    reference.held_out["states"] = vectors
    assert over_budget(reference.judge(noisy(vectors, 19)), reference, BUDGET) == ""
    ruined = {"states": vectors + np.where(np.arange(PLACES) % 2, 3.0, -3.0)[None, :, None].astype(np.float32)}
    ruined["states"][:, -3:] = vectors[:, -3:]
    ruined["states"][:, 4] = vectors[:, 4]
    quality = reference.judge(ruined)
    assert quality.score == pytest.approx(1.0)
    assert "is noisy" in over_budget(quality, reference, BUDGET)


def test_what_is_masked_does_not_count() -> None:
    reference, vectors = sentences()
    other = vectors.copy()
    other[:, -3:] *= -1
    assert cosines(vectors, other, reference.parts.held_out) == pytest.approx(np.ones(COUNT))
    other[:, 0] *= -1
    assert cosines(vectors, other, reference.parts.held_out).mean() < 0.9


def test_lengths_are_not_lost_on_it() -> None:
    reference, vectors = sentences()
    assert "is noisy" in over_budget(reference.judge({"states": vectors * np.float32(2)}), reference, BUDGET)


def test_the_worst_of_several_outputs_counts() -> None:
    data = sentences()[0].parts.held_out
    wanted = {"one": chance(0).normal(size=(COUNT, 200)), "other": chance(1).normal(size=(COUNT, 200))}
    metric = vector_metric(wanted, data)
    assert metric is not None
    assert metric.of({**wanted, "other": -wanted["other"]}, data, wanted) == -1


@pytest.mark.parametrize(
    "shape", [(COUNT,), (COUNT, 3), (COUNT, 1000), (COUNT, 4, WIDTH), (COUNT, PLACES, 4), (COUNT, 3, 8, 32)], ids=str
)
def test_other_outputs_are_no_embeddings(shape: tuple[int, ...]) -> None:
    data = sentences()[0].parts.held_out
    assert vector_metric({"y": chance(0).normal(size=shape).astype(np.float32)}, data) is None


def test_what_rebuilds_its_input_is_no_embedding() -> None:
    rows = chance(0).normal(size=(COUNT, 200)).astype(np.float32)
    data = make_dataset({"x": rows}, (TensorSpec(name="x", datatype="FP32", shape=(-1, 200)),))
    assert vector_metric({"y": rows}, data) is None
    assert vector_metric({"y": rows[:, :150]}, data) is not None


def test_a_paired_interval_of_areas_covers_the_change_that_more_samples_show() -> None:
    def drawn(count: int, seed: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        random, labels = chance(seed), np.arange(count) % 2
        before = random.normal(size=count) + 1.2 * labels
        return before, before + 0.4 * random.normal(size=count), labels

    before, after, labels = drawn(200_000, 0)
    truth = area_under_curve(after, labels) - area_under_curve(before, labels)
    found = [paired_area_difference(*drawn(300, seed)) for seed in range(1, 201)]
    covered = np.mean([each.low <= truth <= each.high for each in found])
    assert 0.9 <= covered <= 0.99
    assert np.mean([each.high - each.low for each in found]) < 0.05


def test_the_interval_stands_around_the_difference_of_areas_ties_and_all() -> None:
    random = chance(3)
    labels, before, after = random.integers(0, 2, 80), random.integers(0, 9, 80), random.integers(0, 9, 80)
    found = paired_area_difference(before, after, labels)
    change = area_under_curve(after, labels) - area_under_curve(before, labels)
    assert (found.low + found.high) / 2 == pytest.approx(change)


def test_an_order_that_stays_leaves_no_doubt_and_one_sample_of_a_label_leaves_all() -> None:
    labels, scores = np.array([0, 1, 0, 1]), np.array([0.1, 0.9, 0.5, 0.4])
    same = paired_area_difference(scores, scores * 2, labels)
    assert same.low == same.high == 0
    lone = paired_area_difference(scores, scores, np.array([0, 1, 0, 0]))
    assert (lone.low, lone.high) == (-1, 1)


def test_measures_say_how_sure_their_change_is() -> None:
    reference, vectors = sentences()
    metric = reference.metric
    assert metric is not None
    assert metric.change is not None
    sure = metric.change(noisy(vectors, 21), reference.parts.held_out, reference.held_out)
    score = reference.judge(noisy(vectors, 21)).score
    assert score is not None
    assert sure.low < score - 1 < sure.high < 0
    assert mean_interval(np.array([0.5])).low == 0.5
    spec = TensorSpec(name="x", datatype="FP32", shape=(-1, 4))
    rows = chance(0).normal(size=(40, 4)).astype(np.float32)
    data = make_dataset({"x": rows, "label": np.arange(40) % 2}, (spec,))
    area = anomaly_metric((spec,), (TensorSpec(name="y", datatype="FP32", shape=(-1, 4)),), data)
    assert area is not None
    assert area.change is not None
    assert area.change({"y": rows}, data, {"y": rows}).low == 0


def steps(seed: int = 0) -> tuple[Reference, NDArray[np.float32]]:
    """A recogniser's answers: a distribution over 12 signs at each of 8 places."""
    scores = np.exp(3 * chance(seed).normal(size=(COUNT, PLACES, 12)))
    answers = (scores / scores.sum(axis=-1, keepdims=True)).astype(np.float32)
    data = make_dataset({"ids": np.zeros((COUNT, PLACES), np.int64)}, (IDS,))
    return Reference(Parts(data, data, data), 64, {"y": answers}, {"y": answers}, None, step_metric({"y": answers})), answers


def changed(answers: NDArray[np.float32], steps: int, sample: int = 0) -> dict[str, NDArray[Any]]:
    """The same, but that the largest of so many steps is another one, by little."""
    turned = answers.copy()
    for step in range(steps):
        best, second = np.argsort(turned[sample, step])[::-1][:2]
        turned[sample, step, [best, second]] = turned[sample, step, [second, best]]
    return {"y": turned}


def test_a_distribution_a_step_is_judged_by_the_steps_that_agree() -> None:
    reference, answers = steps()
    few, many = (reference.judge(changed(answers, count)) for count in (2, 3))
    assert (few.metric, few.agreement) == ("agreement a step", None)
    assert few.score == pytest.approx(1 - 2 / (COUNT * PLACES))
    assert over_budget(few, reference, BUDGET) == ""
    assert "of agreement a step (1.0000 to 0.9938)" in over_budget(many, reference, BUDGET)


def test_steps_of_one_sample_count_as_one_in_the_interval() -> None:
    """Eight steps of one sample tell less than one of each of eight."""
    reference, answers = steps()
    apart = answers.copy()
    for sample in range(8):
        apart[sample] = changed(answers, 1, sample)["y"][sample]
    assert reference.metric is not None
    assert reference.metric.change is not None
    together, spread = (
        reference.metric.change(each, reference.parts.held_out, reference.held_out)
        for each in (changed(answers, 8), {"y": apart})
    )
    assert together.low + together.high == pytest.approx(spread.low + spread.high)
    assert together.high - together.low > 2 * (spread.high - spread.low)


def test_answers_that_are_no_distributions_a_step_are_not_judged_by_steps() -> None:
    _, answers = steps()
    assert step_metric({"y": answers * 2}) is None
    assert step_metric({"y": answers[:, 0]}) is None
    assert step_metric({"y": answers.astype(np.int64)}) is None
