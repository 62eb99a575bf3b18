"""`edgeward diff`: shows how two bundles or models differ. Decides nothing."""

from __future__ import annotations

from pathlib import Path

import click
from rich.markup import escape

from converters.report.comparison import Diff, VariantDiff, compare
from edgeward import terminal

_PATH = click.Path(path_type=Path)


@click.command("diff", short_help="Show how two bundles or models differ.")
@click.argument("first", metavar="A", type=_PATH)
@click.argument("second", metavar="B", type=_PATH)
@terminal.json_option
def command(*, first: Path, second: Path, as_json: bool) -> None:
    """Show how B differs from A: variants, sizes, accuracies, recipes, lineage, tensors, operators, and answers.

    A and B are bundles or model files. Where one of them is a bundle, both answer its golden inputs, each with its
    preferred variant, and the share of equal classes and the noise between them are shown.

    \b
    Examples:
      edgeward diff digits-1.0.0 digits-1.1.0
      edgeward diff digits.onnx digits-1.0.0 --json
    """
    found = compare(first, second)
    if as_json:
        terminal.print_json(found)
    else:
        _show(found)


def _show(found: Diff) -> None:
    if found.variants:
        columns = ("variant", "size A", "size B", "accuracy A", "accuracy B", "recipe")
        rows = [_row(variant) for variant in found.variants]
        title = f"{found.names[0]} (A), {found.names[1]} (B)"
        terminal.out.print(terminal.table(title, columns, rows, right=columns[1:5]))
    for what, (before, after) in (("Inputs", found.inputs), ("Outputs", found.outputs)):
        told = "the same" if before == after else f"{', '.join(before)}  →  {', '.join(after)}"
        terminal.out.print(escape(f"{what}: {told}"), soft_wrap=True)
    for what, pairs in (("Lineage", found.lineage), ("Operators", found.operators)):
        told = "; ".join(f"{name} {before or '–'} → {after or '–'}" for name, (before, after) in pairs.items())
        terminal.out.print(escape(f"{what}: {told or 'the same'}"), soft_wrap=True)
    terminal.out.print(_answers(found))


def _row(variant: VariantDiff) -> tuple[str, ...]:
    sizes = ["–" if size is None else terminal.in_bytes(size) for size in variant.sizes]
    accuracies = ["–" if value is None else f"{value:.4f}" for value in variant.accuracies]
    changed = ", ".join(f"{name}: {before or '–'} → {after or '–'}" for name, (before, after) in variant.recipe.items())
    return (variant.name, *sizes, *accuracies, changed or "–")


def _answers(found: Diff) -> str:
    if not found.samples:
        return "Answers: not compared; it needs a bundle's golden inputs that both take."
    same = "" if found.agreement is None else f"the same class for {found.agreement:.2%}, "
    noise = "" if found.sqnr_db is None else f"{found.sqnr_db:.1f} dB apart, "
    return f"Answers: {same}{noise}on {found.samples} golden samples."
