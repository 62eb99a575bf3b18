"""Distillation: a smaller model of the user's own learns to answer as the given one does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from converters.compression.objective import Objective
from converters.compression.recipes import DistilRecipe
from converters.compression.training import Fitted, Trainer

if TYPE_CHECKING:
    import torch


def distil(
    student: torch.nn.Module, teacher: torch.nn.Module, recipe: DistilRecipe, trainer: Trainer, objective: Objective
) -> tuple[Fitted, str]:
    """Train `student` in place; how the training went, and how large it is beside the given model, for people.

    Raises `RecipeFailed` where the student does not answer as many numbers in the same shapes.
    """
    fitted = trainer.fit(student.train(), objective, recipe.schedule)
    own, given = (sum(each.numel() for each in net.parameters()) for net in (student, teacher))
    return fitted, f"a student of {own} parameters learned the answers of the given model of {given}"
