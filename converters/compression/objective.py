"""What a model in training is pulled towards: the given model's answers, and the labels where they are known.

A first output that tells the class is learned by cross-entropy with the labels and by the divergence from the given model's
softened answers; every other output by its squared distance, over the spread of that output. So data without labels trains too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
from numpy.typing import NDArray

from converters.compression import toolkit
from converters.compression.recipes import TrainingRecipe
from converters.errors import RecipeFailed
from converters.judging.evaluation import Outputs
from converters.judging.metrics import looks_like_probabilities

if TYPE_CHECKING:
    import torch

Form = Literal["probabilities", "scores", "values"]

_LEAST: Final = 1e-9
"""Probabilities below have no logarithm worth learning."""
_TEMPERATURE: Final = 2.0
_SOFT: Final = 0.5
"""How the given model's answers and the labels share the loss, where a recipe does not say."""


def form_of(first: NDArray[np.generic], *, classes: bool) -> Form:
    """How the first output is learned. `classes`: it tells the class. Raises `RecipeFailed`: nothing flows back through it."""
    if first.dtype.kind != "f":
        raise RecipeFailed("cannot be trained: the model answers whole numbers, through which no training reaches its weights")
    if looks_like_probabilities(first):
        return "probabilities"
    return "scores" if classes and first.ndim == 2 else "values"


@dataclass(frozen=True)
class Blend:
    """How labels and the given model's answers share the loss."""

    temperature: float = _TEMPERATURE
    soft: float = _SOFT


def blend_of(recipe: TrainingRecipe, *, labelled: bool) -> Blend:
    """What the recipe says; without labels, the given model has the whole say."""
    temperature, soft = getattr(recipe, "temperature", _TEMPERATURE), getattr(recipe, "soft", _SOFT)
    return Blend(temperature, soft if labelled else 1.0)


class Objective:
    """The loss of answers to some of the training samples. `wanted` are the given model's, in the order of its outputs."""

    def __init__(self, wanted: Outputs, labels: NDArray[np.int64] | None, form: Form, blend: Blend) -> None:
        torch = toolkit.torch()
        self._wanted = [torch.from_numpy(values) for values in wanted.values()]
        self._spread = [float(values.float().var(correction=0).clamp_min(1e-12)) for values in self._wanted]
        self._labels = None if labels is None else torch.from_numpy(labels)
        self._form = form
        self._blend = blend

    def loss(self, answers: Sequence[torch.Tensor], picked: torch.Tensor) -> torch.Tensor:
        """`picked` are the samples' places in the training data. Raises `RecipeFailed`: answers of another shape."""
        wanted = [values[picked] for values in self._wanted]
        if [tuple(values.shape) for values in answers] != [tuple(values.shape) for values in wanted]:
            raise RecipeFailed(
                f"answers in the shapes {[list(values.shape) for values in answers]} where the given model answers in "
                f"{[list(values.shape) for values in wanted]}"
            )
        classes = self._form != "values"
        total = self._class_loss(answers[0], wanted[0], picked) if classes else answers[0].new_zeros(())
        for at in range(1 if classes else 0, len(answers)):
            if answers[at].is_floating_point():
                total = total + (answers[at] - wanted[at]).square().mean() / self._spread[at]
        return total

    def _class_loss(self, answer: torch.Tensor, wanted: torch.Tensor, picked: torch.Tensor) -> torch.Tensor:
        functional = toolkit.torch().nn.functional
        blend = self._blend
        told, taught = self._logits(answer), self._logits(wanted)
        softened = functional.log_softmax(told / blend.temperature, dim=1)
        target = functional.log_softmax(taught / blend.temperature, dim=1)
        soft = functional.kl_div(softened, target, reduction="batchmean", log_target=True) * blend.temperature**2
        if self._labels is None:
            return soft
        return blend.soft * soft + (1 - blend.soft) * functional.cross_entropy(told, self._labels[picked])

    def _logits(self, values: torch.Tensor) -> torch.Tensor:
        return values.clamp_min(_LEAST).log() if self._form == "probabilities" else values
