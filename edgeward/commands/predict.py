"""`edgeward predict`: one input through a model, in this process."""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
from rich.markup import escape

from edgeward import terminal
from runtime import Inference, Model, ModelHost, inputs
from runtime.sources import Source, find
from runtime.usage import looks_like_scores

_SHOWN_CLASSES = 3
_SHOWN_SAMPLES = 20


@click.command()
@click.argument("model", metavar="BUNDLE_OR_MODEL", type=click.Path(path_type=Path))
@click.option("--input", "input_file", required=True, type=click.Path(path_type=Path), help="A .npy, .npz or .json file.")
@click.option("--variant", help="Variant of a bundle.  [default: the publisher's first]")
@terminal.json_option
def command(model: Path, input_file: Path, variant: str | None, *, as_json: bool) -> None:
    """Run one input through a bundle's variant, or an .onnx or .tflite file, and show the answer.

    The input is a .npz with an array for each input, a .npy for the only one, or .json: nested lists, an object of them by
    input name, or a request of the Open Inference Protocol. A missing batch axis is added.

    \b
    Examples:
      edgeward predict digits-1.0.0 --input sample.npy
      edgeward predict model.onnx --input request.json --json
    """
    source = find(model, variant=variant)
    opened = source.load()
    host = ModelHost()
    host.activate(source.identity, opened, source.labels)
    try:
        answer = host.infer(source.identity.model, inputs.read(input_file, opened.inputs))
        if as_json:
            terminal.print_json(_document(source, opened, answer))
        else:
            _show(source, opened, answer)
    finally:
        host.deactivate(source.identity.model)


def _document(source: Source, opened: Model, answer: Inference) -> dict[str, object]:
    return {
        "model": answer.identity.model,
        "version": answer.identity.version,
        "variant": answer.identity.variant,
        "engine": opened.engine,
        "finite": answer.finite,
        "outputs": {name: array.tolist() for name, array in answer.outputs.items()},
        "predictions": [ranked[0] for ranked in _ranked(source, opened, answer)],
    }


def _ranked(source: Source, opened: Model, answer: Inference) -> list[list[dict[str, object]]]:
    """The best classes of each sample, best first; empty where the outputs are not class scores."""
    if not answer.finite or not opened.outputs or not looks_like_scores(opened.outputs[0]):
        return []
    rows = answer.outputs[opened.outputs[0].name]
    return [
        [{"class": _label(source, int(at)), "score": float(row[at])} for at in np.argsort(row)[::-1][:_SHOWN_CLASSES]]
        for row in rows
    ]


def _label(source: Source, index: int) -> str:
    return source.labels[index] if index < len(source.labels) else str(index)


def _show(source: Source, opened: Model, answer: Inference) -> None:
    identity = answer.identity
    terminal.out.print(f"[bold]{identity.model} {identity.version}[/] ({identity.variant}, {opened.engine})")
    ranked = _ranked(source, opened, answer)
    if ranked:
        columns = ("sample", *("first", "second", "third")[: len(ranked[0])])
        rows = [[at, *(f"{each['class']}  {each['score']:.4f}" for each in best)] for at, best in enumerate(ranked)]
        terminal.out.print(terminal.table("", columns, rows[:_SHOWN_SAMPLES]))
        if len(rows) > _SHOWN_SAMPLES:
            terminal.out.print(f"… and {len(rows) - _SHOWN_SAMPLES} samples more; --json shows all.")
    else:
        values = [
            (name, each.dtype.name, list(each.shape), escape(np.array2string(each))) for name, each in answer.outputs.items()
        ]
        terminal.out.print(terminal.table("", ("output", "type", "shape", "values"), values))
    if not answer.finite:
        terminal.err.print("[bold red]The answer holds NaN or infinity.[/]")
