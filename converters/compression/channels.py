"""Structured pruning: whole channels go along with all that depends on them, and what is left learns to do without.

torch-pruning finds the dependencies. Layers that make an output keep their size, so the model answers in the same shapes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from converters.compression import toolkit
from converters.compression.objective import Objective
from converters.compression.recipes import PruneRecipe, Schedule
from converters.compression.training import Fitted, Trainer, first_line, flat
from converters.errors import RecipeFailed

if TYPE_CHECKING:
    import torch

_ROUNDS: Final = 3
"""Channels go in so many rounds, with training in between: what is left can take over."""
_TRACED: Final = 2
"""Samples with which dependencies are traced."""


def prune_channels(module: torch.nn.Module, recipe: PruneRecipe, trainer: Trainer, objective: Objective) -> tuple[Fitted, str]:
    """Prune and fine-tune `module` in place; how the training went, and what went, for people.

    Raises `RecipeFailed` where nothing can be pruned, or the pruned module does not run.
    """
    before = _size(module)
    pruner = _pruner(module, recipe, trainer)
    fits = []
    for schedule, share in _parts(recipe.schedule):
        _step(pruner, module, trainer)
        fits.append(trainer.fit(module.train(), objective, schedule, share=share))
    after = _size(module)
    if after == before:
        raise RecipeFailed(f"cannot be pruned by {recipe.amount:.0%}: no layer has channels to spare")
    note = f"{before[0] - after[0]} of {before[0]} channels went, and {1 - after[1] / before[1]:.0%} of {before[1]} parameters"
    return Fitted(sum(fit.epochs for fit in fits), recipe.schedule.epochs, fits[-1].loss), note


def _parts(schedule: Schedule) -> Iterator[tuple[Schedule, float]]:
    """The training after each round: short ones first, then half of all."""
    rounds = min(_ROUNDS, schedule.epochs)
    early = schedule.epochs // (2 * (rounds - 1)) if rounds > 1 else 0
    for at in range(rounds):
        epochs = max(1, early) if at < rounds - 1 else schedule.epochs - (rounds - 1) * max(1, early)
        yield replace(schedule, epochs=epochs), epochs / schedule.epochs


def _pruner(module: torch.nn.Module, recipe: PruneRecipe, trainer: Trainer) -> torch.nn.Module:
    pruning = toolkit.torch_pruning()
    example = trainer.some(_TRACED)
    module.eval()
    try:
        return pruning.pruner.BasePruner(
            module,
            example,
            importance=pruning.importance.GroupMagnitudeImportance(p=2),
            pruning_ratio=recipe.amount,
            iterative_steps=min(_ROUNDS, recipe.schedule.epochs),
            round_to=recipe.multiple,
            ignored_layers=last_layers(module, example),
        )
    except Exception as error:  # torch-pruning raises whatever its tracing meets
        raise RecipeFailed(f"cannot be pruned: {first_line(error)}") from error


def _step(pruner: torch.nn.Module, module: torch.nn.Module, trainer: Trainer) -> None:
    torch = toolkit.torch()
    example = trainer.some(_TRACED)
    try:
        with torch.no_grad():
            before = [values.shape for values in flat(module.eval()(*example))]
        pruner.step()
        with torch.no_grad():
            after = [values.shape for values in flat(module(*example))]
    except Exception as error:  # torch-pruning raises whatever a layer that it does not know breaks
        raise RecipeFailed(f"cannot be pruned: {first_line(error)}") from error
    if before != after:
        raise RecipeFailed(f"cannot be pruned: it would answer in the shapes {after} instead of {before}")


def last_layers(module: torch.nn.Module, example: tuple[torch.Tensor, ...]) -> list[torch.nn.Module]:
    """The layers with weights behind which no other such layer comes: their channels are the model's outputs."""
    layers = {id(each.weight): each for each in module.modules() if _is_layer(each)}
    todo = [answer.grad_fn for answer in flat(module(*example)) if answer.grad_fn is not None]
    found: dict[int, torch.nn.Module] = {}
    seen = set()
    while todo:
        step = todo.pop()
        if step in seen:
            continue
        seen.add(step)
        layer = next((layers[each] for each in _parameters_of(step) if each in layers), None)
        if layer is not None:
            found[id(layer)] = layer
        else:
            todo += [before for before, _ in step.next_functions if before is not None]
    return list(found.values())


def _is_layer(module: torch.nn.Module) -> bool:
    """Has outputs that can be pruned: a matrix of weights, and not one scale a channel as a normalisation has."""
    weight = getattr(module, "weight", None)
    return weight is not None and weight.dim() >= 2


def _parameters_of(step: object) -> Iterator[int]:
    """The parameters that a step of the computation takes, turned or as they are."""
    for before, _ in getattr(step, "next_functions", ()):
        if before is None:
            continue
        if hasattr(before, "variable"):
            yield id(before.variable)
        elif type(before).__name__ in ("TBackward0", "TransposeBackward0", "PermuteBackward0"):
            yield from _parameters_of(before)


def _size(module: torch.nn.Module) -> tuple[int, int]:
    """Channels of all layers, and parameters."""
    channels = sum(int(each.weight.shape[0]) for each in module.modules() if _is_layer(each))
    return channels, sum(each.numel() for each in module.parameters())
