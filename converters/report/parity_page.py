"""The parity report as one HTML page: self-contained, light and dark, readable on a phone. Pure: values in, text out."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Final

from converters.report import parity_sections as sections
from converters.report.parity import AccuracyReport, ParityReport, ScoreReport, Timing, VariantReport

_STYLE: Final = """
:root { color-scheme: light dark; --line: #8884; --bad: #b3261e; --good: #1f7a3a; --bar: #3b6fd4; }
@media (prefers-color-scheme: dark) { :root { --bad: #ff8a80; --good: #7ddc9b; --bar: #7aa5ff; } }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 80rem; padding: 1rem; } p { max-width: 60rem; }
h1 { font-size: 1.5rem; margin-bottom: 0; } h2 { font-size: 1.1rem; margin-top: 2rem; } p.sub { margin-top: 0; opacity: .75; }
ul.bad { border-left: 4px solid var(--bad); list-style: none; margin: 1rem 0; padding: .5rem 1rem; }
ul.bad li::before { color: var(--bad); content: "⚠ "; font-weight: bold; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; width: 100%; }
th, td { border-bottom: 1px solid var(--line); padding: .35rem .6rem; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } td.text { text-align: left; white-space: normal; min-width: 14rem; }
.no { color: var(--bad); } .yes { color: var(--good); } small { opacity: .75; }
svg { height: auto; max-width: 100%; } svg.chart { max-width: 34rem; width: 100%; }
svg text { fill: currentColor; font: 12px system-ui, sans-serif; }
code { overflow-wrap: anywhere; } h3 { font-size: 1rem; margin-bottom: .3rem; }
.samples { display: flex; flex-wrap: wrap; gap: .8rem; } figure { margin: 0; width: 8.5rem; } figcaption { line-height: 1.25; }
figure img, figure svg { background: #8882; display: block; height: 6rem; object-fit: contain; width: 100%; }
figure img { image-rendering: pixelated; }
"""


def render(report: ParityReport, timing: Timing | None, pictures: Mapping[int, str] | None = None) -> str:
    """The whole page. `timing` is of the machine that converted, `pictures` show held-out samples, where known."""
    title = f"{escape(report.model)} {escape(report.version)}"
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Parity of {title}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style></head><body>'
        f'<h1>{title}</h1><p class="sub">Parity report: every variant against the float model, on '
        f"{report.samples.held_out} held-out samples</p>"
        f"{_warnings(report)}<p><strong>{escape(report.preferred_because)}</strong></p>"
        f"{_lossless(report)}{_notes(report)}{_trained(report)}{_accuracies(report)}"
        f"{_table(report, timing)}{_left_out(report)}{sections.layers(report)}{sections.classes(report)}"
        f"{sections.worst(report, pictures or {})}{sections.nodes(report)}"
        f"{_search(timing)}{_origin(report, timing)}</body></html>\n"
    )


def _warnings(report: ParityReport) -> str:
    if not report.warnings and all(variant.shipped for variant in report.variants):
        return '<p class="yes">No bad news: every variant that was tried stayed within the budget.</p>'
    if not report.warnings:
        return '<p class="yes">No bad news, but that variants for LiteRT, which nobody asked for, were left out; see below.</p>'
    return '<ul class="bad">' + "".join(f"<li>{escape(warning)}</li>" for warning in report.warnings) + "</ul>"


def _lossless(report: ParityReport) -> str:
    return f"<p>Without loss: {escape(report.lossless)}</p>" if report.lossless else ""


def _notes(report: ParityReport) -> str:
    return "".join(f"<p>{escape(note)}</p>" for note in report.notes)


def _trained(report: ParityReport) -> str:
    if not report.trained:
        return ""
    items = "".join(f"<li>{escape(each)}</li>" for each in report.trained)
    return f"<h2>Trained from the given model</h2><ul>{items}</ul>"


def _accuracies(report: ParityReport) -> str:
    """A picture: each variant's accuracy with its 95 % interval, on one scale."""
    known = [(variant, variant.accuracy) for variant in report.variants if variant.accuracy is not None]
    if not known:
        return ""
    low = min(accuracy.low for _, accuracy in known)
    high = max(accuracy.high for _, accuracy in known)
    rows = "".join(_interval(at, variant, accuracy, low, high) for at, (variant, accuracy) in enumerate(known))
    bottom = 36 * len(known) + 14
    return (
        "<h2>Accuracy, with 95 % intervals</h2>"
        f'<svg class="chart" viewBox="0 0 360 {bottom + 6}" role="img" aria-label="Accuracy of each variant with its interval">'
        f'{rows}<text x="8" y="{bottom}">{low:.3f}</text><text x="300" y="{bottom}" text-anchor="end">{high:.3f}</text></svg>'
    )


def _interval(at: int, variant: VariantReport, accuracy: AccuracyReport, low: float, high: float) -> str:
    def x(value: float) -> float:
        return 8 + 292 * (value - low) / max(high - low, 1e-9)

    y = 36 * at + 26
    return (
        f'<text x="8" y="{y - 12}">{escape(variant.name)}</text>'
        f'<line x1="{x(accuracy.low):.1f}" x2="{x(accuracy.high):.1f}" y1="{y}" y2="{y}" stroke="var(--bar)" stroke-width="3"/>'
        f'<circle cx="{x(accuracy.value):.1f}" cy="{y}" r="6" fill="var(--bar)"/>'
        f'<text x="310" y="{y + 4}">{accuracy.value:.4f}</text>'
    )


def _table(report: ParityReport, timing: Timing | None) -> str:
    heads = (
        "Variant", "Ships", "Accuracy", "Against float", "Size", "Latency", "Changed answers", "Agreement", "SQNR",
        "On AVX2 without VNNI",
    )  # fmt: skip
    rows = "".join(_row(variant, timing) for variant in report.variants)
    head = "".join(f"<th>{head}</th>" for head in heads)
    return f'<h2>Every variant that was tried</h2><div class="wide"><table><tr>{head}</tr>{rows}</table></div>'


def _row(variant: VariantReport, timing: Timing | None) -> str:
    accuracy = variant.accuracy
    ships = '<span class="yes">yes</span>' if variant.shipped else '<span class="no">no</span>'
    cells = [
        escape(variant.name),
        ships,
        "–" if accuracy is None else f"{accuracy.value:.4f}",
        "–" if accuracy is None else _change(accuracy),
        _size(variant),
        _latency(variant, timing),
        "–" if accuracy is None else f"{accuracy.newly_wrong} wrong, {accuracy.newly_right} right",
        _agreement(variant),
        "–" if variant.sqnr_db is None else f"{variant.sqnr_db:.1f} dB",
        _saturation(variant),
    ]
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _change(accuracy: AccuracyReport) -> str:
    interval = f"{accuracy.change_low * 100:+.2f} to {accuracy.change_high * 100:+.2f}"
    return f"{accuracy.change * 100:+.2f} points<br><small>{interval}</small>"


def _score_change(score: ScoreReport) -> str:
    if score.change_low is None or score.change_high is None:
        return f"{score.change:+.4f}"
    return f"{score.change:+.4f} ({score.change_low:+.4f} to {score.change_high:+.4f})"


def _agreement(variant: VariantReport) -> str:
    if variant.score is not None:
        return f"{variant.score.metric} {variant.score.value:.4f}<br><small>{_score_change(variant.score)}</small>"
    if variant.agreement is None:
        return "–"
    if variant.agreement_low is None or variant.agreement_high is None:
        return f"{variant.agreement:.4f}"
    return f"{variant.agreement:.4f}<br><small>{variant.agreement_low:.3f} to {variant.agreement_high:.3f}</small>"


def _saturation(variant: VariantReport) -> str:
    """What the emulated check says."""
    found = variant.saturation
    if found is None:
        return "–"
    if not found.layers:
        return "the same"
    if found.accuracy is not None:
        return f"{found.accuracy:.4f}<br><small>emulated, {found.samples} samples</small>"
    if found.agreement is not None:
        return f"{found.agreement:.2%} agree<br><small>emulated, {found.samples} samples</small>"
    return f"{found.sqnr_db:.1f} dB<br><small>emulated, {found.samples} samples</small>"


def _size(variant: VariantReport) -> str:
    if variant.size is None or variant.size_ratio is None:
        return "–"
    return f"{variant.size / 1000:.1f} kB<br><small>{variant.size_ratio:.2f} × float</small>"


def _latency(variant: VariantReport, timing: Timing | None) -> str:
    measured = None if timing is None else timing.variants.get(variant.name)
    if measured is None:
        return "–"
    return f"{measured.seconds * 1e6:.0f} µs<br><small>{measured.describe()}</small>"


def _left_out(report: ParityReport) -> str:
    rows = "".join(
        f'<tr><td>{escape(variant.name)}</td><td class="text">{escape(variant.reason)}</td></tr>'
        for variant in report.variants
        if not variant.shipped
    )
    return f'<h2>Left out</h2><div class="wide"><table>{rows}</table></div>' if rows else ""


def _search(timing: Timing | None) -> str:
    if timing is None or not timing.search:
        return ""
    rows = "".join(
        f"<tr><td>{100 * trial.loss:.2f} points</td><td>{trial.sqnr_db:.1f} dB</td><td>{trial.latency:.2f} ×</td>"
        f"<td>{trial.size / 1000:.1f} kB</td>"
        f'<td class="text">{escape(", ".join(f"{name} {value}" for name, value in trial.recipe.items()))}'
        f"{f'<br><small>{escape(trial.fault)}</small>' if trial.fault else ''}"
        f"{'<br><strong>chosen</strong>' if trial.chosen else ''}</td></tr>"
        for trial in timing.search
    )
    head = "<tr><th>Loses</th><th>SQNR</th><th>Latency</th><th>Size</th><th>Recipe</th></tr>"
    return f'<h2>What the search tried</h2><div class="wide"><table>{head}{rows}</table></div>'


def _origin(report: ParityReport, timing: Timing | None) -> str:
    samples = report.samples
    tools = ", ".join(f"{name} {version}" for name, version in sorted(report.tools.items()))
    machine = "" if timing is None else f"<br>Latency measured on {escape(timing.machine)} with {escape(timing.engine)}."
    return (
        f"<h2>How to get it again</h2><p>Budget {report.budget * 100:g} points. {samples.calibration} samples calibrated, "
        f"{samples.golden} are golden, {samples.held_out} were held out; no sample is in two parts. Seed {report.seed}.<br>"
        f"Source <code>{report.source}</code><br>Data <code>{report.data}</code><br>{escape(tools)}{machine}</p>"
        f"{sections.recipes(report)}"
    )
