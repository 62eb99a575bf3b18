"""`edgeward inspect`: shows what a bundle's manifest says, after every file was verified against it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click
import msgspec
from rich.markup import escape

from edgeward import terminal
from fleet_io.bundle_directory import Bundle, open_bundle
from fleet_protocol.manifest import Accuracy, Manifest, Variant
from fleet_protocol.processing import Step, step_name


@click.command("inspect", short_help="Show what is in a bundle.")
@click.argument("bundle", type=click.Path(path_type=Path))
@terminal.json_option
def command(*, bundle: Path, as_json: bool) -> None:
    """Show what is in the directory BUNDLE: its release, inputs and outputs, variants, golden samples and origin.

    \b
    Examples:
      edgeward inspect digits-1.0.0
      edgeward inspect digits-1.0.0 --json
    """
    opened = open_bundle(bundle)
    if as_json:
        terminal.print_json({"bundle": str(bundle), "digest": opened.digest, "manifest": opened.manifest})
    else:
        _show(opened)


def _show(bundle: Bundle) -> None:
    manifest = bundle.manifest
    columns = ("variant", "precision", "accuracy", "size", "least SQNR", "least agreement")
    rows = [_row(variant) for variant in manifest.variants]
    terminal.out.print(terminal.table(f"{manifest.model} {manifest.version}", columns, rows, right=columns[2:]))
    terminal.out.print("Preferred first; the last two columns are what a device's gate allows.")
    for line in _facts(manifest):
        terminal.out.print(escape(line), soft_wrap=True)
    terminal.out.print(f"Digest   {bundle.digest}", soft_wrap=True)


def _row(variant: Variant) -> tuple[str, ...]:
    tolerance = variant.tolerance
    return (
        variant.name,
        variant.precision,
        _accuracy(variant.accuracy),
        terminal.in_bytes(variant.file.size),
        f"{tolerance.min_sqnr_db:.1f} dB",
        "–" if tolerance.min_agreement is None else f"{tolerance.min_agreement:.3f}",
    )


def _accuracy(accuracy: Accuracy | None) -> str:
    if accuracy is None:
        return "–"
    return f"{accuracy.value:.4f}" if accuracy.metric == "accuracy" else f"{accuracy.value:.4g} ({accuracy.metric})"


def _processing(manifest: Manifest) -> list[str]:
    """What is made of what, and by which steps; the manifest has their settings."""
    if manifest.processing is msgspec.UNSET:
        return []
    made = [f"Makes    {each.tensor}: {_arrows(each.steps)}" for each in manifest.processing.inputs]
    return [*made, *(f"Results  {each.name}: {each.tensor} → {_arrows(each.steps)}" for each in manifest.processing.results)]


def _arrows(steps: Sequence[Step]) -> str:
    return " → ".join(map(step_name, steps))


def _facts(manifest: Manifest) -> list[str]:
    golden, lineage = manifest.golden, manifest.lineage
    labelled = "with labels" if golden.has_labels else "without labels"
    tools = ", ".join(f"{name} {version}" for name, version in sorted(lineage.tools.items()))
    return [
        f"Inputs   {', '.join(spec.describe() for spec in manifest.inputs)}",
        f"Outputs  {', '.join(spec.describe() for spec in manifest.outputs)}",
        *_processing(manifest),
        f"Golden   {golden.samples} samples {labelled}, {terminal.in_bytes(golden.file.size)}",
        f"Source   {lineage.source}",
        f"Data     {lineage.data}, seed {lineage.seed}",
        f"Tools    {tools}",
    ]
