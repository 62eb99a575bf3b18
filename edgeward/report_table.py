"""What came of a conversion, for a person or as JSON: a table of variants, the choice, where to read more. Decides nothing."""

from __future__ import annotations

from pathlib import Path

from rich.markup import escape

import converters
from converters.report.explain import explanation
from converters.report.parity import ParityReport, Timing, VariantReport
from edgeward import terminal


def show(bundle: converters.Bundle, out: Path, *, explain: bool, as_json: bool) -> None:
    """Print what stands in a new bundle's report. `explain` adds why each choice was made."""
    report, timing = converters.read_report(bundle), converters.read_timing(bundle)
    if as_json:
        terminal.print_json({"bundle": str(out), "digest": bundle.digest, "report": report, "timing": timing})
        return
    _show(out, bundle.digest, report, timing)
    if explain:
        _explain(report, timing)


def _show(out: Path, digest: str, report: ParityReport, timing: Timing | None) -> None:
    for warning in report.warnings:
        terminal.err.print(f"[bold red]Warning:[/] {escape(warning)}")
    columns = ("variant", "ships", "accuracy", "change", "size", "÷ float", "latency", "÷ float")
    rows = [_row(variant, timing) for variant in report.variants]
    terminal.out.print(terminal.table(f"{report.model} {report.version}", columns, rows, right=columns[2:]))
    terminal.out.print(escape(report.preferred_because))
    terminal.out.print(f"Bundle: {escape(str(out))}  {digest}", soft_wrap=True)
    terminal.out.print(f"Report: {escape(str(out / 'parity.html'))}", soft_wrap=True)


def _explain(report: ParityReport, timing: Timing | None) -> None:
    """Every decision and what it was made from."""
    for line in explanation(report, timing):
        terminal.out.print(f"• {escape(line)}")


def _row(variant: VariantReport, timing: Timing | None) -> tuple[str, ...]:
    measured = None if timing is None else timing.variants.get(variant.name)
    return (
        variant.name,
        "yes" if variant.shipped else "no",
        _quality(variant),
        _change(variant),
        "–" if variant.size is None else terminal.in_bytes(variant.size),
        "–" if variant.size_ratio is None else f"{variant.size_ratio:.2f}",
        terminal.in_time(None if measured is None else measured.seconds),
        "–" if measured is None else f"{measured.ratio_to_float:.2f}",
    )


def _quality(variant: VariantReport) -> str:
    if variant.score is not None:
        return f"{variant.score.metric} {variant.score.value:.4f}"
    return "–" if variant.accuracy is None else f"{variant.accuracy.value:.4f}"


def _change(variant: VariantReport) -> str:
    if variant.score is not None:
        return f"{variant.score.change:+.4f}"
    return "–" if variant.accuracy is None else f"{variant.accuracy.change * 100:+.2f} pt"
