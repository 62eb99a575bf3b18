"""Carries out one recipe: a copy of the given module in, a `Trained` ONNX model out, proved to be what was trained.

It knows the kinds of recipes and who carries each out; what training is, and what the results are worth, others know.
"""

from __future__ import annotations

import copy
import hashlib
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import onnx

from converters.compression.channels import prune_channels
from converters.compression.objective import Form, Objective, blend_of
from converters.compression.opening import open_student
from converters.compression.qat import fit_quantized
from converters.compression.recipes import DistilRecipe, PruneRecipe, QatRecipe, TrainingRecipe
from converters.compression.shelf import Shelf
from converters.compression.sparsity import make_sparse
from converters.compression.students import distil
from converters.compression.training import Fitted, Told, Trainer, deterministic, first_line
from converters.data.calibration import Dataset
from converters.errors import RecipeFailed, SourceRejected
from converters.judging.evaluation import Outputs
from converters.sources import SAMPLES, Source, Trust, read_source
from converters.sources.matching import rename
from converters.trained import Trained
from fleet_protocol.digests import digest_of

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class Order:
    """What all recipes of one command have in common. `wanted` are the given model's answers to the training samples."""

    module: torch.nn.Module
    given: Source
    train: Dataset
    wanted: Outputs
    form: Form
    seed: int
    weight_bits: int
    seconds: float | None
    """For each recipe's training; None: as long as it takes."""
    threads: int
    tools: Mapping[str, str]
    remark: str = ""
    """What people should know about the data, beside each result."""


def work_off(recipe: TrainingRecipe, order: Order, shelf: Shelf, told: Told) -> Trained:
    """What the recipe makes of the given module; taken from the shelf where it was made before.

    A recipe that does not fit the module has its fault told in the result. Raises `TrainingFailed`, `SourceRejected` (a student
    that cannot be built), `SettingsRejected` (a missing package), `BundleUnwritable`.
    """
    with deterministic(order.seed, order.threads):
        student = _student(recipe, order) if isinstance(recipe, DistilRecipe) else None
        about = _about(recipe, order, student)
        known = shelf.find(recipe.name, about)
        if known is not None:
            told("trained before", 1.0)
            return known
        choices = {**recipe.choices(), **recipe.schedule.choices(), "seed": str(order.seed), "train": order.train.digest}
        try:
            fitted, note, model = _make(recipe, order, student, told)
        except RecipeFailed as error:
            return Trained(name=recipe.name, choices=choices, model=None, fault=str(error))
    note = "; ".join([note, fitted.describe(len(order.train)), *([order.remark] if order.remark else [])])
    made = Trained(name=recipe.name, choices=choices, model=model, note=note, integers_only=isinstance(recipe, QatRecipe))
    shelf.put(made, about)
    return made


def _student(recipe: DistilRecipe, order: Order) -> torch.nn.Module:
    names = [value.name for value in order.given.model.graph.input]
    return open_student(recipe.student, recipe.state, {name: order.train.inputs[name][:SAMPLES] for name in names})


def _make(
    recipe: TrainingRecipe, order: Order, student: torch.nn.Module | None, told: Told
) -> tuple[Fitted, str, onnx.ModelProto]:
    names = [value.name for value in order.given.model.graph.input]
    trainer = Trainer(order.train, names, seed=order.seed, seconds=order.seconds, told=told)
    blend = blend_of(recipe, labelled=order.train.labels is not None)
    objective = Objective(order.wanted, order.train.labels, order.form, blend)
    module = student if student is not None else _copy(order.module)
    if isinstance(recipe, DistilRecipe):
        fitted, note = distil(module, order.module, recipe, trainer, objective)
    elif isinstance(recipe, PruneRecipe):
        fitted, note = prune_channels(module, recipe, trainer, objective)
    elif isinstance(recipe, QatRecipe):
        fitted, note = fit_quantized(module, recipe, trainer, objective, weight_bits=order.weight_bits)
    else:
        fitted, note = make_sparse(module, recipe, trainer, objective)
    return fitted, note, _exported(module, order)


def _copy(module: torch.nn.Module) -> torch.nn.Module:
    try:
        return copy.deepcopy(module)
    except Exception as error:  # what a user's module holds may refuse in its own way
        raise RecipeFailed(f"cannot be trained: a copy of the module cannot be made: {first_line(error)}") from error


def _exported(module: torch.nn.Module, order: Order) -> onnx.ModelProto:
    """As ONNX, which answers as the module does, under the given model's names. Raises `RecipeFailed`."""
    samples = {name: values[:SAMPLES] for name, values in order.train.inputs.items()}
    try:
        with tempfile.TemporaryDirectory(prefix="edgeward-compress-") as work:
            made = read_source(module.eval(), lambda: samples, Path(work), Trust()).model
    except SourceRejected as error:
        raise RecipeFailed(f"cannot be turned into ONNX: {first_line(error)}") from error
    outputs = [[value.name for value in model.graph.output] for model in (made, order.given.model)]
    rename(made, dict(zip(*outputs, strict=True)))
    return made


def _about(recipe: TrainingRecipe, order: Order, student: torch.nn.Module | None) -> str:
    """Everything that the result depends on, in short."""
    parts = [order.given.digest, order.train.digest, repr(recipe), "" if student is None else _digest(student)]
    parts += [str(order.seed), str(order.weight_bits), str(order.seconds), str(order.threads), order.remark]
    parts += [f"{name} {version}" for name, version in sorted(order.tools.items())]
    return digest_of("\n".join(parts).encode())


def _digest(module: torch.nn.Module) -> str:
    """Of a module's structure and weights."""
    state = hashlib.sha256(str(module).encode())
    for name, values in module.state_dict().items():
        state.update(f"{name} {tuple(values.shape)}".encode())
        state.update(values.contiguous().numpy().tobytes())
    return state.hexdigest()
