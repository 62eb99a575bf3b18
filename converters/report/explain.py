"""Says in sentences why a bundle is as it is: what was taken away, tried, refused, chosen, and on which figures. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from converters.report.parity import ParityReport, SearchTrial, Timing, VariantReport


def explanation(report: ParityReport, timing: Timing | None) -> list[str]:
    """One sentence or two for each decision, in the order in which they were made."""
    return list(_lines(report, timing))


def _lines(report: ParityReport, timing: Timing | None) -> Iterator[str]:
    samples = report.samples
    measure = "accuracy on their labels" if samples.labelled else "their nearness to the float model's answers"
    score = next((variant.score for variant in report.variants if variant.score is not None), None)
    measure = measure if score is None else score.metric
    yield (
        f"{samples.calibration} samples gave the ranges, {samples.golden} go to the devices, and {samples.held_out} others "
        f"judged by {measure}; the budget is {report.budget * 100:g} points."
    )
    yield report.lossless or "No channel was dead, so only names and notes were taken away."
    yield _target(report.target)
    yield from report.trained
    yield from report.notes
    for variant in report.variants:
        yield _variant(variant, timing)
    if timing is not None and timing.search:
        yield from _search(timing.search)
    yield report.preferred_because


def _target(target: str) -> str:
    if target in ("any", "avx2"):
        return f"The target is {target}: static int8 must stay right where sums of two 8-bit products are cut off at 16 bits."
    return f"The target is {target}, which adds 8-bit products in 32 bits: static int8 may use all 8 bits of its weights."


def _variant(variant: VariantReport, timing: Timing | None) -> str:
    choices = ", ".join(f"{name} {value}" for name, value in variant.recipe.items())
    verdict = "ships" if variant.shipped else f"is left out: it {variant.reason}"
    said = f"{variant.name} ({choices}) {verdict}."
    measured = None if timing is None else timing.variants.get(variant.name)
    figures = []
    if variant.accuracy is not None:
        figures.append(f"accuracy {variant.accuracy.value:.4f} ({variant.accuracy.change * 100:+.2f} points)")
    if variant.size_ratio is not None:
        figures.append(f"size {variant.size_ratio:.2f} × the given model's")
    if measured is not None:
        figures.append(f"latency {measured.describe()}")
    return " ".join([said, *([f"Measured: {', '.join(figures)}."] if figures else []), *_saturation(variant)])


def _saturation(variant: VariantReport) -> Iterator[str]:
    found = variant.saturation
    if found is None:
        return
    if not found.layers:
        yield "No sum of it can be cut off at 16 bits, whatever the input is."
        return
    figure = f"accuracy {found.accuracy:.4f}" if found.accuracy is not None else f"{found.sqnr_db} dB"
    yield f"{found.layers} of its layers can be cut off at 16 bits; emulated on {found.samples} samples: {figure}."


def _search(trials: tuple[SearchTrial, ...]) -> Iterator[str]:
    yield f"A search tried {len(trials)} static recipes on samples of its own:"
    for trial in trials:
        choices = ", ".join(f"{name} {value}" for name, value in trial.recipe.items() if name not in ("kind", "format"))
        verdict = "chosen" if trial.chosen else trial.fault or "within the budget"
        figures = f"loses {trial.loss * 100:.2f} points, {trial.sqnr_db:.1f} dB, {trial.latency:.2f} × latency"
        yield f"  {choices}: {figures}: {verdict}."
