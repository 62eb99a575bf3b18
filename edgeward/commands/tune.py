"""`edgeward tune`: measures how a model runs best on this device, and shows what was chosen and why."""

from __future__ import annotations

from pathlib import Path
from typing import Final, get_args

import click
from rich.markup import escape

from edgeward import placement, terminal
from edgeward.numbers import Number
from runtime.tuning.measurement import tune
from runtime.tuning.readiness import make_chosen_compiled
from runtime.tuning.record import Burst, Condition, Goal, Objective, Row, Tuning

_COMPILE_S: Final = 1800.0
"""TensorRT takes minutes for a large model."""


@click.command()
@click.argument("model", metavar="BUNDLE_OR_MODEL", type=click.Path(path_type=Path))
@click.option("--seconds", type=Number(1.0, 3600.0), default=20.0, show_default=True, help="How long to measure.")
@click.option("--goal", type=click.Choice(get_args(Goal)), default="latency", show_default=True, help="What shall be least.")
@click.option(
    "--beside",
    type=click.Choice(get_args(Condition)),
    default="idle",
    show_default=True,
    help="Judge it on an idle device, or beside a process that burns one core.",
)
@click.option("--rate", type=Number(0.1, 1000.0), default=10.0, show_default=True, help="Inferences a second.")
@placement.cache_option
@click.option("--again", is_flag=True, help="Measure even where a result is known.")
@terminal.json_option
def command(
    *, model: Path, seconds: float, goal: Goal, beside: Condition, rate: float, cache: Path | None, again: bool, as_json: bool
) -> None:
    """Find the fastest way to run a bundle, or an .onnx or .tflite file, on this device.

    Tries variants, execution providers, threads, ways of waiting and optimisation levels, each beside the default, alone and
    next to a busy process. Wrong answers are out first, then what costs too much CPU time; the default stays unless another
    way is better beyond noise. The result is kept until the model, the processor or the libraries change, and so is what the
    chosen provider compiled of the model.

    \b
    Examples:
      edgeward tune digits-1.0.0
      edgeward tune model.onnx --seconds 60 --beside busy
      edgeward tune model.onnx --goal cpu --rate 1 --json
    """
    objective = Objective(goal=goal, condition=beside, rate_hz=rate)
    with terminal.stoppable(), terminal.progress("Tuning") as report:
        tuning = tune(
            model,
            seconds=seconds,
            objective=objective,
            cache=placement.directory(cache),
            again=again,
            on_progress=report,
        )
        compiled = make_chosen_compiled(model, tuning, placement.directory(cache), timeout_s=_COMPILE_S)
    if as_json:
        terminal.print_json({"objective": objective, "tuning": tuning, "compiled": compiled})
    else:
        _show(objective, tuning, compiled)


def _show(objective: Objective, tuning: Tuning, compiled: str) -> None:
    columns = ("candidate", "p50", "p95", "÷ default", "busy p50", "÷ default ", "CPU", "memory", "verdict")
    rows = [_cells(row) for row in tuning.rows]
    terminal.out.print(terminal.table(f"Wanted: {objective.describe()}", columns, rows, right=columns[1:8]))
    terminal.out.print(f"\nChosen  {escape(tuning.chosen.describe())}", soft_wrap=True)
    terminal.out.print(f"Engine  {escape(tuning.row.engine or 'unknown')}", soft_wrap=True)
    terminal.out.print(f"Why     {escape(tuning.reason)}", soft_wrap=True)
    if compiled:
        terminal.out.print(f"Kept    {escape(compiled)}", soft_wrap=True)
    if tuning.batch_gains:
        gains = ", ".join(f"{size}: {gain:.2f}×" for size, gain in tuning.batch_gains.items())
        padded = "; sequences of different lengths too" if tuning.pads else ""
        terminal.out.print(f"Batches throughput against single requests: {gains}{padded}", soft_wrap=True)
    terminal.out.print(
        f"Measured for {tuning.seconds:.0f} s. CPU is the time of one inference at {objective.rate_hz:g} a second."
    )


def _cells(row: Row) -> tuple[str, ...]:
    return (
        escape(row.candidate.describe()),
        *_times(row.idle),
        _ratio(row.idle_ratio),
        _times(row.busy)[0],
        _ratio(row.busy_ratio),
        terminal.in_time(row.cpu_s),
        "–" if row.memory_bytes is None else terminal.in_bytes(row.memory_bytes),
        escape(row.verdict),
    )


def _times(burst: Burst | None) -> tuple[str, str]:
    return (terminal.in_time(burst.p50_s), terminal.in_time(burst.p95_s)) if burst else ("–", "–")


def _ratio(ratio: float | None) -> str:
    return "–" if ratio is None else f"{ratio:.2f}"
