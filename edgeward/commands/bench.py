"""`edgeward bench`: measures how fast models are on this device, side by side."""

from __future__ import annotations

from pathlib import Path

import click
from rich.markup import escape

from edgeward import terminal
from edgeward.numbers import Number
from runtime.tuning.benching import Benchmark, Measured, bench


class _Numbers(click.ParamType[tuple[int, ...]]):
    """Whole numbers from 1, separated by commas."""

    name = "numbers"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """The numbers, each once, in their order."""
        if isinstance(value, tuple):
            return value
        parts = [part.strip() for part in str(value).split(",")]
        if not all(part.isdecimal() and 1 <= int(part) <= 4096 for part in parts):
            self.fail(f"{value!r} is no list of numbers from 1 to 4096, such as 1,4,16.", param, ctx)
        return tuple(dict.fromkeys(int(part) for part in parts))


@click.command()
@click.argument("models", metavar="BUNDLE_OR_MODEL...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--seconds", type=Number(0.1, 3600.0), default=10.0, show_default=True, help="How long to measure.")
@click.option("--batch", "batches", type=_Numbers(), default="1", show_default=True, help="Batch sizes, separated by commas.")
@click.option("--threads", type=_Numbers(), help="Threads of one inference, separated by commas.  [default: the engine's]")
@click.option("--variant", help="Variant of the bundles.  [default: the publisher's first]")
@click.option("--all", "every_variant", is_flag=True, help="Every variant of the bundles.")
@terminal.json_option
def command(
    *,
    models: tuple[Path, ...],
    seconds: float,
    batches: tuple[int, ...],
    threads: tuple[int, ...] | None,
    variant: str | None,
    every_variant: bool,
    as_json: bool,
) -> None:
    """Measure latency, throughput, CPU time and memory of bundles, or .onnx or .tflite files, on this device.

    Each model runs in a process of its own, and all take turns in short bursts, so that their ratios hold even where the
    device does other things. Inputs are a bundle's golden ones, or made up. To find the best settings for one model, use
    `edgeward tune`.

    \b
    Examples:
      edgeward bench digits-1.0.0
      edgeward bench digits-1.0.0 --all --batch 1,8,32
      edgeward bench old.onnx new.onnx --threads 1,2,4 --seconds 30
      edgeward bench model.tflite --json
    """
    if variant is not None and every_variant:
        raise click.UsageError("--variant and --all exclude each other.")
    with terminal.stoppable(), terminal.progress("Measuring") as report:
        measured = bench(
            models,
            variant=variant,
            every_variant=every_variant,
            threads=threads or (None,),
            batches=batches,
            seconds=seconds,
            on_progress=report,
        )
    if as_json:
        terminal.print_json(measured)
    else:
        _show(measured)
    if all(row.failure for row in measured.rows):
        raise click.exceptions.Exit(1)


def _show(measured: Benchmark) -> None:
    columns = ("model", "variant", "threads", "batch", "p50", "p95", "p99", "samples/s", "CPU", "memory", "load", "÷ first")
    rows = [_cells(row) for row in measured.rows]
    terminal.out.print(terminal.table("", columns, rows, right=columns[2:]))
    for row in measured.rows:
        if row.failure:
            what = f"{row.model} {row.variant}, batch {row.batch}"
            terminal.err.print(f"[bold red]Not measured:[/] {escape(what)}: {escape(row.failure)}", soft_wrap=True)
    terminal.out.print(
        f"{escape(measured.device.processor)}, {measured.device.cores} cores. Latency is of a batch; CPU time and ÷ first are "
        "of a sample.",
        soft_wrap=True,
    )


def _cells(row: Measured) -> tuple[str, ...]:
    times = (terminal.in_time(each) for each in (row.p50_s, row.p95_s, row.p99_s))
    return (
        escape(row.model),
        row.variant,
        "engine's" if row.threads is None else str(row.threads),
        str(row.batch),
        *times,
        "–" if row.samples_per_s is None else f"{row.samples_per_s:,.0f}",
        terminal.in_time(row.cpu_s),
        "–" if row.memory_bytes is None else terminal.in_bytes(row.memory_bytes),
        terminal.in_time(row.load_s),
        "–" if row.ratio is None else f"{row.ratio:.2f}",
    )
