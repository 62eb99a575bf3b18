"""`edgeward predict`: files or tensors through a model, in this process, and what its answer rests on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import msgspec
import numpy as np
from rich.markup import escape

from edgeward import answers, placement, terminal
from edgeward.errors import FrontDoorError
from edgeward.processing_file import read_processing
from fleet_io import durable
from runtime import Model, ModelHost, inputs
from runtime.explain import RUNS, Explanation
from runtime.heat_map import draw, png
from runtime.processing import Prepared
from runtime.processing.decoding import decode
from runtime.sources import Source
from runtime.tuning.advice import AS_PUBLISHED


class ExplanationUnwritable(FrontDoorError):
    """The explanation cannot be put into that file. Name another one; the message says which."""


@click.command()
@click.argument("model", metavar="BUNDLE_OR_MODEL", type=click.Path(path_type=Path))
@click.argument("files", metavar="[INPUT]...", nargs=-1, type=click.Path(path_type=Path))
@click.option("--input", "input_file", type=click.Path(path_type=Path), help="The same as INPUT.")
@click.option("--variant", help="Variant of a bundle.  [default: the publisher's first]")
@click.option("--processing", type=click.Path(path_type=Path), help="TOML file with processing, instead of the bundle's own.")
@click.option(
    "--explain",
    "explain_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write what the answer rests on: .png over the picture, or .json with the numbers.",
)
@click.option("--target", type=click.IntRange(min=0), help="Score to explain, by its number.  [default: the highest]")
@click.option("--runs", type=click.IntRange(2, 100_000), default=RUNS, show_default=True, help="Inferences that it may take.")
@placement.options
@placement.tuned_options
@terminal.json_option
def command(
    *,
    model: Path,
    files: tuple[Path, ...],
    input_file: Path | None,
    variant: str | None,
    processing: Path | None,
    explain_file: Path | None,
    target: int | None,
    runs: int,
    provider: str | None,
    delegate: Path | None,
    tuned: bool,
    cache: Path | None,
    as_json: bool,
) -> None:
    """Run files or tensors through a bundle's variant, or an .onnx or .tflite file, and show the answer.

    INPUT is one or more pictures, WAV or other files, where the bundle (or --processing) says what becomes of them; or one
    file of tensors: .npz with an array for each input, .npy for the only one, or .json: nested lists, an object of them by
    input name, or a request of the Open Inference Protocol. A missing batch axis is added. Where `edgeward tune` has found how
    the model runs best on this device, it runs so.

    \b
    Examples:
      edgeward predict flowers-1.0.0 rose.jpg
      edgeward predict flowers-1.0.0 rose.jpg --explain why.png
      edgeward predict model.onnx cat.png dog.png --processing model.toml --json
      edgeward predict words-1.0.0 clip.wav
      edgeward predict digits-1.0.0 --input sample.npy
      edgeward predict model.onnx --input request.json --json
    """
    if target is not None and explain_file is None:
        raise click.UsageError("--target is what --explain explains; give a file with --explain.")
    given = _given(files, input_file)
    advice = placement.advice(model, variant=variant, tuned=tuned, cache=cache, provider=provider, delegate=delegate)
    if processing is not None:
        advice = advice.processed(read_processing(processing))
    source = advice.source
    opened, way = advice.load()
    host = ModelHost()
    host.activate(source.identity, opened, source.labels)
    try:
        prepared = inputs.from_files(given, opened.inputs, opened.processor)
        answer = host.infer(source.identity.model, prepared.inputs)
        results = opened.processor.results(answer.outputs, prepared.placements) if opened.processor else []
        explained = _explained(opened, prepared, target=target, runs=runs) if explain_file else None
    finally:
        host.deactivate(source.identity.model)
    if explain_file is not None and explained is not None:
        _write(explain_file, explained, given[0], prepared)
    if as_json:
        document = answers.document(source, opened, answer, results) | {"way": way}
        terminal.print_json({**document, "explanation": _numbers(explained)} if explained else document)
        return
    answers.show(source, opened, answer, results)
    if way != AS_PUBLISHED:
        terminal.err.print(f"It runs {way}", markup=False, soft_wrap=True)
    if explain_file is not None and explained is not None:
        _say(explain_file, source, explained)


def _given(files: tuple[Path, ...], input_file: Path | None) -> list[Path]:
    """The inputs, named in either way. Raises `click.UsageError` where there is none."""
    given = [*files, *([input_file] if input_file else [])]
    if not given:
        raise click.UsageError("Give an INPUT: pictures, audio or other files that the model opens, or a file of tensors.")
    return given


def _explained(opened: Model, prepared: Prepared, *, target: int | None, runs: int) -> Explanation:
    """Raises `InvalidInput` where the input is not one sample whose axes are known."""
    placement = prepared.placements[0] if prepared.placements else None
    order = opened.processor.order if opened.processor and placement else None
    frame = placement.frame if placement and order == "NF" else None
    return opened.explain(prepared.inputs, target=target, order=order, frame=frame, runs=runs)


def _write(file: Path, explained: Explanation, picture: Path, prepared: Prepared) -> None:
    """The explanation as a picture or as numbers. Raises `ExplanationUnwritable`."""
    if file.suffix.lower() == ".json":
        content = msgspec.json.encode(_numbers(explained))
    elif file.suffix.lower() == ".png" and explained.heat.ndim == 2:
        placement = prepared.placements[0] if prepared.placements else None
        blank = np.full((*explained.heat.shape, 1), 255, np.uint8)
        content = png(draw(explained.heat, decode(inputs.content_of(picture), "rgb") if placement else blank, placement))
    else:
        raise ExplanationUnwritable(
            f"{file} cannot hold this explanation: name it .json, or .png where the input is a picture."
        )
    try:
        durable.write_bytes(file, content)
    except OSError as error:
        raise ExplanationUnwritable(f"{file} cannot be written: {error.strerror or error}. Choose another file.") from error


def _numbers(explained: Explanation) -> dict[str, Any]:
    return {
        "output": explained.output,
        "target": explained.target,
        "score": explained.score,
        "runs": explained.runs,
        "heat": np.round(explained.heat.astype(np.float64), 6).tolist(),
    }


def _say(file: Path, source: Source, explained: Explanation) -> None:
    label = source.labels[explained.target] if explained.target < len(source.labels) else str(explained.target)
    highest = np.unravel_index(int(explained.heat.argmax()), explained.heat.shape)
    where = f"row {highest[0]}, column {highest[1]}" if explained.heat.ndim == 2 else f"feature {highest[0]}"
    terminal.out.print(
        f"{escape(str(file))}: {escape(explained.output)} of {escape(label)} is {explained.score:.4f}, and falls by "
        f"{explained.heat.max():.4f} where {where} is hidden ({explained.runs} runs).",
        soft_wrap=True,
    )
