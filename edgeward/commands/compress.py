"""`edgeward compress`: asks for smaller models trained from a PyTorch one, and shows what came of it. Decides nothing."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TypedDict, Unpack

import click

from converters.compression.pipeline import compress
from converters.compression.recipes import (
    DistilRecipe,
    PruneRecipe,
    QatRecipe,
    Schedule,
    SparseRecipe,
    TrainingRecipe,
    parse_nm,
)
from converters.targets import Target
from edgeward import bundle_options, terminal
from edgeward.bundle_options import PATH, SHARE
from edgeward.report_table import show


class _Asked(TypedDict):
    """The options that `converters.compress` takes by the same names."""

    model: str
    version: str
    out: Path
    budget: float
    classes: tuple[str, ...]
    state: Path | None
    trust_pickle: bool
    evaluate: Path | None
    min_accuracy: float | None
    max_regression: float
    tflite: bool
    target: Target
    minutes: float | None
    threads: int
    seed: int


class _Training(TypedDict):
    """What to train, and how."""

    prune: tuple[float, ...]
    sparse: tuple[float, ...]
    nm: tuple[str, ...]
    distil: str | None
    student_state: Path | None
    qat: bool
    epochs: int | None
    learning_rate: float | None
    batch: int | None


@click.command("compress", short_help="Train smaller models from a given one: pruned, distilled, quantization-aware.")
@click.argument("source", metavar="MODEL")
@bundle_options.given
@click.option("--train", required=True, type=PATH, help=".npz to train with: one array per input, and `label` where known.")
@click.option("--data", required=True, type=PATH, help=".npz that was not trained with: calibrates, and judges.")
@click.option("--evaluate", type=PATH, help="Another .npz to measure accuracy on, instead of a part of --data.")
@click.option("--prune", multiple=True, type=float, help="Share of channels to take away, such as 0.5; may be repeated.")
@click.option("--distil", help="A smaller model, named as MODEL is, which learns the given one's answers.")
@click.option("--student-state", type=PATH, help="State dict from which a --distil factory's module starts.")
@click.option("--qat", is_flag=True, help="Fine-tune the weights to stand 8-bit arithmetic.")
@click.option("--sparse", multiple=True, type=float, help="Share of the smallest weights to make zero; may be repeated.")
@click.option("--nm", multiple=True, help="Keep N of each M neighbouring weights, such as 2:4; may be repeated.")
@click.option("--epochs", type=int, help="Passes over the training samples for each recipe; without, each kind's own.")
@click.option("--learning-rate", type=float, help="Largest learning rate; without, each kind's own.")
@click.option("--batch", type=int, help="Samples in one step; without, 64.")
@bundle_options.minutes("Train no longer than this in all; what does not fit is shortened, and said.")
@click.option("--threads", default=1, show_default=True, help="To train with; another number may give other last digits.")
@bundle_options.release
@bundle_options.budget("Points of accuracy that a variant may lose against the given model.")
@click.option("--min-accuracy", type=SHARE, help="Refuse a given model whose own accuracy is below this share.")
@bundle_options.fleet
@click.option("--tflite", is_flag=True, help="Also make variants for LiteRT of each model.")
@bundle_options.processors
@bundle_options.seed("Of the training, and of the samples' parts.")
@click.option("--explain", is_flag=True, help="Say why each choice was made, with everything that was trained.")
@terminal.json_option
def command(
    *,
    source: str,
    train: Path,
    data: Path,
    explain: bool,
    as_json: bool,
    prune: tuple[float, ...],
    sparse: tuple[float, ...],
    nm: tuple[str, ...],
    distil: str | None,
    student_state: Path | None,
    qat: bool,
    epochs: int | None,
    learning_rate: float | None,
    batch: int | None,
    **asked: Unpack[_Asked],
) -> None:
    """Train smaller models from MODEL, and make a bundle of it and of them.

    MODEL is what `edgeward convert` takes: ONNX, Keras, SavedModel, TFLite, or PyTorch as package.module:factory.

    Each of --prune, --distil, --qat, --sparse and --nm is one training. What comes of it is quantized as `edgeward convert`
    does, held against the given model on samples that were not trained with, and ships where it stays within the budget.

    A command that was stopped goes on with the training at which it was stopped when it is given again.

    \b
    Examples:
      edgeward compress nets:build --state net.pt --train train.npz --data held-out.npz --prune 0.5 \\
          --name digits --version 1.0.0 --out digits-1.0.0
      edgeward compress digits.keras --train train.npz --data held-out.npz --prune 0.5 --distil small.keras \\
          --name digits --version 1.0.0 --out digits-1.0.0
      edgeward compress nets:build --state net.pt --train train.npz --data held-out.npz --prune 0.3 --prune 0.7 --qat \\
          --distil nets:small --minutes 30 --name digits --version 1.1.0 --out digits-1.1.0 --explain
    """
    sys.path.append(str(Path.cwd()))  # where a factory's module lies; last, so that it hides nothing of ours
    training = _Training(
        prune=prune, sparse=sparse, nm=nm, distil=distil, student_state=student_state, qat=qat, epochs=epochs,
        learning_rate=learning_rate, batch=batch,
    )  # fmt: skip
    with terminal.stoppable(), terminal.progress(f"Compressing {source}") as progress:
        bundle = compress(
            source,
            data,
            train,
            list(_recipes(training)),
            progress=progress,
            **asked,
        )
    show(bundle, asked["out"], explain=explain, as_json=as_json)


def _recipes(asked: _Training) -> Iterator[TrainingRecipe]:
    for recipe in _kinds(asked):
        own, epochs, rate, batch = recipe.schedule, asked["epochs"], asked["learning_rate"], asked["batch"]
        schedule = Schedule(
            epochs=own.epochs if epochs is None else epochs,
            learning_rate=own.learning_rate if rate is None else rate,
            batch=own.batch if batch is None else batch,
        )
        yield dataclasses.replace(recipe, schedule=schedule)


def _kinds(asked: _Training) -> Iterator[TrainingRecipe]:
    if asked["student_state"] is not None and asked["distil"] is None:
        raise click.UsageError("--student-state is for --distil, which was not given.")
    yield from (PruneRecipe(amount=amount) for amount in asked["prune"])
    if asked["distil"] is not None:
        yield DistilRecipe(student=asked["distil"], state=asked["student_state"])
    if asked["qat"]:
        yield QatRecipe()
    yield from (SparseRecipe(amount=amount) for amount in asked["sparse"])
    yield from (parse_nm(pattern) for pattern in asked["nm"])
