"""Unstructured and N:M pruning: the smallest weights become zero at once, and stay zero while the others are fine-tuned.

The tensors keep their shapes, so engines of dense arithmetic compute the zeros too: only the packed file is smaller.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from converters.compression import toolkit
from converters.compression.masks import Mask, Weights, magnitude_mask, n_m_mask
from converters.compression.objective import Objective
from converters.compression.recipes import NMPruneRecipe, SparseRecipe
from converters.compression.training import Fitted, Trainer
from converters.errors import RecipeFailed

if TYPE_CHECKING:
    import torch

_SMALLEST: Final = 256
"""Layers with fewer weights are left whole: their zeros would save nothing and cost much."""


@dataclass(frozen=True)
class _Masked:
    weight: torch.nn.Parameter
    mask: torch.Tensor

    def apply(self) -> None:
        """Make zero what shall be zero."""
        with toolkit.torch().no_grad():
            self.weight.mul_(self.mask)


def make_sparse(
    module: torch.nn.Module, recipe: SparseRecipe | NMPruneRecipe, trainer: Trainer, objective: Objective
) -> tuple[Fitted, str]:
    """Make `module` sparse in place and fine-tune it; how the training went, and what became zero, for people.

    Raises `RecipeFailed` where no layer is large enough.
    """
    masked = _masks(module, recipe)
    if not masked:
        raise RecipeFailed("cannot be made sparse: no layer is large enough for the pattern")

    def hold() -> None:
        for each in masked:
            each.apply()

    hold()
    fitted = trainer.fit(module.train(), objective, recipe.schedule, after_step=hold)
    zeros = sum(int((each.mask == 0).sum()) for each in masked)
    of = sum(each.numel() for each in module.parameters())
    return (
        fitted,
        f"{zeros} of {of} parameters in {len(masked)} layers are zero; engines compute zeros as fast as other numbers",
    )


def _masks(module: torch.nn.Module, recipe: SparseRecipe | NMPruneRecipe) -> list[_Masked]:
    torch = toolkit.torch()
    kinds = (torch.nn.Linear, torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)
    found = []
    for layer in module.modules():
        if isinstance(layer, kinds) and layer.weight.numel() >= _SMALLEST:
            mask = _mask(layer.weight.detach().numpy(), recipe)
            if mask is not None:
                found.append(_Masked(layer.weight, torch.from_numpy(mask).to(layer.weight.dtype)))
    return found


def _mask(weights: Weights, recipe: SparseRecipe | NMPruneRecipe) -> Mask | None:
    if isinstance(recipe, NMPruneRecipe):
        return n_m_mask(weights, recipe.n, recipe.m)
    return magnitude_mask(weights, recipe.amount)
