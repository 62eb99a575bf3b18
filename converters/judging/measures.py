"""Measures of quality for models that tell no class a sample. Pure.

An autoencoder's AUC, the cosine of embeddings, agreement a step, and a caller's own.

A measure takes float's outputs and a variant's for the same samples and says how good the variant is, more being better, and
how sure its change is: intervals are paired, as both answered the same samples.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from converters.data.calibration import Dataset
from converters.judging import metrics
from converters.judging.answering import Answering
from converters.judging.metrics import Interval
from fleet_protocol.tensors import DYNAMIC, TensorSpec

Outputs = dict[str, NDArray[Any]]
Rows = NDArray[np.float64]

_WIDE: Final = 3
"""A model that gives back fewer numbers than this is no autoencoder."""
_VECTOR: Final = 16
"""Rows of fewer numbers are no embeddings: their cosine says little."""
_STEPS: Final = 3
"""Axes of a distribution a step: samples, steps, classes."""
_TOKENS: Final = 2
"""Tokens are whole numbers [samples, places]; vectors with more axes than this stand at places."""


@dataclass(frozen=True)
class Metric:
    """Another measure of quality than accuracy: `of` takes a variant's outputs, the samples and float's outputs.

    Where a caller brought it, `asks` takes the model itself, and `of` gives the float model's score.
    """

    name: str
    of: Callable[[Outputs, Dataset, Outputs], float]
    asks: Callable[[Answering], float] | None = None
    change: Callable[[Outputs, Dataset, Outputs], Interval] | None = None
    """The 95 % interval of (the variant's score less float's); None where it is not known."""
    against_float: bool = False
    """Whether float's answers are all that it knows: then it tells nothing about what is right."""


def anomaly_metric(inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...], data: Dataset) -> Metric | None:
    """The area under the curve of an autoencoder's squared error, where the model is one and labels are 0 and 1; or None."""
    if len(inputs) != 1 or len(outputs) != 1 or data.labels is None or inputs[0].shape[1:] != outputs[0].shape[1:]:
        return None
    if set(np.unique(data.labels)) != {0, 1} or DYNAMIC in outputs[0].shape[1:] or int(np.prod(outputs[0].shape[1:])) < _WIDE:
        return None
    given, made = inputs[0].name, outputs[0].name

    def errors(answers: Outputs, samples: Dataset) -> Rows:
        squares = (answers[made].astype(np.float64) - samples.inputs[given]) ** 2
        return np.asarray(squares.reshape(len(squares), -1).mean(axis=1))

    def area(answers: Outputs, samples: Dataset, _: Outputs) -> float:
        assert samples.labels is not None
        return metrics.area_under_curve(errors(answers, samples), samples.labels)

    def change(answers: Outputs, samples: Dataset, wanted: Outputs) -> Interval:
        assert samples.labels is not None
        return metrics.paired_area_difference(errors(wanted, samples), errors(answers, samples), samples.labels)

    return Metric("AUC", area, change=change)


def vector_metric(outputs: Outputs, data: Dataset) -> Metric | None:
    """The mean cosine of the vectors with float's, the worst output's, where all outputs are embeddings; or None.

    They are [N, D], or [N, places, D] for tokens, and neither may be class scores nor the input rebuilt.
    """
    if not all(_embeds(answers, data) for answers in outputs.values()):
        return None

    def each(answers: Outputs, samples: Dataset, wanted: Outputs) -> Rows:
        found = [cosines(wanted[name], answers[name], samples) for name in outputs]
        return min(found, key=lambda rows: float(rows.mean()))

    def mean(answers: Outputs, samples: Dataset, wanted: Outputs) -> float:
        return float(each(answers, samples, wanted).mean())

    def change(answers: Outputs, samples: Dataset, wanted: Outputs) -> Interval:
        return metrics.mean_interval(each(answers, samples, wanted) - 1)

    return Metric("cosine to float", mean, change=change, against_float=True)


def step_metric(outputs: Outputs) -> Metric | None:
    """The share of steps whose largest output is float's, where the first output is a distribution a step; or None.

    Such are [N, steps, classes]: recognisers of text and speech, taggers. The interval takes samples as independent, not steps.
    """
    first, answers = next(iter(outputs.items()))
    if answers.ndim != _STEPS or not metrics.looks_like_probabilities(answers.reshape(-1, answers.shape[-1])):
        return None

    def each(answers: Outputs, wanted: Outputs) -> Rows:
        same = answers[first].argmax(axis=-1) == wanted[first].argmax(axis=-1)
        return np.asarray(same.mean(axis=1))

    return Metric(
        "agreement a step",
        lambda answers, _, wanted: float(each(answers, wanted).mean()),
        change=lambda answers, _, wanted: metrics.mean_interval(each(answers, wanted) - 1),
        against_float=True,
    )


def _embeds(answers: NDArray[Any], data: Dataset) -> bool:
    if answers.dtype.kind != "f" or answers.ndim not in (2, 3) or answers.shape[-1] < _VECTOR:
        return False
    if metrics.looks_like_scores(answers) or any(given.shape == answers.shape for given in data.inputs.values()):
        return False
    return answers.ndim == _TOKENS or any(_tokens(given, answers) for given in data.inputs.values())


def cosines(wanted: NDArray[Any], got: NDArray[Any], samples: Dataset) -> Rows:
    """Each sample's cosine with float's answer: float64[samples].

    Vectors of tokens count as sentence embeddings do: by their mean over the places that a mask among the inputs leaves.
    """
    one, other = (each.astype(np.float64) for each in (wanted, got))
    if wanted.ndim > _TOKENS:
        real = _mask(wanted, samples)[..., None]
        one, other = (one * real).sum(axis=1), (other * real).sum(axis=1)
    lengths = np.linalg.norm(one, axis=-1) * np.linalg.norm(other, axis=-1)
    same = np.all(one == other, axis=-1)
    return np.where(same, 1.0, np.divide((one * other).sum(axis=-1), lengths, out=np.zeros_like(lengths), where=lengths > 0))


def _mask(wanted: NDArray[Any], samples: Dataset) -> NDArray[np.float64]:
    """Which places are real: an input of 0 and 1 alone, that leaves some place of each sample; else all are."""
    for given in samples.inputs.values():
        if _tokens(given, wanted) and given.min() == 0 and given.max() == 1 and given.any(axis=1).all():
            return given.astype(np.float64)
    return np.ones(wanted.shape[:2])


def _tokens(given: NDArray[Any], answers: NDArray[Any]) -> bool:
    """Whether an input holds a whole number for each of the vectors."""
    return given.dtype.kind in "iu" and given.shape == answers.shape[:2]
