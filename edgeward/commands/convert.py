"""`edgeward convert`: asks the converters for a bundle, and shows what came of it. Decides nothing."""

from __future__ import annotations

from pathlib import Path
from typing import TypedDict, Unpack, get_args

import click

import converters
from converters.recipe import Preference
from converters.targets import Target
from edgeward import bundle_options, terminal
from edgeward.bundle_options import PATH, SHARE
from edgeward.processing_file import read_processing
from edgeward.report_table import show


class _Asked(TypedDict):
    """The options that `converters.convert` takes by the same names."""

    model: str
    version: str
    out: Path
    budget: float
    classes: tuple[str, ...]
    evaluate: Path | None
    min_accuracy: float | None
    max_regression: float
    prefer: Preference
    tflite: bool | None
    target: Target
    minutes: float | None
    state: Path | None
    trust_pickle: bool
    seed: int


@click.command("convert", short_help="Compress a model into a bundle: int8 beside float, with golden outputs and a report.")
@click.argument("source", metavar="MODEL")
@click.option("--data", required=True, type=PATH, help=".npz with one array per input, and `label`; or a directory.")
@click.option("--evaluate", type=PATH, help="Another .npz to measure accuracy on, instead of a part of --data.")
@bundle_options.release
@bundle_options.given
@bundle_options.budget("Points of accuracy that a variant may lose.")
@click.option("--min-accuracy", type=SHARE, help="Refuse a model whose own accuracy is below this share, such as 0.95.")
@bundle_options.fleet
@click.option(
    "--prefer",
    type=click.Choice(get_args(Preference)),
    default="auto",
    show_default=True,
    help="Variant that devices should take first; auto: the smallest arithmetic that is not slower than float.",
)
@click.option(
    "--tflite/--no-tflite",
    default=None,
    help="Make all variants for LiteRT, float and dynamic too, or none; without, int8 and weight-only int8 where possible.",
)
@bundle_options.processors
@bundle_options.minutes(
    "Search so long for the best int8 recipe; without, only where the plain one misses the budget, for a minute."
)
@click.option(
    "--processing",
    "processing_file",
    type=PATH,
    help="TOML file that says how pictures, audio, … become the model's input; the bundle carries it.",
)
@click.option("--explain", is_flag=True, help="Say why each choice was made, with every recipe that was tried.")
@bundle_options.seed("Deals the samples into their parts.")
@terminal.json_option
def command(
    *,
    source: str,
    data: Path,
    processing_file: Path | None,
    explain: bool,
    as_json: bool,
    **asked: Unpack[_Asked],
) -> None:
    """Compress MODEL into a bundle: an ONNX file, or a Keras, SavedModel, PyTorch, scikit-learn or TFLite model.

    The bundle holds the float model, static int8 and weight-only int8 variants for ONNX Runtime and LiteRT where they stay
    within the accuracy budget, golden samples for the devices' gate, a reference profile, and a parity report (open
    parity.html).

    --data must hold samples that the model was not trained with: an .npz with an array named as each input and `label` where
    known; or, with --processing, a directory of pictures, WAV or other files, in directories named after their classes. They
    are dealt into calibration, golden and held-out samples.

    \b
    Examples:
      edgeward convert digits.onnx --data digits.npz --name digits --version 1.0.0 --out digits-1.0.0
      edgeward convert digits.onnx --data digits.npz --name digits --version 1.1.0 --out digits-1.1.0 \\
          --evaluate held-out.npz --min-accuracy 0.95 --json
      edgeward convert digits.onnx --data digits.npz --name digits --version 1.2.0 --out digits-1.2.0 --tflite
      edgeward convert digits.keras --data digits.npz --name digits --version 1.3.0 --out digits-1.3.0 \\
          --for avx512-vnni --minutes 5 --explain
      edgeward convert training.net:build --state net.pt --data digits.npz --name digits --version 1.4.0 --out digits-1.4.0
      edgeward convert roses.onnx --data pictures --processing roses.toml --name roses --version 1.0.0 --out roses-1.0.0
      edgeward convert words.onnx --data clips --processing words.toml --name words --version 1.0.0 --out words-1.0.0
    """
    with terminal.stoppable(), terminal.progress(f"Converting {source}") as progress:
        bundle = converters.convert(
            source,
            data,
            processing=None if processing_file is None else read_processing(processing_file),
            progress=progress,
            **asked,
        )
    show(bundle, asked["out"], explain=explain, as_json=as_json)
